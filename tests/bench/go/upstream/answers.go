package main

import (
	"encoding/json"
	"strings"
	"sync"
)

// wanted is all that answers differ in; counts: each event has the usage so far.
type wanted struct {
	tokens, prompt               int
	ids, logprobs, usage, counts bool
}

// answer is one as it is sent; the events end with the finish, the usage if it is wanted, and [DONE]. As many as
// `paced` of them are of choices, one for each step of an engine.
type answer struct {
	plain  []byte
	events [][]byte
	paced  int
}

// response and its parts have their keys in the order of vLLM.
type response struct {
	ID             string   `json:"id"`
	Object         string   `json:"object"`
	Created        int      `json:"created"`
	Model          string   `json:"model"`
	Choices        []choice `json:"choices"`
	Usage          *usage   `json:"usage,omitempty"`
	PromptTokenIDs []int    `json:"prompt_token_ids,omitempty"`
}

type choice struct {
	Index        int       `json:"index"`
	Message      *message  `json:"message,omitempty"`
	Delta        *message  `json:"delta,omitempty"`
	Logprobs     *logprobs `json:"logprobs"`
	FinishReason *string   `json:"finish_reason"`
	TokenIDs     []int     `json:"token_ids,omitempty"`
}

type message struct {
	Role    string `json:"role,omitempty"`
	Content string `json:"content,omitempty"`
}

type logprobs struct {
	Content []logprob `json:"content"`
}

type logprob struct {
	Token       string  `json:"token"`
	Logprob     float64 `json:"logprob"`
	Bytes       []int   `json:"bytes"`
	TopLogprobs []int   `json:"top_logprobs"`
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
}

var made sync.Map

func answerOf(one wanted) *answer {
	if found, ok := made.Load(one); ok {
		return found.(*answer)
	}
	found := &answer{plain: plain(one), events: events(one), paced: one.tokens + 1}
	made.Store(one, found)
	return found
}

func plain(one wanted) []byte {
	stop := "stop"
	said := message{Role: "assistant", Content: strings.Repeat(" tok", one.tokens)}
	choice := choice{Message: &said, Logprobs: one.logprobsOf(0, one.tokens), FinishReason: &stop}
	whole := head("chat.completion", choice)
	whole.Usage = one.used()
	if one.ids {
		whole.Choices[0].TokenIDs = numbers(5000, one.tokens)
		whole.PromptTokenIDs = numbers(1000, one.prompt)
	}
	return dump(whole)
}

func events(one wanted) [][]byte {
	var found [][]byte
	for n := 0; n < one.tokens; n++ {
		found = append(found, event(one.token(n)))
	}
	stop := "stop"
	last := choice{Delta: &message{}, FinishReason: &stop}
	found = append(found, event(head("chat.completion.chunk", last)))
	if one.usage {
		end := head("chat.completion.chunk")
		end.Usage = one.used()
		found = append(found, event(end))
	}
	return append(found, []byte("data: [DONE]\n\n"))
}

func (one wanted) token(n int) response {
	delta := message{Content: " tok"}
	chunk := head("chat.completion.chunk", choice{Delta: &delta, Logprobs: one.logprobsOf(n, n+1)})
	if one.ids {
		chunk.Choices[0].TokenIDs = numbers(5000+n, 1)
	}
	if one.counts {
		chunk.Usage = &usage{Prompt: one.prompt, Total: one.prompt + n + 1, Completion: n + 1}
	}
	if n == 0 {
		delta.Role = "assistant"
		if one.ids {
			chunk.PromptTokenIDs = numbers(1000, one.prompt)
		}
	}
	return chunk
}

// logprobsOf are numbers of single precision, as an engine computes them.
func (one wanted) logprobsOf(from, to int) *logprobs {
	if !one.logprobs {
		return nil
	}
	found := &logprobs{}
	for n := from; n < to; n++ {
		value := float64(float32(-0.5 - float64(n%7)/10))
		found.Content = append(found.Content, logprob{
			Token: " tok", Logprob: value, Bytes: []int{32, 116, 111, 107}, TopLogprobs: []int{},
		})
	}
	return found
}

func (one wanted) used() *usage {
	return &usage{Prompt: one.prompt, Total: one.prompt + one.tokens, Completion: one.tokens}
}

func head(kind string, choices ...choice) response {
	if choices == nil {
		choices = []choice{}
	}
	return response{ID: "chatcmpl-bench", Object: kind, Created: 1700000000, Model: "bench-model", Choices: choices}
}

func numbers(first, count int) []int {
	found := make([]int, count)
	for n := range found {
		found[n] = first + n
	}
	return found
}

func event(one response) []byte {
	return append(append([]byte("data: "), dump(one)...), '\n', '\n')
}

func dump(one response) []byte {
	encoded, err := json.Marshal(one)
	if err != nil {
		panic(err)
	}
	return encoded
}

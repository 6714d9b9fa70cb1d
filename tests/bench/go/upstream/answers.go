package main

import (
	"encoding/json"
	"strings"
	"sync"
)

// wanted is all that answers differ in.
type wanted struct {
	tokens, prompt       int
	ids, logprobs, usage bool
}

// answer is one as it is sent; the events end with the finish, the usage if it is wanted, and [DONE]. As many as
// `paced` of them are of choices, one for each step of an engine.
type answer struct {
	plain  []byte
	events [][]byte
	paced  int
}

type object = map[string]any

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
	choice := object{
		"index":         0,
		"finish_reason": "stop",
		"message":       object{"role": "assistant", "content": strings.Repeat(" tok", one.tokens)},
		"logprobs":      one.logprobsOf(0, one.tokens),
	}
	whole := head("chat.completion", choice)
	whole["usage"] = one.used()
	if one.ids {
		choice["token_ids"] = numbers(5000, one.tokens)
		whole["prompt_token_ids"] = numbers(1000, one.prompt)
	}
	return dump(whole)
}

func events(one wanted) [][]byte {
	var found [][]byte
	for n := 0; n < one.tokens; n++ {
		found = append(found, event(one.token(n)))
	}
	last := object{"index": 0, "delta": object{}, "finish_reason": "stop", "logprobs": nil}
	found = append(found, event(head("chat.completion.chunk", last)))
	if one.usage {
		end := head("chat.completion.chunk")
		end["usage"] = one.used()
		found = append(found, event(end))
	}
	return append(found, []byte("data: [DONE]\n\n"))
}

func (one wanted) token(n int) object {
	delta := object{"content": " tok"}
	choice := object{"index": 0, "delta": delta, "finish_reason": nil, "logprobs": one.logprobsOf(n, n+1)}
	chunk := head("chat.completion.chunk", choice)
	if one.ids {
		choice["token_ids"] = numbers(5000+n, 1)
	}
	if n == 0 {
		delta["role"] = "assistant"
		if one.ids {
			chunk["prompt_token_ids"] = numbers(1000, one.prompt)
		}
	}
	return chunk
}

func (one wanted) logprobsOf(from, to int) any {
	if !one.logprobs {
		return nil
	}
	content := []object{}
	for n := from; n < to; n++ {
		content = append(content, object{
			"token": " tok", "logprob": -0.5 - float64(n%7)/10, "bytes": []int{32, 116, 111, 107}, "top_logprobs": []int{},
		})
	}
	return object{"content": content}
}

func (one wanted) used() object {
	return object{"prompt_tokens": one.prompt, "completion_tokens": one.tokens, "total_tokens": one.prompt + one.tokens}
}

func head(kind string, choices ...object) object {
	if choices == nil {
		choices = []object{}
	}
	return object{"id": "chatcmpl-bench", "object": kind, "created": 1700000000, "model": "bench-model", "choices": choices}
}

func numbers(first, count int) []int {
	found := make([]int, count)
	for n := range found {
		found[n] = first + n
	}
	return found
}

func event(one object) []byte {
	return append(append([]byte("data: "), dump(one)...), '\n', '\n')
}

func dump(one object) []byte {
	encoded, err := json.Marshal(one)
	if err != nil {
		panic(err)
	}
	return encoded
}

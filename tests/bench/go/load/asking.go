package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
)

// asking is what calls are like. Sessions and keys are taken in an order in which neighbours are far apart, as in real
// traffic.
type asking struct {
	url            string
	stream         bool
	sessions, keys int64
	promptBytes    int
	text           string
	made           int64
	body           []byte
}

// stride has no factor in common with powers of ten.
const stride = 7919

func (asked *asking) flags() {
	flag.StringVar(&asked.url, "url", "", "where to call; %s stands for the session's id")
	flag.BoolVar(&asked.stream, "stream", false, "ask for streams")
	flag.Int64Var(&asked.sessions, "sessions", 100, "how many sessions the calls are of")
	flag.Int64Var(&asked.keys, "keys", 0, "how many keys they are made with; 0: none")
	flag.StringVar(&asked.text, "text", "", "how the user's message begins")
	flag.IntVar(&asked.promptBytes, "prompt-bytes", 512, "the length of the rest of it")
}

func (asked *asking) encode() {
	content := asked.text + strings.Repeat("hello wo", asked.promptBytes/8)
	message := map[string]string{"role": "user", "content": content}
	body := map[string]any{
		"model": "bench-model", "messages": []any{message}, "max_tokens": 64, "temperature": 1.0,
	}
	if asked.stream {
		body["stream"] = true
	}
	asked.body, _ = json.Marshal(body)
}

// next is the next call, of whichever caller.
func (asked *asking) next() (*http.Request, error) {
	number := atomic.AddInt64(&asked.made, 1) * stride
	session := fmt.Sprintf("s%d", number%asked.sessions)
	url := strings.Replace(asked.url, "%s", session, 1)
	request, err := http.NewRequest("POST", url, bytes.NewReader(asked.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("x-session-id", session)
	if asked.keys > 0 {
		request.Header.Set("authorization", fmt.Sprintf("Bearer gw-%043d", number%asked.keys))
	}
	return request, nil
}

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
	url, grpc      string
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
	flag.StringVar(&asked.grpc, "grpc", "", "host:port of gRPC to call instead; its calls are streams")
	flag.BoolVar(&asked.stream, "stream", false, "ask for streams")
	flag.Int64Var(&asked.sessions, "sessions", 100, "how many sessions the calls are of")
	flag.Int64Var(&asked.keys, "keys", 0, "how many keys they are made with; 0: none")
	flag.StringVar(&asked.text, "text", "", "how the user's message begins")
	flag.IntVar(&asked.promptBytes, "prompt-bytes", 512, "the length of the rest of it")
}

func (asked *asking) content() string {
	return asked.text + strings.Repeat("hello wo", asked.promptBytes/8)
}

func (asked *asking) encode() {
	message := map[string]string{"role": "user", "content": asked.content()}
	body := map[string]any{
		"model": "bench-model", "messages": []any{message}, "max_tokens": 64, "temperature": 1.0,
	}
	if strings.HasSuffix(asked.url, "/v1/responses") {
		body["input"] = body["messages"]
		delete(body, "messages")
		delete(body, "max_tokens")
	}
	if asked.stream {
		body["stream"] = true
	}
	asked.body, _ = json.Marshal(body)
}

// identity is the session and the key of the next call, of whichever caller; "" if there are no keys.
func (asked *asking) identity() (session, key string) {
	number := atomic.AddInt64(&asked.made, 1) * stride
	if asked.keys > 0 {
		key = fmt.Sprintf("gw-%043d", number%asked.keys)
	}
	return fmt.Sprintf("s%d", number%asked.sessions), key
}

// next is the next call.
func (asked *asking) next() (*http.Request, error) {
	session, key := asked.identity()
	url := strings.Replace(asked.url, "%s", session, 1)
	request, err := http.NewRequest("POST", url, bytes.NewReader(asked.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("x-session-id", session)
	if key != "" {
		request.Header.Set("authorization", "Bearer "+key)
	}
	return request, nil
}

package main

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"
)

func complete(to http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	found := answerOf(wanted{
		tokens:   number(body, " tokens=", 64),
		prompt:   number(body, " prompt-tokens=", 32),
		ids:      says(body, `"return_token_ids":`),
		logprobs: says(body, `"logprobs":`),
		usage:    says(body, `"include_usage":`),
		counts:   says(body, `"continuous_usage_stats":`),
	})
	if says(body, `"stream":`) {
		gap := time.Duration(number(body, " gap-us=", 0)) * time.Microsecond
		stream(to, request, found, gap)
		return
	}
	to.Header().Set("content-type", "application/json")
	to.Header().Set("content-length", strconv.Itoa(len(found.plain)))
	to.Write(found.plain)
}

// stream sends the events at the pace that is asked for, each in a write of its own, as engines do: usage and [DONE]
// follow the last choice at once.
func stream(to http.ResponseWriter, request *http.Request, found *answer, gap time.Duration) {
	to.Header().Set("content-type", "text/event-stream; charset=utf-8")
	due := time.Now()
	for n, one := range found.events {
		if _, err := to.Write(one); err != nil {
			return
		}
		to.(http.Flusher).Flush()
		due = due.Add(gap)
		if gap > 0 && n+1 < found.paced && !wait(request, due) {
			return
		}
	}
}

// wait is false where the caller goes away before the time has come.
func wait(request *http.Request, due time.Time) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-request.Context().Done():
		return false
	}
}

// says tells whether a field is true, with or without a space before its value.
func says(body []byte, field string) bool {
	_, rest, found := bytes.Cut(body, []byte(field))
	return found && bytes.HasPrefix(bytes.TrimLeft(rest, " "), []byte("true"))
}

// number is the one that follows a word, with a space after it.
func number(body []byte, word string, otherwise int) int {
	_, rest, _ := bytes.Cut(body, []byte(word))
	digits, _, _ := bytes.Cut(rest, []byte(" "))
	if found, err := strconv.Atoi(string(digits)); err == nil {
		return found
	}
	return otherwise
}

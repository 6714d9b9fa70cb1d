package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

type caller struct {
	asked  asking
	window window
	client *http.Client
}

func newCaller(asked asking, window window, callers int) *caller {
	asked.encode()
	transport := &http.Transport{MaxIdleConnsPerHost: callers, DisableCompression: true}
	return &caller{asked, window, &http.Client{Transport: transport, Timeout: 2 * time.Minute}}
}

// pause is between calls that fail, so that a dead server is not asked as fast as it can refuse.
const pause = 10 * time.Millisecond

// call makes one, and adds to the caller's tally how it went.
func (one *caller) call(_ int, to *tally) {
	begun := time.Now()
	request, err := one.asked.next()
	var response *http.Response
	if err == nil {
		response, err = one.client.Do(request)
	}
	if err == nil {
		defer response.Body.Close()
		err = one.read(response, begun, to)
	}
	if err != nil {
		to.failed(err)
		time.Sleep(pause)
		return
	}
	to.ended(begun, time.Now(), one.window)
}

func (one *caller) read(response *http.Response, begun time.Time, to *tally) error {
	if response.StatusCode != 200 {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("%d %s", response.StatusCode, said)
	}
	if one.asked.stream {
		return one.readEvents(response.Body, begun, to)
	}
	_, err := io.Copy(io.Discard, response.Body)
	return err
}

func (one *caller) readEvents(body io.Reader, begun time.Time, to *tally) error {
	lines := bufio.NewReaderSize(body, 64<<10)
	var last time.Time
	done := false
	for {
		line, err := lines.ReadSlice('\n')
		if bytes.HasPrefix(line, []byte("data:")) {
			now := time.Now()
			to.note(begun, last, now, one.window, 1)
			last = now
			done = bytes.Contains(line, []byte("[DONE]")) || bytes.Contains(line, []byte("message_stop")) ||
				bytes.Contains(line, []byte("response.completed"))
		}
		switch {
		case err == nil || err == bufio.ErrBufferFull:
		case err == io.EOF && done:
			return nil
		case err == io.EOF:
			return errors.New("a stream ended without [DONE], message_stop or response.completed")
		default:
			return err
		}
	}
}

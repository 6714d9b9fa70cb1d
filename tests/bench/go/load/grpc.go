package main

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// grpcPath is the method that streams; the worker's text is what tells how many tokens a message has.
const grpcPath = "/llm.v1.LlmService/ChatCompletionStream"

const tokenText = " tok"

// perConnection is how many callers share a connection, as the callers of one channel do.
const perConnection = 100

// Fields of a request, of a message of text, and of the last message: their numbers and wire types.
const (
	modelField, promptField, maxTokensField = 2<<3 | 2, 4<<3 | 2, 7 << 3
	textField, finishField                  = 1<<3 | 2, 2<<3 | 2
)

// grpcCaller makes calls of gRPC, over connections that it opens when the first caller of each comes.
type grpcCaller struct {
	asked       *asking
	address     string
	window      window
	lock        sync.Mutex
	connections map[int]*connection
	body        []byte
}

func newGrpcCaller(asked *asking, address string, window window) *grpcCaller {
	content := asked.content()
	message := appendText(nil, modelField, "bench-model")
	message = append(appendText(message, promptField, content), maxTokensField, 64)
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return &grpcCaller{
		asked: asked, address: address, window: window,
		connections: map[int]*connection{}, body: append(body, message...),
	}
}

func appendText(to []byte, field byte, text string) []byte {
	return append(binary.AppendUvarint(append(to, field), uint64(len(text))), text...)
}

func (one *grpcCaller) connectionOf(caller int) (*connection, error) {
	one.lock.Lock()
	defer one.lock.Unlock()
	number := caller / perConnection
	found := one.connections[number]
	if found != nil && found.failed == nil {
		return found, nil
	}
	made, err := dial(one.address)
	if err == nil {
		one.connections[number] = made
	}
	return made, err
}

// headers are literals that are in no table: RFC 7541, section 6.2.2.
func (one *grpcCaller) headers() []byte {
	session, key := one.asked.identity()
	lines := []string{
		":method", "POST", ":scheme", "http", ":path", grpcPath, ":authority", "bench",
		"content-type", "application/grpc", "te", "trailers", "x-session-id", session,
	}
	if key != "" {
		lines = append(lines, "authorization", "Bearer "+key)
	}
	var block []byte
	for n := 0; n < len(lines); n += 2 {
		block = append(append(block, 0, byte(len(lines[n]))), lines[n]...)
		block = append(append(block, byte(len(lines[n+1]))), lines[n+1]...)
	}
	return block
}

// call makes one, and adds to the caller's tally how it went.
func (one *grpcCaller) call(caller int, to *tally) {
	begun := time.Now()
	reading := &grpcReading{begun: begun, window: one.window, to: to}
	connection, err := one.connectionOf(caller)
	if err == nil {
		stream := &stream{data: reading.add, done: make(chan error, 1)}
		if err = connection.request(one.headers(), one.body, stream); err == nil {
			err = <-stream.done
		}
	}
	if err == nil && !reading.finished {
		err = errors.New("a call ended without a finish reason")
	}
	if err != nil {
		to.failed(err)
		time.Sleep(pause)
		return
	}
	to.ended(begun, time.Now(), one.window)
}

// grpcReading takes the messages of one call out of what comes.
type grpcReading struct {
	begun, last time.Time
	window      window
	to          *tally
	rest        []byte
	finished    bool
}

func (one *grpcReading) add(part []byte, at time.Time) {
	one.rest = append(one.rest, part...)
	for len(one.rest) >= 5 {
		end := 5 + int(binary.BigEndian.Uint32(one.rest[1:]))
		if len(one.rest) < end {
			return
		}
		one.message(one.rest[5:end], at)
		one.rest = one.rest[end:]
	}
}

func (one *grpcReading) message(message []byte, at time.Time) {
	switch {
	case len(message) == 0:
	case message[0] == finishField:
		one.finished = true
	case message[0] == textField:
		size, _ := binary.Uvarint(message[1:])
		one.to.note(one.begun, one.last, at, one.window, int(size)/len(tokenText))
		one.last = at
	}
}

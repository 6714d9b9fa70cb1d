package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Types and flags of frames, see RFC 9113, section 6.
const (
	dataFrame, headersFrame, resetFrame, settingsFrame = 0, 1, 3, 4
	pingFrame, goAwayFrame, windowFrame                = 6, 7, 8

	endStream, endHeaders, ack = 1, 4, 1
)

// preface begins a connection: windows so large that they are never used up here, so none is ever enlarged.
var preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
	"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x04\x7f\xff\xff\xff" +
	"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + "\x7f\xff\x00\x00"

var errClosed = errors.New("the connection was closed")

// stream is one request of a connection: `data` gets what comes of its response, in the goroutine of the connection.
type stream struct {
	data func(part []byte, at time.Time)
	done chan error
}

// connection is one of HTTP/2, as far as a load needs it: response headers are not read.
type connection struct {
	socket net.Conn
	lock   sync.Mutex
	open   map[uint32]*stream
	next   uint32
	failed error
}

func dial(address string) (*connection, error) {
	socket, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	one := &connection{socket: socket, open: map[uint32]*stream{}, next: 1}
	if _, err = io.WriteString(socket, preface); err != nil {
		return nil, err
	}
	go one.read()
	return one, nil
}

// request sends one whole; the result comes through the channel of `to`.
func (one *connection) request(block, body []byte, to *stream) error {
	one.lock.Lock()
	defer one.lock.Unlock()
	if one.failed != nil {
		return one.failed
	}
	id := one.next
	one.next += 2
	one.open[id] = to
	frames := frame(nil, headersFrame, endHeaders, id, block)
	_, err := one.socket.Write(frame(frames, dataFrame, endStream, id, body))
	return err
}

func frame(to []byte, kind, flags byte, id uint32, payload []byte) []byte {
	size := len(payload)
	to = append(to, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return append(binary.BigEndian.AppendUint32(to, id), payload...)
}

func (one *connection) read() {
	from := bufio.NewReaderSize(one.socket, 256<<10)
	head := make([]byte, 9)
	var err error
	for err == nil {
		if _, err = io.ReadFull(from, head); err == nil {
			payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			if _, err = io.ReadFull(from, payload); err == nil {
				err = one.take(head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload)
			}
		}
	}
	one.fail(err)
}

func (one *connection) take(kind, flags byte, id uint32, payload []byte) error {
	switch {
	case kind == dataFrame:
		if to := one.find(id, flags&endStream != 0); to != nil {
			to.data(payload, time.Now())
			if flags&endStream != 0 {
				to.done <- nil
			}
		}
	case kind == headersFrame && flags&endStream != 0:
		if to := one.find(id, true); to != nil {
			to.done <- nil
		}
	case kind == resetFrame:
		if to := one.find(id, true); to != nil {
			to.done <- errors.New("the stream was reset")
		}
	case kind == goAwayFrame:
		return errClosed
	case (kind == settingsFrame || kind == pingFrame) && flags&ack == 0:
		if kind == settingsFrame {
			payload = nil
		}
		one.lock.Lock()
		defer one.lock.Unlock()
		_, err := one.socket.Write(frame(nil, kind, ack, 0, payload))
		return err
	}
	return nil
}

func (one *connection) find(id uint32, ended bool) *stream {
	one.lock.Lock()
	defer one.lock.Unlock()
	found := one.open[id]
	if ended {
		delete(one.open, id)
	}
	return found
}

func (one *connection) fail(err error) {
	one.lock.Lock()
	defer one.lock.Unlock()
	one.failed = err
	one.socket.Close()
	for id, to := range one.open {
		delete(one.open, id)
		to.done <- err
	}
}

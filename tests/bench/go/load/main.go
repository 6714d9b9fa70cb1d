// load makes calls to a server with OpenAI's API, so many at a time, and tells how they went.
//
//	load -url http://127.0.0.1:9090/v1/chat/completions -callers 32 -warm 1s -for 4s [-stream]
//	load -grpc 127.0.0.1:50052 -callers 32 -warm 1s -for 4s
//
// It prints the line "begin" when the warm-up is over, the line "end" when the time is, and then one JSON object (see
// report). Each caller makes one call after the other; the callers begin one by one over the time -spread.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

func main() {
	var asked asking
	callers := flag.Int("callers", 32, "calls at a time")
	warm := flag.Duration("warm", time.Second, "how long nothing is counted")
	counted := flag.Duration("for", 4*time.Second, "how long it is, after that")
	spread := flag.Duration("spread", 0, "the time over which the callers begin")
	asked.flags()
	flag.Parse()
	debug.SetGCPercent(400)

	begun := time.Now()
	window := window{begun.Add(*warm), begun.Add(*warm + *counted)}
	client := clientOf(&asked, window, *callers)
	tallies := make([]tally, *callers)
	var running sync.WaitGroup
	for n := range tallies {
		running.Add(1)
		first := begun.Add(*spread * time.Duration(n) / time.Duration(*callers))
		go func(n int, one *tally) {
			defer running.Done()
			time.Sleep(time.Until(first))
			for time.Now().Before(window.end) {
				client.call(n, one)
			}
		}(n, &tallies[n])
	}
	tell("begin", window.begin)
	tell("end", window.end)
	running.Wait()
	json.NewEncoder(os.Stdout).Encode(reportOf(tallies, *counted))
}

// calling makes one call after the other.
type calling interface{ call(caller int, to *tally) }

func clientOf(asked *asking, window window, callers int) calling {
	if asked.grpc != "" {
		return newGrpcCaller(asked, asked.grpc, window)
	}
	return newCaller(*asked, window, callers)
}

func tell(word string, at time.Time) {
	time.Sleep(time.Until(at))
	fmt.Println(word)
}

// upstream stands in for a vLLM server while gateways are measured: it answers chat completions as vLLM does, plain and
// streamed, from bytes that are made once, so that whatever stands before it is what is measured.
//
//	upstream [-hosts 1] [-port 0]
//
// It prints its port, which it listens on at so many addresses: 127.0.0.1, 127.0.0.2 and so on. A call says in its text
// what it is answered, for not every gateway passes headers on: " tokens=64 prompt-tokens=32 gap-us=0 ", the last of
// which are the microseconds between the tokens of a stream (0: as fast as they go).
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime/debug"
)

const models = `{"object":"list","data":[{"id":"bench-model","object":"model","created":1700000000,"owned_by":"bench"}]}`

func main() {
	hosts := flag.Int("hosts", 1, "how many addresses to listen on, each as a worker of its own")
	port := flag.Int("port", 0, "the port to listen on; 0: any")
	flag.Parse()
	debug.SetGCPercent(400)
	listeners, err := listen(*hosts, *port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listeners[0].Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: routes()}
	for _, one := range listeners[1:] {
		go server.Serve(one)
	}
	log.Fatal(server.Serve(listeners[0]))
}

func listen(hosts, port int) ([]net.Listener, error) {
	var found []net.Listener
	for n := 1; n <= hosts; n++ {
		one, err := net.Listen("tcp", fmt.Sprintf("127.0.%d.%d:%d", n>>8, n&255, port))
		if err != nil {
			return nil, err
		}
		port = one.Addr().(*net.TCPAddr).Port
		found = append(found, one)
	}
	return found, nil
}

func routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", fixed(`{"status":"ok"}`))
	mux.HandleFunc("/v1/models", fixed(models))
	mux.HandleFunc("/v1/chat/completions", complete)
	mux.HandleFunc("/v1/traces", fixed("")) // it is a collector of spans, too
	return mux
}

func fixed(answer string) http.HandlerFunc {
	return func(to http.ResponseWriter, _ *http.Request) {
		to.Header().Set("content-type", "application/json")
		fmt.Fprint(to, answer)
	}
}

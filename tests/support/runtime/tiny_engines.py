"""Engines in a file: quick to start, and as disobedient as a test needs."""

import sys
from typing import Any

PROGRAM = """
import http.server, json, os, signal, sys, time
host, port, name, *flags = sys.argv[1:]
given = dict(flag.split("=") for flag in flags)
served = 0
class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": name, "object": "model"}]})
    def do_POST(self):
        global served
        self.rfile.read(int(self.headers["content-length"]))
        served += 1
        if served == int(given.get("exit_at", 0)):
            os._exit(3)
        if served >= int(given.get("hang_from", 1 << 30)) or served == int(given.get("hang_at", 0)):
            time.sleep(600)
        if served > 1:
            time.sleep(float(given.get("slow", 0)))
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"},
                  "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        self.answer({"id": "1", "object": "chat.completion", "created": 1, "model": name,
                     "choices": [choice], "usage": usage})
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
def leave(*_):
    time.sleep(float(given.get("leave", 0)))
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in given else leave)
print("loading", flush=True)
time.sleep(float(given.get("load", 0)))
Server((host, int(port)), Engine).serve_forever()
"""


def tiny(name: str, *flags: str, **options: Any) -> dict[str, Any]:
    """A model whose engine answers every chat with a word.

    Flags: `load=S` seconds before it listens, `slow=S` before each answer but the first,
    `hang_from=N`, `hang_at=N` and `exit_at=N` from or at the Nth request to generate, `leave=S`
    from SIGTERM to its end, `stubborn=1`: SIGTERM does not end it.
    """
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, "{host}", "{port}", "{name}", *flags]
    return {"name": name, "command": command, "load_time": 1.0, **options}

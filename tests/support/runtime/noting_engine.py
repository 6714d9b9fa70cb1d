"""An engine that notes what reaches it, and answers as a header of the request says."""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PROGRAM = """
import base64, http.server, json, os, sys
host, port, name, notes = sys.argv[1:]
file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def event(content):
    return b"data: %b\\n\\n" % json.dumps(content).encode()
class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def note(self, body=b"", left=False):
        said = {"name": self.headers.get("x-name", ""), "left": left,
                "method": self.command, "path": self.path,
                "body": base64.b64encode(body).decode()}
        os.write(file, json.dumps(said).encode() + b"\\n")
    def answer(self, data, status=200, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.note()
        self.answer(json.dumps({"object": "list", "data": [{"id": name}]}).encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.note(body)
        does = self.headers.get("x-does")
        if does == "wait":
            self.rfile.read(1)  # nothing comes but the end
            self.close_connection = True
            self.note(left=True)
        elif does == "refuse":
            self.answer(b'{"error":{"message":"too long","code":422}}', 422)
        elif does == "stream":
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": name}
            choice = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
            events = [event({**chunk, "choices": [choice]})]
            if json.loads(body).get("stream_options", {}).get("include_usage"):
                usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
                events.append(event({**chunk, "choices": [], "usage": usage}))
            self.answer(b"".join(events) + b"data: [DONE]\\n\\n", kind="text/event-stream")
        else:
            self.answer(b'{"object":"chat.completion","choices":[]}')
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
Server((host, int(port)), Engine).serve_forever()
"""


class Note(msgspec.Struct, frozen=True):
    """A request; `name` is its header `x-name`. `left`: the connection was closed meanwhile."""

    name: str
    method: str
    path: str
    body: bytes
    left: bool


def noting(name: str, notes: Path, **options: Any) -> dict[str, Any]:
    """A model whose engine writes to the file `notes`, see `noted`.

    Header `x-does` of a request: "wait" (no answer), "refuse" (422), "stream" (with the chunk of
    `include_usage` if that was asked for).
    """
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, "{host}", "{port}", "{name}", str(notes)]
    return {"name": name, "command": command, "load_time": 1.0, **options}


def noted(notes: Path) -> Iterator[Note]:
    for line in notes.read_bytes().splitlines():
        note = msgspec.json.decode(line, type=_Line)
        yield Note(note.name, note.method, note.path, base64.b64decode(note.body), note.left)


class _Line(msgspec.Struct):
    name: str
    method: str
    path: str
    body: str
    left: bool

#!/usr/bin/env bash
# langchain-openai 1.7.4: a tool call cut off by the token limit is whole if it was streamed.
#
# Input: the model stops in the middle of a tool's arguments, finish_reason "length". The same answer
# is given once as a stream and once as plain JSON.
# Guess: both end in `invalid_tool_calls`, as half a JSON text is no JSON.
# Seen: plain, the call is invalid. Streamed, the half text is closed by the library and stands in
# `tool_calls` as a good call: an agent would write a file with half of its text.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet langchain-openai==1.7.4 openai==3.57.0
"$lab/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

HALF = '{"path": "notes.txt", "text": "Keep the first'
CALL = {"id": "call_1", "type": "function", "function": {"name": "write", "arguments": HALF}}
HEAD = {"id": "c", "created": 1, "model": "tiny"}


def choice(part, value, reason):
    return {"choices": [{"index": 0, part: value, "finish_reason": reason}]}


MESSAGE = {"role": "assistant", "content": None, "tool_calls": [CALL]}
PLAIN = HEAD | {"object": "chat.completion"} | choice("message", MESSAGE, "length")
EVENTS = [
    HEAD | {"object": "chat.completion.chunk"} | one
    for one in (
        choice("delta", {"role": "assistant", "tool_calls": [CALL | {"index": 0}]}, None),
        choice("delta", {}, "length"),
    )
]


class Engine(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        if asked.get("stream"):
            self.send_header("content-type", "text/event-stream")
            sent = "".join(f"data: {json.dumps(one)}\n\n" for one in EVENTS) + "data: [DONE]\n\n"
        else:
            self.send_header("content-type", "application/json")
            sent = json.dumps(PLAIN)
        self.end_headers()
        self.wfile.write(sent.encode())

    def log_message(self, *_):
        pass


engine = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=engine.serve_forever, daemon=True).start()

from langchain_openai import ChatOpenAI

print("langchain-openai", version("langchain-openai"))
got = {}
for streaming in (False, True):
    chat = ChatOpenAI(
        base_url=f"http://127.0.0.1:{engine.server_port}/v1",
        api_key="none",
        model="tiny",
        streaming=streaming,
        max_retries=0,
    )
    got[streaming] = chat.invoke("Write my notes.")
    print("streamed:" if streaming else "plain:")
    print("  tool_calls        ", [one["args"] for one in got[streaming].tool_calls])
    print("  invalid_tool_calls", [one["args"] for one in got[streaming].invalid_tool_calls])

assert got[False].tool_calls == [] and len(got[False].invalid_tool_calls) == 1, "plain has changed"
[call] = got[True].tool_calls
assert call["args"] == {"path": "notes.txt", "text": "Keep the first"}, "streamed has changed"
assert got[True].invalid_tool_calls == [], "streamed has changed"
PYTHON

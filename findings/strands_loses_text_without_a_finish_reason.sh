#!/usr/bin/env bash
# strands-agents 1.62.0: text that was streamed and shown is not in the answer if there was no
# finish_reason before [DONE].
#
# Input: two pieces of text, then [DONE], and no event with a finish_reason (llama-cpp-python sends this
# to a caller whose stream it ends for another call).
# Guess: an error, as for a stream that breaks off; or else the text with some stop reason.
# Seen: the callback gets both pieces, then the agent returns without an error: stop reason "end_turn",
# and a message without content, which also becomes its history.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet 'strands-agents[openai]==1.62.0' openai==2.54.0
"$lab/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version


def event(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
    return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"


TEXT = event({"role": "assistant", "content": "Hello"}) + event({"content": " there"})
STREAMS = {
    "finished": TEXT + event({}, "stop") + "data: [DONE]\n\n",
    "unfinished": TEXT + "data: [DONE]\n\n",
}


class Engine(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(STREAMS[asked["model"]].encode())

    def log_message(self, *_):
        pass


engine = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=engine.serve_forever, daemon=True).start()

from strands import Agent
from strands.models.openai import OpenAIModel

print("strands-agents", version("strands-agents"))
got = {}
for name in STREAMS:
    shown = []
    settings = {"base_url": f"http://127.0.0.1:{engine.server_port}/v1", "api_key": "none"}
    agent = Agent(
        model=OpenAIModel(client_args=settings, model_id=name),
        callback_handler=lambda shown=shown, **told: shown.append(told.get("data", "")),
    )
    answer = agent("Greet me.")
    got[name] = "".join(shown), answer.stop_reason, answer.message["content"]
    print(f"{name}: shown {got[name][0]!r}, stop reason {got[name][1]!r}, message {got[name][2]}")
    print("  in the history:", agent.messages[-1]["content"])

assert got["finished"] == ("Hello there", "end_turn", [{"text": "Hello there"}])
assert got["unfinished"] == ("Hello there", "end_turn", []), "the behaviour has changed"
PYTHON

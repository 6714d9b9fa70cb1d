#!/usr/bin/env bash
# LiteLLM 1.110.2: a hundred equal pieces of text in a stream are an error of the server.
#
# Input: an answer of 120 times "0000" (a table of zeros, a ruled line), one piece an event, with
# finish_reason "stop" and [DONE].
# Guess: all 480 characters arrive, as they do if the answer is not streamed: a client does not judge
# what a model says.
# Seen: after 100 equal pieces the stream ends in an exception with status_code 500, "The model is
# repeating the same chunk", though the server said nothing wrong. Equal pieces of two characters
# ("00") pass.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet litellm==1.110.2 openai==3.57.0
LITELLM_LOCAL_MODEL_COST_MAP=True "$lab/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

PIECES = 120
HEAD = {"id": "c", "created": 1, "model": "tiny"}


def event(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    sent = HEAD | {"object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(sent)}\n\n"


def plain(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(HEAD | {"object": "chat.completion", "choices": [choice]})


class Engine(BaseHTTPRequestHandler):
    """The name of the model is the piece that it says again and again."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        piece = asked["model"]
        self.send_response(200)
        if asked.get("stream"):
            self.send_header("content-type", "text/event-stream")
            pieces = event({"role": "assistant", "content": piece}) * PIECES
            sent = pieces + event({}, "stop") + "data: [DONE]\n\n"
        else:
            self.send_header("content-type", "application/json")
            sent = plain(piece * PIECES)
        self.end_headers()
        self.wfile.write(sent.encode())

    def log_message(self, *_):
        pass


engine = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=engine.serve_forever, daemon=True).start()

import litellm

litellm.suppress_debug_info = True


def ask(piece, stream):
    """The number of characters that arrived, and the exception if there was one."""
    answer = litellm.completion(
        f"openai/{piece}",
        [{"role": "user", "content": "Draw a line."}],
        stream=stream,
        api_base=f"http://127.0.0.1:{engine.server_port}/v1",
        api_key="none",
        num_retries=0,
        max_retries=0,
    )
    if not stream:
        return len(answer.choices[0].message.content), None
    arrived = 0
    try:
        for one in answer:
            arrived += len(one.choices[0].delta.content or "")
    except Exception as error:
        return arrived, error
    return arrived, None


print("litellm", version("litellm"))
got = {}
for piece, stream in (("0000", False), ("00", True), ("0000", True)):
    arrived, error = got[piece, stream] = ask(piece, stream)
    told = f"{type(error).__name__}, status {error.status_code}: {error}" if error else "no error"
    print(f"{PIECES} x {piece!r}, stream={stream}: {arrived} characters, {told[:150]}")

assert got["0000", False] == (480, None), "plain has changed"
assert got["00", True] == (240, None), "short pieces have changed"
arrived, error = got["0000", True]
assert arrived < 480 and error is not None and error.status_code == 500, "the stream has changed"
assert "repeating the same chunk" in str(error), "the words have changed"
PYTHON

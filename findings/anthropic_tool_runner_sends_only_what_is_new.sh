#!/usr/bin/env bash
# anthropic 2.14.0: the loop `tool_runner` sends only what is new from its second request on, although the server
# has never said that it keeps the conversation.
#
# Input: a server of Messages that answers twice with a tool call and then with text, as engines do: it does not
# know the field `thread` and says nothing of it.
# Guess: each request has the whole conversation, as Messages has no state. At least the client goes on that way
# with a server whose responses name no thread.
# Seen: the first request has `thread: {"type": "create"}`, which nobody asked for. The others have
# `{"type": "continue", "previous_message_id": ...}` and one message, the tool's result: an engine that passes over
# the field answers a prompt without the task and without the call. With `thread=False` each has everything.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet anthropic==2.14.0
"$lab/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from anthropic import Anthropic, beta_tool

CALLS = 2


class Engine(BaseHTTPRequestHandler):
    """Calls the tool in its first responses, whatever it is sent."""

    requests: list = []

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(asked)
        number = len(self.requests)
        block = {"type": "text", "text": "Done."}
        if number <= CALLS:
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": "add"}
            block["input"] = {"one": number, "other": 1}
        body = json.dumps(
            {
                "id": f"msg_{number}",
                "type": "message",
                "role": "assistant",
                "model": asked["model"],
                "content": [block],
                "stop_reason": "tool_use" if number <= CALLS else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 9, "output_tokens": 3},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@beta_tool
def add(one: int, other: int) -> str:
    """Adds two numbers.

    Args:
        one: A number.
        other: Another one.
    """
    return str(one + other)


def requests_of(client, **options):
    Engine.requests.clear()
    task = {"role": "user", "content": "Add 1 and 1."}
    runner = client.beta.messages.tool_runner(
        model="tiny", max_tokens=50, tools=[add], messages=[task], **options
    )
    runner.until_done()
    seen = []
    for asked in Engine.requests:
        thread = (asked.get("thread") or {}).get("type")
        seen.append((thread, len(asked["messages"])))
        print(f"{options or 'no options'}: thread {thread}, {len(asked['messages'])} messages")
    return seen


engine = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=engine.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{engine.server_port}"
print("anthropic", version("anthropic"))
with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
    unasked = [("create", 1), ("continue", 1), ("continue", 1)]
    assert requests_of(client) == unasked, "the behaviour has changed"
    whole = [(None, 1), (None, 3), (None, 5)]
    assert requests_of(client, thread=False) == whole, "the behaviour has changed"
PYTHON

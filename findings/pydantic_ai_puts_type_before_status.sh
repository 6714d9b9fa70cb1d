#!/usr/bin/env bash
# pydantic-ai 2.68.0: in a stream an error's type "server_error" hides the HTTP status that its code says.
#
# Input: a stream's error event with "code": 502, once with the type "server_error" (the usual word of
# OpenAI-compatible servers) and once with a type of the server's own; and the first error as a plain
# response with status 502.
# Guess: `status_code` is 502 in all three. The number is what the server says most exactly.
# Seen: 502 plain, 502 in the stream with the other type, and 500 in the stream with "server_error": a
# program that asks again on 502 and 503 alone does not.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet 'pydantic-ai-slim[openai]==2.68.0' openai==3.57.0
"$lab/bin/python" - <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
DELTA = {"role": "assistant", "content": "Hel"}
BEGUN = HEAD | {"choices": [{"index": 0, "delta": DELTA, "finish_reason": None}]}


class Engine(BaseHTTPRequestHandler):
    """The name of the model is the type of the error."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        error = {"error": {"message": "worker lost", "type": asked["model"], "code": 502}}
        streams = asked.get("stream")
        self.send_response(200 if streams else 502)
        self.send_header("content-type", "text/event-stream" if streams else "application/json")
        self.end_headers()
        events = "".join(f"data: {json.dumps(one)}\n\n" for one in (BEGUN, error))
        self.wfile.write((events if streams else json.dumps(error)).encode())

    def log_message(self, *_):
        pass


engine = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=engine.serve_forever, daemon=True).start()

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def status_of(kind, stream):
    url = f"http://127.0.0.1:{engine.server_port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        agent = Agent(OpenAIChatModel(kind, provider=OpenAIProvider(openai_client=client)))
        try:
            if not stream:
                await agent.run("Greet me.")
            else:
                async with agent.run_stream("Greet me.") as running:
                    await running.get_output()
        except ModelHTTPError as error:
            return type(error).__name__, error.status_code
    return None


async def main():
    got = []
    for kind, stream in (("server_error", False), ("upstream_lost", True), ("server_error", True)):
        got.append(await status_of(kind, stream))
        print(f"type {kind!r}, code 502, stream={stream}: {got[-1]}")
    return [one and one[1] for one in got]


print("pydantic-ai-slim", version("pydantic-ai-slim"))
assert asyncio.run(main()) == [502, 502, 500], "the behaviour has changed"
PYTHON

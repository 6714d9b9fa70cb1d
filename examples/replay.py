"""Answer chats from a file of `{"messages", "text"}` lines; other calls go to a worker."""

import json
from pathlib import Path

import msgspec

from gateway import Answer, Call, hookimpl


class Replay:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        path: str

    def __init__(self, config: Config) -> None:
        lines = [json.loads(line) for line in Path(config.path).read_text().splitlines()]
        self.texts = {json.dumps(line["messages"]): line["text"] for line in lines}

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        body = await call.json() if call.path == "/v1/chat/completions" else {}
        if (text := self.texts.get(json.dumps(body.get("messages")))) is None:
            return None
        part = "delta" if body.get("stream") else "message"
        choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": "stop"}
        data = json.dumps({"id": call.id, "model": call.model, "choices": [choice]})
        if body.get("stream"):
            events = f"data: {data}\n\ndata: [DONE]\n\n".encode()
            return Answer(headers=[(b"content-type", b"text/event-stream")], body=events)
        return Answer(headers=[(b"content-type", b"application/json")], body=data.encode())

"""A worker whose response depends on the path; it keeps the bodies that it got."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from gateway.testing import ScriptedConnection, answer_of

JSON = "application/json"


class ByPath:
    """`answers` has what is said at each path; 404 elsewhere. `bodies` are those of each path."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self.answers = dict(answers)
        self.bodies: dict[str, list[Any]] = defaultdict(list)

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self.bodies[path].append(json.loads(body) if body else None)
            answer = self.answers.get(path.partition("?")[0])
            await connection.write(answer or answer_of(b"{}", status="404 Not Found"))


def said(value: object, status: str = "200 OK") -> bytes:
    """A plain response."""
    return answer_of(json.dumps(value).encode(), status=status)


def chat_answer(content: str = "Hi") -> dict[str, Any]:
    """A plain chat response with its tokens, as a vLLM gives it if asked for them."""
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
        "token_ids": [5],
        "logprobs": logprobs,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "sim",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        "prompt_token_ids": [1, 2, 3],
    }

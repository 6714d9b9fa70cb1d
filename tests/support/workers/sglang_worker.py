"""A worker that speaks as SGLang does, by its documentation and source; no SGLang was run.

Chats and completions have `token_ids` only if asked for them, and `logprobs: null` if not; streams
of chats reject `return_token_ids`. `/generate` repeats in each event what came before.
"""

import json
from collections.abc import Iterator
from typing import Any

from gateway.testing import ScriptedConnection, answer_of

PROMPT = [5, 6, 7]
IDS = [11, 12, 2]
TEXTS = ["Hel", "lo", ""]
LOGPROBS = [-0.5, -0.25, -0.125]
VERSIONS = [{"version": "v1", "start": 0, "end": 2}, {"version": "v2", "start": 2, "end": 3}]
USAGE = {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}
HEAD = {"id": "a1", "created": 1, "model": "m"}
METADATA = {"weight_version": "v2", "weight_versions": VERSIONS}
DONE = b"data: [DONE]\n\n"
REFUSED = (
    "return_token_ids is not supported with streaming on /v1/chat/completions. Please set "
    "stream=false when using return_token_ids=true."
)

Object = dict[str, Any]


class SGLang:
    """The script of a worker; `requests` are the bodies it got. `incremental`: see /generate."""

    def __init__(self, *, incremental: bool = False) -> None:
        self.incremental = incremental
        self.requests: list[Object] = []

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            head, _, body = request.partition(b"\r\n\r\n")
            asked = json.loads(body)
            self.requests.append(asked)
            await connection.write(self.answer(head.split(b" ")[1].decode(), asked))

    def answer(self, path: str, asked: Object) -> bytes:
        """Return the whole response, head and body."""
        chat = path.endswith("/chat/completions")
        if chat and asked.get("stream") and asked.get("return_token_ids"):
            error = {"object": "error", "message": REFUSED, "type": "BadRequest", "code": 400}
            return answer_of(written(error), status="400 Bad Request")
        if asked.get("stream"):
            events = self.generated(asked) if path == "/generate" else streamed(asked, chat)
            body = b"".join([b"data: %b\n\n" % written(event) for event in events]) + DONE
            return answer_of(body, content_type="text/event-stream")
        if path == "/generate":
            count = asked["sampling_params"].get("n", 1)
            whole = [sequence(asked, len(IDS), "length") for _ in range(count)]
            return answer_of(written(whole[0] if count == 1 else whole))
        return answer_of(written(plain(asked, chat)))

    def generated(self, asked: Object) -> Iterator[Object]:
        for end in range(1, len(IDS) + 1):
            finish = "length" if end == len(IDS) else None
            start = end - 1 if self.incremental else 0
            yield sequence(asked, end, finish, start)


def written(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sequence(asked: Object, end: int, finish: str | None, start: int = 0) -> Object:
    """One sequence of /generate: tokens from `start` to `end`."""
    meta: Object = {
        "id": "g1",
        "finish_reason": {"type": finish, "length": end} if finish else None,
        "prompt_tokens": len(PROMPT),
        "completion_tokens": end,
        **METADATA,
    }
    if asked.get("return_logprob"):
        scored = list(zip(LOGPROBS, IDS, [None] * len(IDS), strict=True))
        meta["input_token_logprobs"] = []
        meta["output_token_logprobs"] = scored[start:end]
    return {"text": "".join(TEXTS[start:end]), "output_ids": IDS[start:end], "meta_info": meta}


def scores(asked: Object, chat: bool, part: slice) -> Object | None:
    wanted = asked.get("logprobs")
    if wanted is None or wanted is False:
        return None
    if not chat:
        pairs = list(zip(TEXTS, LOGPROBS, strict=True))[part]
        return {
            "text_offset": [-1 for _ in pairs],
            "token_logprobs": [value for _, value in pairs],
            "tokens": [text for text, _ in pairs],
            "top_logprobs": [],
        }
    return {
        "content": [
            {"token": text, "bytes": list(text.encode()), "logprob": value, "top_logprobs": []}
            for text, value in list(zip(TEXTS, LOGPROBS, strict=True))[part]
        ]
    }


def choice(asked: Object, chat: bool, said: Object, part: slice, finish: str | None) -> Object:
    """A choice with the tokens of `part`; ids only if asked for."""
    logprobs = scores(asked, chat, part)
    found = {"index": 0, **said, "logprobs": logprobs, "finish_reason": finish}
    found["matched_stop"] = 2 if finish else None
    if asked.get("return_token_ids"):
        found["token_ids"] = IDS[part]
    wanted = "return_prompt_token_ids" if chat else "return_token_ids"
    if asked.get(wanted) and not part.start:
        found["prompt_token_ids"] = PROMPT
    return found


def plain(asked: Object, chat: bool) -> Object:
    message = {"role": "assistant", "content": "Hello", "reasoning_content": None}
    said: Object = {"message": {**message, "tool_calls": None}} if chat else {"text": "Hello"}
    one = choice(asked, chat, said, slice(0, None), "stop")
    kind = "chat.completion" if chat else "text_completion"
    answer = {**HEAD, "object": kind, "choices": [one], "usage": USAGE, "metadata": METADATA}
    return {**answer, **({"sglext": extension(asked)} if extension(asked) else {})}


def extension(asked: Object) -> Object:
    ids = {"input_ids": PROMPT} if asked.get("return_input_ids_in_sglext") else {}
    return {**ids, **({"output_ids": [IDS]} if asked.get("return_output_ids_in_sglext") else {})}


def streamed(asked: Object, chat: bool) -> Iterator[Object]:
    head = {**HEAD, "object": "chat.completion.chunk" if chat else "text_completion"}
    if chat:
        begun = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}
        rest = {"finish_reason": None, "matched_stop": None}
        yield {**head, "choices": [{"index": 0, **begun, **rest}], "usage": None}
    for place, text in enumerate(TEXTS):
        finish = None if chat or place < len(IDS) - 1 else "stop"
        said: Object = {"delta": {"content": text}} if chat else {"text": text}
        one = choice(asked, chat, said, slice(place, place + 1), finish)
        yield {**head, "choices": [one], "usage": None}
    if chat:
        end: Object = {"delta": {}, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
        yield {**head, "choices": [{"index": 0, **end}], "usage": None}
    if extension(asked):
        yield {**head, "choices": [], "usage": None, "sglext": extension(asked)}
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": USAGE}

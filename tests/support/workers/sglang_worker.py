"""A worker that speaks as SGLang does, by its documentation and source; no SGLang was run.

Chats and completions have token ids only if asked for them, and `logprobs: null` if not; streams of
chats reject `return_token_ids`, and have the ids in `sglext`. A token without text is told of in a
stream of a chat only with its logprob, and only if a parser of reasoning or tools is in force.
`/generate` repeats in each event what came before.
"""

import json
import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from gateway.testing import ScriptedConnection, answer_of

PROMPT = [5, 6, 7]
IDS = [11, 12, 2]
TEXTS = ["Hel", "lo", ""]
LOGPROBS = [-0.5, -0.25, -0.125]
VERSIONS = [{"version": "v1", "start": 0, "end": 2}, {"version": "v2", "start": 2, "end": 3}]
TOPS = [[[-0.5, 11, None], [-1.5, 9, None]], [[-0.25, 12, None]], [[-0.125, 2, None]]]
EXPERTS = b64encode(struct.pack("<10i", *range(10))).decode()
"""Of the five tokens before the last one, two of each."""

USAGE = {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}
HEAD = {"id": "a1", "created": 1, "model": "m"}
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "sglang"}]}
METADATA = {"weight_version": "v2", "weight_versions": VERSIONS}
DONE = b"data: [DONE]\n\n"
REFUSED = (
    "return_token_ids is not supported with streaming on /v1/chat/completions. Please set "
    "stream=false when using return_token_ids=true."
)

Object = dict[str, Any]


class SGLang:
    """The script of a worker; `requests` are the bodies it got.

    `incremental`: see /generate. `parses`: it was started with a parser of reasoning or tools.
    `has_sglext` is False for a version that ignores the fields of `sglext`.
    """

    def __init__(
        self, *, incremental: bool = False, parses: bool = True, has_sglext: bool = True
    ) -> None:
        self.incremental = incremental
        self.parses = parses
        self.has_sglext = has_sglext
        self.requests: list[Object] = []

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            head, _, body = request.partition(b"\r\n\r\n")
            if head.startswith(b"GET "):
                await connection.write(answer_of(written(MODELS)))
                continue
            asked = json.loads(body)
            self.requests.append(asked)
            await connection.write(self.answer(head.split(b" ")[1].decode(), asked))

    def answer(self, path: str, asked: Object) -> bytes:
        """Return the whole response, head and body."""
        chat = path.endswith("/chat/completions")
        if not self.has_sglext:
            asked = {name: value for name, value in asked.items() if "sglext" not in name}
        if chat and asked.get("stream") and asked.get("return_token_ids"):
            error = {"object": "error", "message": REFUSED, "type": "BadRequest", "code": 400}
            return answer_of(written(error), status="400 Bad Request")
        if asked.get("stream"):
            events = self.generated(asked) if path == "/generate" else self.streamed(asked, chat)
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

    def streamed(self, asked: Object, chat: bool) -> Iterator[Object]:
        events = self.in_chat(asked) if chat else in_completion(asked)
        head = {**HEAD, "object": "chat.completion.chunk" if chat else "text_completion"}
        yield from ({**head, **event} for event in events)
        if chat and extension(asked):
            yield {**head, "choices": [], "usage": None, "sglext": extension(asked)}
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": USAGE}

    def in_chat(self, asked: Object) -> Iterator[Object]:
        yield chunk({"role": "assistant", "content": ""})
        for place, text in enumerate(TEXTS):
            scored = scores(asked, True, slice(place, place + 1))
            if text:
                yield chunk({"content": text}, scored)
            elif scored is not None and self.parses:
                yield chunk({}, scored)
        yield chunk({}, finish="stop")


def written(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def sequence(asked: Object, end: int, finish: str | None, start: int = 0) -> Object:
    """One sequence of /generate: tokens from `start` to `end`."""
    meta: Object = {
        "id": "g1",
        "finish_reason": {"type": finish, "length": end} if finish else None,
        "prompt_tokens": len(PROMPT),
        **METADATA,
    }
    if asked.get("return_logprob"):
        scored = list(zip(LOGPROBS, IDS, [None] * len(IDS), strict=True))
        meta["input_token_logprobs"] = []
        meta["output_token_logprobs"] = scored[start:end]
        meta["output_token_logprobs_length"] = end
    if asked.get("top_logprobs_num"):
        meta["output_top_logprobs"] = TOPS[start:end]
    if asked.get("return_routed_experts"):
        meta["routed_experts"] = EXPERTS
    meta["completion_tokens"] = end
    of_prompt = {"prompt_token_ids": PROMPT} if asked.get("return_prompt_token_ids") else {}
    said = {"text": "".join(TEXTS[start:end]), "output_ids": IDS[start:end], "meta_info": meta}
    return {**said, **of_prompt}


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
    of_prompt = asked.get("return_token_ids") or (chat and asked.get("return_prompt_token_ids"))
    if of_prompt and not part.start:
        found["prompt_token_ids"] = PROMPT
    if asked.get("return_token_ids"):
        found["response_token_ids" if chat else "token_ids"] = IDS[part]
    if chat and asked.get("return_meta_info"):
        found["meta_info"] = sequence({"return_logprob": logprobs}, len(IDS), "stop")["meta_info"]
    return found


def plain(asked: Object, chat: bool) -> Object:
    message = {"role": "assistant", "content": "Hello", "reasoning_content": None}
    said: Object = {"message": {**message, "tool_calls": None}} if chat else {"text": "Hello"}
    one = choice(asked, chat, said, slice(0, None), "stop")
    kind = "chat.completion" if chat else "text_completion"
    answer = {**HEAD, "object": kind, "choices": [one], "usage": USAGE, "metadata": METADATA}
    return {**answer, **({"sglext": extension(asked)} if extension(asked) else {})}


def extension(asked: Object) -> Object:
    details = {"cached_tokens_details": {"device": 0, "host": 0}}
    more = details if asked.get("return_cached_tokens_details") else {}
    ids = {"input_ids": PROMPT} if asked.get("return_input_ids_in_sglext") else {}
    return {
        **more,
        **ids,
        **({"output_ids": [IDS]} if asked.get("return_output_ids_in_sglext") else {}),
    }


def chunk(said: Object, scored: Object | None = None, finish: str | None = None) -> Object:
    """An event of a chat: SGLang writes `reasoning_content` in each, for the sake of a client."""
    one: Object = {"index": 0, "delta": {"reasoning_content": None, **said}, "logprobs": scored}
    end = {"finish_reason": finish, "matched_stop": 2 if finish else None}
    return {"choices": [{**one, **end}]}


def in_completion(asked: Object) -> Iterator[Object]:
    for place, text in enumerate(TEXTS):
        finish = "stop" if place == len(IDS) - 1 else None
        one = choice(asked, False, {"text": text}, slice(place, place + 1), finish)
        yield {"choices": [one], "usage": None}

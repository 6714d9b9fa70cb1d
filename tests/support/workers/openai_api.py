"""A stand-in for OpenAI's own API: TLS, a key, two models, and no field that it does not know."""

import ssl

import msgspec

from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

KEY = "sk-of-the-operator"
MODELS = ("gpt-4.1", "gpt-4.1-mini")
TEXT = ("Hello", " there")

KNOWN = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "temperature", "max_tokens", "top_p"),
        *("logprobs", "top_logprobs", "n", "seed", "stop", "tools", "tool_choice", "user"),
    )
)

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def openai_api(tls: ssl.SSLContext) -> ScriptedWorker:
    """Serves GET /v1/models and POST /v1/chat/completions; anything else is a 404."""
    return ScriptedWorker(_serve, tls=tls)


async def _serve(connection: ScriptedConnection) -> None:
    while True:
        head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
        await connection.write(_answer(head.decode("latin-1"), body))


def _answer(head: str, body: bytes) -> bytes:
    first, *lines = head.split("\r\n")
    if f"authorization: Bearer {KEY}" not in lines:
        return _refused("401 Unauthorized", "Incorrect API key provided.", "invalid_api_key")
    if first.startswith("GET /v1/models "):
        cards = [{"id": name, "object": "model", "owned_by": "system"} for name in MODELS]
        return answer_of(msgspec.json.encode({"object": "list", "data": cards}))
    if not first.startswith("POST /v1/chat/completions "):
        return _refused("404 Not Found", f"Invalid URL ({first})", None)
    return _chat(msgspec.json.decode(body))


def _chat(asked: dict[str, object]) -> bytes:
    for name in asked.keys() - KNOWN:
        message = f"Unknown parameter: '{name}'."
        return _refused("400 Bad Request", message, "unknown_parameter", name)
    if asked["model"] not in MODELS:
        message = f"The model `{asked['model']}` does not exist or you do not have access to it."
        return _refused("404 Not Found", message, "model_not_found", "model")
    if asked.get("stream"):
        return answer_of(_stream(asked), content_type="text/event-stream; charset=utf-8")
    said = {"role": "assistant", "content": "".join(TEXT), "refusal": None}
    choice = {"index": 0, "message": said, "finish_reason": "stop", "logprobs": None}
    return answer_of(_json(asked, "chat.completion", [choice], USAGE))


def _stream(asked: dict[str, object]) -> bytes:
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant"}, None)]
    deltas += [({"content": text}, None) for text in TEXT]
    deltas.append(({}, "stop"))
    events = [
        _json(asked, "chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": end}])
        for delta, end in deltas
    ]
    if asked.get("stream_options") == {"include_usage": True}:
        events.append(_json(asked, "chat.completion.chunk", [], USAGE))
    return b"".join(b"data: %b\n\n" % event for event in [*events, b"[DONE]"])


def _json(asked: dict[str, object], kind: str, choices: object, usage: object = None) -> bytes:
    told = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": asked["model"]}
    return msgspec.json.encode({**told, "choices": choices, "usage": usage})


def _refused(status: str, message: str, code: str | None, param: str | None = None) -> bytes:
    error = {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }
    return answer_of(msgspec.json.encode({"error": error}), status=status)

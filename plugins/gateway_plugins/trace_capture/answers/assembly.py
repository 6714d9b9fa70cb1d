"""Parses the bytes of a response, as the worker sent them, into an Assembled."""

from collections.abc import Callable
from functools import lru_cache

import msgspec

from gateway import Api, Kernel, api_of
from gateway_plugins.trace_capture.answers import native, other_apis
from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Assembled
from gateway_plugins.trace_capture.answers.openai import plain, streams
from gateway_plugins.trace_capture.answers.openai.formats import CHAT, COMPLETIONS, Form
from gateway_plugins.trace_capture.answers.python_json import as_json, join_halves
from gateway_plugins.trace_capture.answers.token_apis import sglang
from gateway_plugins.trace_capture.answers.token_apis.vllm import GENERATE

FORMS = {"chat": CHAT, "chat_batch": CHAT, "completions": COMPLETIONS, "generate": GENERATE}
"""Forms of responses with choices, by the name of the API."""

WITH_CHOICES = FORMS.keys() | {"sglang_generate"}
"""Names of the APIs whose requests say how many choices there are."""

_PLAIN: dict[str, Callable[[bytes], Assembled]] = {"sglang_generate": sglang.read_plain}

_STREAMS: dict[str, Callable[[bytes], Assembled]] = {
    "responses": other_apis.read_responses,
    "messages": other_apis.read_messages,
    "sglang_generate": sglang.read_stream,
}


def assemble(
    path: str, body: bytes, *, streamed: bool, status: int = 200, kernel: Kernel | None = None
) -> Assembled:
    """Return the record of a response to a request for `path`; never raises, whatever the bytes.

    `body` is already decoded (no content encoding). `streamed`: it is an event stream. `kernel`
    reads what it can; the record is the same without one.
    """
    api = api_at(path)
    name = "" if api is None else api.name
    form, read_stream = FORMS.get(name), _STREAMS.get(name)
    if kernel is not None and form in (CHAT, COMPLETIONS) and status == 200:
        found = native.read(kernel, body, chat=form is CHAT, streamed=streamed)
        if found is not None:
            return found
    try:
        if streamed:
            if form is not None:
                return streams.read(body, form)
            return (read_stream or other_apis.read_events)(body)
        if name in _PLAIN:
            return _PLAIN[name](body)
        answered = _plain(body, form) if form else None
    except UNREADABLE:
        answered = None
    if answered is not None:
        return answered
    record = other_apis.read_plain(body, status=status)
    record.streamed, record.done = streamed, not streamed
    if form or streamed or name in _PLAIN:  # no response of this API: readable if it is an error
        record.readable = not streamed and record.readable and record.error is not None
    elif read_stream is None:
        record.readable = True
    return record


def _plain(body: bytes, form: Form) -> Assembled | None:
    try:
        return plain.read(body, form)
    except (msgspec.DecodeError, UnicodeDecodeError):
        record = plain.read(as_json(body), form)
        return None if record is None else join_halves(record)


@lru_cache(maxsize=256)  # nearly all calls have one of few paths
def api_at(path: str) -> Api | None:
    """Return the API of a path, which may have more before its `v1/`; None if unknown."""
    if path[:4] == "/v1/" and "v1/" not in path[4:] and "?" not in path and path[-1] != "/":
        return api_of(path)  # as nearly all are
    if (api := api_of(path)) is not None:
        return api
    _, _, tail = path.partition("?")[0].strip("/").rpartition("v1/")
    return api_of(f"/v1/{tail}")

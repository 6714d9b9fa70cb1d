"""What the engine is asked for: prompts of conversations, and messages of token ids."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway import NOT_JSON, CallError, GatewayError, UpstreamError, Worker, error_message

RENDER = "/v1/chat/completions/render"
DERENDER = "/v1/chat/completions/derender"

TIMEOUT = 30.0
"""Seconds for each question."""

JSON = ((b"content-type", b"application/json"),)

NO_SCALE_OUT = "Scale-out endpoints are disabled"
"""How vLLM begins its 403 without that flag."""

FLAG = "the engine was started without --enable-scale-out, which token-in/token-out needs"


class Unable(GatewayError):
    """The engine cannot do it; the message says why."""


class Refused(GatewayError):
    """The engine rejects the request itself; the message is its own."""


class Rendered(msgspec.Struct, frozen=True):
    """A rendered request: its fields, and the ids of its prompt."""

    fields: dict[str, Any]
    token_ids: list[int]

    @property
    def parses_reasoning(self) -> bool:
        return self.fields.get("reasoning_parser_kwargs") is not None

    @property
    def shows_marks(self) -> bool:
        """Whether special tokens are in the text of an answer."""
        params = self.fields.get("sampling_params")
        return isinstance(params, dict) and params.get("skip_special_tokens") is False

    @property
    def has_media(self) -> bool:
        return bool(self.fields.get("features") or self.fields.get("content_parts"))


async def render(worker: Worker, request: Mapping[str, Any]) -> Rendered:
    """Render a chat request. Raises Unable, Refused."""
    fields = await _ask(worker, RENDER, request)
    try:
        return Rendered(fields, msgspec.convert(fields.get("token_ids"), list[int]))
    except NOT_JSON:
        raise Unable("the engine's rendered request has no token ids") from None


async def derender(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat response, or an event of one, for token ids. Raises UpstreamError."""
    try:
        return await _ask(worker, DERENDER, request)
    except (Unable, Refused) as error:
        raise UpstreamError(f"the worker could not make a message of its tokens: {error}") from None


def encoded(request: Mapping[str, Any]) -> bytes:
    """Return a request as JSON. Raises Refused if it nests too deeply."""
    try:
        return msgspec.json.encode(request)
    except OverflowError:  # callers send integers of any size
        return json.dumps(request).encode()
    except RecursionError:
        raise Refused("the request nests too deeply") from None


async def _ask(worker: Worker, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
    body = encoded(request)
    try:
        answer = await worker.request("POST", path, body, headers=JSON, timeout=TIMEOUT)
    except CallError as error:
        raise Unable(f"the engine could not be asked to render: {error}") from None
    try:
        found = msgspec.json.decode(answer.body, type=dict[str, Any])
    except NOT_JSON:
        found = {}
    if answer.status == 200:
        return found
    raise _error(answer.status, error_message(found.get("error")) or f"status {answer.status}")


def _error(status: int, words: str) -> GatewayError:
    if status == 403 and words.startswith(NO_SCALE_OUT):
        return Unable(FLAG)
    if status in (403, 404, 405, 501):
        return Unable(f"the engine does not render chats: {words}")
    return Refused(words) if status in (400, 422) else Unable(words)

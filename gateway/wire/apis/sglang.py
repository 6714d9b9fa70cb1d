"""SGLang's own `/generate`: text or token ids in, text and the sampled ids out.

A response has the ids asked or not, and all else in `meta_info`; it is a list if several sequences
were requested. Logprobs are tuples there: value, token id, text or null. Each event of a stream
repeats what came before, unless the engine was started with incremental output.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.dialect import ChoiceDelta, Delta, Dialect, Unreadable
from gateway.wire.error_body import error_message
from gateway.wire.sse import DONE
from gateway.wire.stripping.places import Places
from gateway.wire.stripping.sglang import LOGPROBS, generate_edits

PROMPTS = ("text", "input_ids")

MORE_LOGPROBS = (
    *("top_logprobs_num", "token_ids_logprob", "logprob_start_len"),
    *("return_raw_token_logprobs_b64", "return_flat_raw_top_logprobs"),
)
"""Fields that add to the logprobs, and tell nothing if those are not requested."""


class _Meta(msgspec.Struct, gc=False):
    id: str | None = None
    finish_reason: Any = None
    output_token_logprobs: list[tuple[float | None, Any, Any]] | None = None


class _Sequence(msgspec.Struct, gc=False):
    text: str | None = None
    output_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    meta_info: _Meta | None = None
    index: int = 0
    error: Any = None


_decode = msgspec.json.Decoder(_Sequence | list[_Sequence]).decode


def read_event(data: bytes) -> Delta:
    """Decode an event. Of its choice it tells the end alone, as the rest may have come before."""
    if data == DONE:
        return Delta(done=True)
    told = _read(data)
    ends = [_ended(one, one.index) for one in told if one.meta_info is not None]
    return _delta(told, ends)


def read_answer(body: bytes) -> Delta:
    told = _read(body)
    return _delta(told, [_whole(one, place) for place, one in enumerate(told) if one.meta_info])


def _read(data: bytes) -> list[_Sequence]:
    try:
        found = _decode(data)
    except NOT_JSON as error:
        message = f"the worker's answer cannot be read as sglang_generate: {error}"
        raise Unreadable(message) from None
    return found if isinstance(found, list) else [found]


def _delta(told: list[_Sequence], choices: list[ChoiceDelta]) -> Delta:
    id_ = next((one.meta_info.id for one in told if one.meta_info and one.meta_info.id), "")
    errors = [error_message(one.error) for one in told if one.error is not None]
    return Delta(choices, id=id_, error=errors[0] if errors else None)


def _ended(one: _Sequence, index: int) -> ChoiceDelta:
    end = one.meta_info.finish_reason if one.meta_info is not None else None
    reason, matched = (
        (end.get("type"), end.get("matched")) if isinstance(end, dict) else (end, None)
    )
    return ChoiceDelta(
        index,
        finish_reason=reason if isinstance(reason, str) else None,
        stop_reason=matched if isinstance(matched, int | str) else None,
    )


def _whole(one: _Sequence, index: int) -> ChoiceDelta:
    scored = one.meta_info.output_token_logprobs if one.meta_info is not None else None
    return msgspec.structs.replace(
        _ended(one, index),
        text=one.text or "",
        token_ids=one.output_ids or [],
        logprobs=[value for value, _, _ in scored or ()],
        prompt_token_ids=one.prompt_token_ids,
    )


def _want_prompt_ids(body: Mapping[str, object]) -> dict[str, object]:
    # The sampled ids come anyway, and a prompt of ids is in the request.
    wanted = body.get("return_prompt_token_ids") or body.get("text") is None
    return {} if wanted else {"return_prompt_token_ids": True}


def _want_logprobs(body: Mapping[str, object]) -> dict[str, object]:
    # Other servers have a `/generate` too, with other prompts.
    known = any(body.get(name) is not None for name in PROMPTS)
    wanted = body.get("return_logprob") or any(body.get(name) for name in MORE_LOGPROBS)
    return {"return_logprob": True} if known and not wanted else {}


GENERATE = Dialect(
    name="sglang_generate",
    paths=("/generate",),
    work="generates",
    several=True,
    prompts="input_ids",
    nested=True,
    labelled=False,
    read_event=read_event,
    read_answer=read_answer,
    request_changes={"token_ids": _want_prompt_ids, "logprobs": _want_logprobs},
    places=Places(
        in_answer={"token_ids": ("prompt_token_ids",)},
        in_choice={"logprobs": tuple(name.decode() for name in sorted(LOGPROBS))},
        as_chat=False,
        edits=generate_edits,
    ),
)

"""vLLM's paths for callers that work with token ids: generation from ids, and the tokenizer.

`/inference/v1/generate` takes the ids of a prompt and returns those that were sampled, asked or
not. Sampling parameters are an object of their own in the request, logprobs among them. There is no
message and no tool call in a response: `output_mode` is `tokens`, or `text` for the bare text too.
An engine has it only if it was started with `--enable-scale-out`.
"""

from collections.abc import Mapping

import msgspec

from gateway.wire.apis.openai import Answer, Reader, want_ids, want_usage
from gateway.wire.dialect import Api, ChoiceDelta, Dialect
from gateway.wire.request import NESTED
from gateway.wire.stripping.places import Places


class _Logprob(msgspec.Struct, gc=False):
    logprob: float | None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Logprob] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Answer(Answer[_Choice], gc=False):
    id: str | None = msgspec.field(default=None, name="request_id")


def _choice(choice: _Choice, prompt_token_ids: list[int] | None) -> ChoiceDelta:
    entries = choice.logprobs.content if choice.logprobs is not None else None
    return ChoiceDelta(
        choice.index,
        choice.text or "",
        choice.token_ids or [],
        [entry.logprob for entry in entries or ()],
        choice.finish_reason,
        choice.stop_reason,
        prompt_token_ids,
    )


def _want_logprobs(body: Mapping[str, object]) -> dict[str, object]:
    # A request without parameters is rejected; it must not be made valid.
    params = body.get(NESTED)
    if not isinstance(params, dict):
        return {}
    if params.get("logprobs") is not None or params.get("logprob_token_ids"):
        return {}
    return {NESTED: {**params, "logprobs": 0}}


_READER = Reader("generate", msgspec.json.Decoder(_Answer), _choice)

GENERATE = Dialect(
    name="generate",
    paths=("/inference/v1/generate",),
    work="generates",
    max_tokens=("max_tokens",),
    several=True,
    prompts="token_ids",
    nested=True,
    tells_end=True,
    read_event=_READER.read_event,
    read_answer=_READER.read_answer,
    request_changes={"token_ids": want_ids, "logprobs": _want_logprobs, "usage": want_usage},
    places=Places(
        in_answer={"token_ids": ("prompt_token_ids",)},
        in_choice={"logprobs": ("logprobs",)},
        omitted=True,
        as_chat=False,
    ),
)

ABORT = Api(name="abort", paths=("/inference/v1/abort_requests",), work="manages", labelled=False)
TOKENIZER = Api(name="tokenizer", paths=("/tokenize", "/detokenize"), work="converts")
RENDER = Api(
    name="render",
    paths=(
        "/v1/chat/completions/render",
        "/v1/completions/render",
        "/v1/messages/render",
        "/v1/responses/render",
    ),
    work="converts",
    labelled=False,
)
"""From the request of an API to that of `generate`: the chat template, without the model."""

DERENDER = Api(
    name="derender",
    paths=("/v1/chat/completions/derender", "/v1/completions/derender"),
    work="converts",
    labelled=False,
)
"""From a response of `generate` to that of an API: text, tool calls, reasoning."""

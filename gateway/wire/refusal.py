"""What a worker says of a call that it has not run, in its own words.

A status alone is no evidence that nothing ran: a proxy gives the same 502 or 503 for an engine that
is not there and for one that died at its work. Only a few sentences and codes are, those that a
program sends before it begins. Each sentence has to be the whole message or to begin it, so that no
prompt that an error message quotes can pass for one.
"""

import re
from typing import Literal

import msgspec

from gateway.errors import NOT_JSON, ConnectFailed, ConnectTimeout, Draining, NoWorker, TooManyCalls
from gateway.wire.error_body import error_message

Refusal = Literal["busy", "not_this", "no_model"]
"""`busy`: it takes no call now. `not_this`: it does not take this one now, but may take others.
`no_model`: it does not have the requested model or adapter."""

BUSY_WORDS = frozenset(
    (
        "Loading model",  # llama.cpp
        "Model is overloaded",  # TGI, text-embeddings-inference
        "The model is currently scaling. Please try again later.",  # vLLM
        "The request queue is full.",  # SGLang
        "server busy, please try again.  maximum pending requests exceeded",  # Ollama
    )
)

BUSY_CODES = frozenset(
    (
        # This gateway's own, from another one behind it: no worker was given the call. The last
        # three are those of its plugins.
        *(
            error.code
            for error in (NoWorker, TooManyCalls, Draining, ConnectFailed, ConnectTimeout)
        ),
        "queue_full",
        "queue_timeout",
        "weights_updating",
    )
)

PICKY_CODE = "wrong_version"
"""This gateway's own, of a call that requires a version of the weights."""

_NO_MODEL = re.compile(
    r"The model [`'\"].*[`'\"] does not exist"  # vLLM, LMDeploy, OpenAI, this gateway
    r"|LoRA adapter '.*' was found but could not be loaded"  # vLLM
    r"|The following requested LoRA adapters are not loaded: "  # SGLang
    r"|No worker available for model '"  # smg
    r"|(?:/[a-z/]+: )?Invalid model name passed in model="  # LiteLLM
    r"|Server is pinned to '.*'; requested '"  # transformers
    r"|model [`'\"].*[`'\"] not found",  # Ollama
    re.DOTALL,
)

NO_SCALE_OUT = "Scale-out endpoints are disabled."
"""How vLLM begins its 403 for `generate`, `render` and `derender` if it serves none of them."""

NO_IDS_IN_STREAMS = "return_token_ids is not supported with streaming"
"""How SGLang begins its 400 for a streamed chat with `return_token_ids`."""

NO_MODEL = (400, 404)
"""Statuses of a response that may say that a model is not there."""


def read_refusal(status: int, body: bytes) -> Refusal | None:
    """Return why nothing has run by the words of an error response; None if they do not tell.

    `body` is the whole body, not compressed. Never raises.
    """
    message, code = _said(body)
    if status in NO_MODEL:
        return "no_model" if _NO_MODEL.match(message) else None
    if code == PICKY_CODE:
        return "not_this"
    return "busy" if message in BUSY_WORDS or code in BUSY_CODES else None


def lacks_scale_out(body: bytes) -> bool:
    """Whether a 403 says that the engine was started without `--enable-scale-out`. Never raises."""
    return _said(body)[0].startswith(NO_SCALE_OUT)


def rejects_as_sglang(body: bytes) -> bool:
    """Whether the engine rejects token ids, and is asked for them in another way. Never raises."""
    return _said(body)[0].startswith(NO_IDS_IN_STREAMS)


def _said(body: bytes) -> tuple[str, str]:
    """Return the message and the code of an error in any of the envelopes; "" for what it lacks."""
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    error = found.get("error") or found.get("detail") or found
    code = error.get("code") if isinstance(error, dict) else None
    return error_message(error) or "", code if isinstance(code, str) else ""

"""What error responses say of calls that have not run, in the words of real programs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    CallError,
    ConnectFailed,
    ConnectTimeout,
    Draining,
    DrainTimeout,
    NoWorker,
)
from gateway.wire.refusal import BUSY_CODES, BUSY_WORDS, read_refusal

UNKNOWN = "The model `lora` does not exist. Valid aliases: tiny."

BUSY = {
    "llama.cpp": '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
    "vLLM": '{"error": "The model is currently scaling. Please try again later."}',
    "SGLang": (
        '{"object":"error","message":"The request queue is full.",'
        '"type":"503","param":null,"code":503}'
    ),
    "SGLang /generate": '{"detail":"The request queue is full."}',
    "TGI": '{"error":"Model is overloaded","error_type":"overloaded"}',
    "Ollama": (
        '{"error":{"message":"server busy, please try again.  maximum pending requests exceeded",'
        '"type":"api_error","param":null,"code":null}}'
    ),
    "gateway, queue": (
        '{"error":{"message":"1000 calls wait","type":"overloaded_error",'
        '"param":null,"code":"queue_full"}}'
    ),
}

NO_MODEL = {
    "vLLM": (404, {"error": {"message": UNKNOWN, "type": "NotFoundError", "code": 404}}),
    "vLLM, Messages": (
        404,
        {"type": "error", "error": {"type": "NotFoundError", "message": UNKNOWN}},
    ),
    "vLLM, resolver": (
        400,
        {"error": {"message": "LoRA adapter 'lora' was found but could not be loaded."}},
    ),
    "SGLang": (
        400,
        {
            "object": "error",
            "message": "The following requested LoRA adapters are not loaded: lora\n"
            "Loaded adapters: dict_keys([]).",
        },
    ),
    "smg": (
        404,
        {
            "error": {
                "code": "model_not_found",
                "message": "No worker available for model 'nobody/knows'",
            }
        },
    ),
    "LiteLLM": (
        400,
        {
            "error": {
                "message": "/chat/completions: Invalid model name passed in model=x. Call "
                "`/v1/models` to view available models for your key.",
                "code": "400",
            }
        },
    ),
    "transformers": (400, {"detail": "Server is pinned to '/models/tiny'; requested 'x'."}),
    "Ollama": (404, {"error": {"message": "model 'x' not found", "type": "api_error"}}),
}

UNSAID = (
    b"",
    b"Bad Gateway",
    b"Loading model",
    b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available</body></html>\n",
    b"upstream connect error or disconnect/reset before headers",
    b'{"error":{"message":"the worker broke off","code":"upstream_closed"}}',
    b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above)","code":500}}',
    b'{"error":{"message":"model group failed: The request queue is full."}}',
    b'{"error":{"message":"","code":503}}',
    DrainTimeout("ends").body(),
    b'{"detail":"Not Found"}',
    b'{"error":null}',
    b"[1]",
    b"null",
)
"""What proxies and routers say, whether the engine was not there or died at its work."""


@pytest.mark.parametrize("program", BUSY)
def test_refusal_for_lack_of_room_is_read(program: str) -> None:
    assert read_refusal(503, BUSY[program].encode()) == "busy"


@pytest.mark.parametrize(
    "error",
    [NoWorker("none"), Draining("ends"), ConnectFailed("none"), ConnectTimeout(5)],
    ids=lambda error: error.code,
)
def test_refusal_of_another_gateway_is_read(error: CallError) -> None:
    assert read_refusal(error.status, error.body()) == "busy"


def test_refusal_of_one_call_is_not_taken_for_a_lack_of_room() -> None:
    body = {"error": {"message": "old weights", "code": "wrong_version"}}
    assert read_refusal(503, json.dumps(body).encode()) == "not_this"


@pytest.mark.parametrize("program", NO_MODEL)
def test_refusal_of_a_model_is_read(program: str) -> None:
    status, body = NO_MODEL[program]
    assert read_refusal(status, json.dumps(body).encode()) == "no_model"
    assert read_refusal(500, json.dumps(body).encode()) is None


@pytest.mark.parametrize("body", UNSAID)
@pytest.mark.parametrize("status", [400, 404, 502, 503, 504])
def test_anything_else_tells_nothing(status: int, body: bytes) -> None:
    assert read_refusal(status, body) is None


@given(st.sampled_from([400, 404, 429, 502, 503, 504]), st.binary(max_size=200))
def test_any_body_can_be_read(status: int, body: bytes) -> None:
    read_refusal(status, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "detail", "message", "code", "type"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([400, 404, 503]), json_values)
def test_any_json_can_be_read(status: int, value: object) -> None:
    assert read_refusal(status, json.dumps(value).encode()) is None


@given(
    st.sampled_from([*sorted(BUSY_WORDS), UNKNOWN, *sorted(BUSY_CODES)]),
    st.text(min_size=1).filter(str.strip),
)
def test_quoted_prompt_does_not_pass_for_a_refusal(words: str, before: str) -> None:
    """An engine's message about a mistake may quote the prompt, whatever that says."""
    message = f"1 validation error: {before}{words}"
    for status in (400, 404, 503):
        said = json.dumps({"error": {"message": message, "type": words, "code": 400}})
        assert read_refusal(status, said.encode()) is None

"""A session's cap on tokens holds under every name that a request has for it."""

from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture.sessions.caps import CAPS, applied
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import capturing, chat

from gateway import api_of
from gateway.testing import GatewayFor

CHAT = "/v1/chat/completions"
GENERATE = "/inference/v1/generate"


@pytest.mark.parametrize(
    ("path", "params", "request_", "expected"),
    [
        (CHAT, {"max_tokens": 5}, {}, {"max_tokens": 5}),
        (CHAT, {"max_tokens": 5}, {"max_completion_tokens": 99}, {"max_completion_tokens": 5}),
        (CHAT, {"max_completion_tokens": 5}, {"max_tokens": 99}, {"max_tokens": 5}),
        (CHAT, {"max_output_tokens": 5}, {}, {"max_tokens": 5}),
        (CHAT, {"max_tokens": 5}, {"n_predict": 99}, {"max_tokens": 5, "n_predict": 5}),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, {}, {"max_completion_tokens": 6}),
        (CHAT, {"max_tokens": None}, {"max_tokens": 99}, {"max_tokens": None}),
        ("/v1/completions", {"max_completion_tokens": 5}, {}, {"max_tokens": 5}),
        ("/v1/responses", {"max_tokens": 5}, {}, {"max_output_tokens": 5}),
        ("/v1/messages", {"max_output_tokens": 5}, {"max_tokens": 99}, {"max_tokens": 5}),
        ("/v1/unknown", {"max_tokens": 5}, {"num_predict": 9}, {"max_tokens": 5, "num_predict": 5}),
        (GENERATE, {"max_tokens": 5}, {}, {"sampling_params": {"max_tokens": 5}}),
        (
            GENERATE,
            {"max_completion_tokens": 5, "top_p": 0.5},
            {"sampling_params": {"max_tokens": 99, "seed": 3}},
            {"sampling_params": {"max_tokens": 5, "top_p": 0.5, "seed": 3}},
        ),
    ],
)
def test_cap_takes_the_names_of_the_api_and_of_the_request(
    path: str, params: dict[str, Any], request_: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert applied(params, api_of(path), request_) == expected


caps = st.dictionaries(st.sampled_from(CAPS), st.integers(1, 9), min_size=1)
requests = st.dictionaries(st.sampled_from(CAPS), st.integers(100, 999))
paths = st.sampled_from([CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/unknown"])


@given(paths, caps, requests)
def test_no_name_of_a_cap_escapes_it(
    path: str, params: dict[str, Any], request_: dict[str, Any]
) -> None:
    api = api_of(path)
    sent = {**request_, **applied({**params, "top_p": 0.5}, api, request_)}
    assert sent.pop("top_p") == 0.5
    assert len({value for name, value in sent.items() if name in CAPS}) == 1
    assert set(sent.values()) <= set(params.values())
    assert api is None or set(api.max_tokens) & set(sent)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_cap_of_a_session_cuts_a_chat_short_whatever_the_caller_asks(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    new = {"session_id": "a", "sampling_params": {"max_tokens": 2}}
    assert (await live.client.post("/sessions", json=new)).status_code == 200
    asked = {**chat(), name: 40}
    answer = await live.client.post(f"/sessions/a{CHAT}", json=asked)
    assert answer.json()["usage"]["completion_tokens"] == 2
    [trace] = (await live.client.get("/sessions/a/traces")).json()
    assert trace["overwritten"] == dict.fromkeys([one for one in CAPS if one in asked], 2)

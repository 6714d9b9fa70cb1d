"""Whatever an engine sends, its stream passes or ends with an error of the worker."""

from typing import Any

import msgspec
import pytest
from gateway_plugins.request_migration.stream import Counts, Stream
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import Event, UpstreamError
from gateway.testing import make_call, sse
from gateway.wire.sse import Splitter

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats()
NAMES = st.sampled_from(
    [
        *("choices", "usage", "error", "id", "created", "model", "index", "text", "delta"),
        *("content", "role", "token_ids", "prompt_token_ids", "finish_reason", "logprobs"),
        *("tokens", "token_logprobs", "top_logprobs", "text_offset", "weight_versions", "code"),
        *("start", "end", "completion_tokens"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
EVENTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=6)


def text(event: dict[str, Any]) -> bytes:
    return sse(msgspec.to_builtins(event))


def begun(api: str) -> Stream:
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}[api]
    return Stream(make_call(path=path, body=b"{}"), api, 3, Counts())


@pytest.mark.parametrize("api", ["chat", "completions"])
@example(events=[{"choices": 5}], carried=True)
@example(events=[{"choices": [{"logprobs": {"text_offset": ["x"]}}]}], carried=True)
@example(events=[{"choices": [{"token_ids": [1 << 40], "text": "a"}]}], carried=False)
@given(events=EVENTS, carried=st.booleans())
def test_events_of_any_shape_pass_or_break_off(
    api: str, events: list[dict[str, Any]], carried: bool
) -> None:
    stream = begun(api)
    if carried:
        stream.event(_first(api))
        stream._seam = stream._seam_of({})
    try:
        passed = [stream.event(one) for event in events for one in Splitter().feed(text(event))]
        passed.append(stream.end())
    except UpstreamError:
        return
    assert all(one == b"" or one.endswith(b"\n\n") for one in passed)


def _first(api: str) -> Event:
    said = {"delta": {"content": "a"}} if api == "chat" else {"text": "a"}
    choice = {"index": 0, "token_ids": [5], "prompt_token_ids": [1, 2], **said}
    (event,) = Splitter().feed(sse({"id": "one", "created": 1, "choices": [choice]}))
    return event

"""The product that made a call, by user agents as clients send them."""

import pytest
from gateway_plugins.trace_capture.recording.harness import MAX_NAME, UNKNOWN, product_of
from hypothesis import given
from hypothesis import strategies as st

SENT = [
    ("OpenAI/Python", {"user-agent": "OpenAI/Python 2.20.0"}),
    ("AsyncOpenAI/Python", {"user-agent": "AsyncOpenAI/Python 3.57.0"}),
    ("ai-sdk/openai-compatible", {"user-agent": "ai-sdk/openai-compatible/3.0.37 runtime/bun/1"}),
    ("ls/JS", {"user-agent": "ls/JS 5.23.2"}),
    ("python-httpx", {"user-agent": "python-httpx/0.28.1"}),
    ("curl", {"user-agent": "curl/8.5.0"}),
    (UNKNOWN, {}),
    (UNKNOWN, {"user-agent": ""}),
    (UNKNOWN, {"user-agent": "\xff\xfe"}),
]


@pytest.mark.parametrize(("name", "sent"), SENT)
def test_product_is_what_the_user_agent_names(name: str, sent: dict[str, str]) -> None:
    headers = [(key.encode(), value.encode("latin-1")) for key, value in sent.items()]
    assert product_of(headers) == name


names = st.sampled_from([b"user-agent", b"host"])


@given(st.lists(st.tuples(names, st.binary(max_size=300))))
def test_product_is_short_and_printable_whatever_is_sent(
    headers: list[tuple[bytes, bytes]],
) -> None:
    name = product_of(headers)
    assert 0 < len(name) <= MAX_NAME
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name

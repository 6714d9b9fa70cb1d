"""References in a worker's response: they lead through the gateway, or are not passed on."""

from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.location import through_gateway

URL = "http://10.0.0.5:8000"
PATH = "/v1/chat/completions/"


@pytest.mark.parametrize(
    ("reference", "api_path", "url"),
    [
        ("http://10.0.0.5:8000/v1/chat/completions", "/v1", "/v1/chat/completions"),
        ("HTTP://10.0.0.5:8000/v1/chat/completions", "/v1", "/v1/chat/completions"),
        ("//10.0.0.5:8000/v1/models", "/v1", "/v1/models"),
        ("/v1/files/a%2Fb?x=1#y", "/v1", "/v1/files/a%2Fb?x=1#y"),
        ("http://10.0.0.5:8000/llm/v1/batches/1", "/llm/v1", "/v1/batches/1"),
        ("http://10.0.0.5:8000/llm/v10", "/llm/v1", "/llm/v10"),
        ("http://10.0.0.5:8000", "/v1", "/"),
        ("file-1", "/v1", "/v1/chat/completions/file-1"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/sessions/s", "/mounted/here"])
def test_reference_leads_through_the_gateway(
    reference: str, api_path: str, url: str, prefix: str
) -> None:
    base = f"https://gateway.test{prefix}{PATH}"
    found = through_gateway(reference, PATH, URL, api_path)
    assert found is not None
    assert "10.0.0.5" not in found
    assert urljoin(base, found) == f"https://gateway.test{prefix}{url}"


@pytest.mark.parametrize(
    "reference",
    [
        *("http://10.0.0.6:8000/v1/x", "https://10.0.0.5/v1/x", "http://10.0.0.5/v1/x", "//w1/x"),
        *("http://[", "http://10.0.0.5:x/", "mailto:a@b"),
        *("\\\\w1\\x", "/\\w1/x", "a\\..\\x"),
    ],
)
def test_reference_to_another_address_is_not_passed_on(reference: str) -> None:
    assert through_gateway(reference, PATH, URL, "/v1") is None


segments = st.lists(st.sampled_from(["a", "b:c", "v1", "%2F", "d"]), max_size=5)
paths = st.tuples(segments, st.sampled_from(["", "/"])).map(
    lambda parts: "/" + "/".join(parts[0]) + (parts[1] if parts[0] else "")
)


@given(paths, paths)
def test_relative_reference_resolves_to_the_path_it_was_made_of(base: str, target: str) -> None:
    found = through_gateway(f"{URL}{target}", base, URL, "/v1")
    assert found is not None
    assert urljoin(f"https://gateway.test/p{base}", found) == f"https://gateway.test/p{target}"

"""The registry finds the API of a path, and each API says what the gateway does with it."""

import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.apis import sglang
from gateway.wire.apis.openai import CHAT, COMPLETIONS
from gateway.wire.apis.registry import APIS, api_of, dialect_of
from gateway.wire.apis.token_api import GENERATE
from gateway.wire.dialect import Api

PATHS = sorted({path for api in APIS for path in api.paths})


def known(path: str) -> Api:
    api = api_of(path)
    assert api is not None, path
    return api


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/chat%2Fcompletions", "chat"),
        ("/%761/chat/completions", "chat"),
        ("/v1/chat/completions/batch", "chat_batch"),
        ("/v1/chat/completions/", None),
        ("/v1/chat/completions/render", "render"),
        ("/v1/completions/render", "render"),
        ("/v1/messages/render", "render"),
        ("/v1/responses/render", "render"),
        ("/v1/chat/completions/derender", "derender"),
        ("/v1/completions/derender", "derender"),
        ("/v1/messages/derender", None),
        ("/inference/v1/abort_requests", "abort"),
        ("/v1/responses/compact", "compact"),
        ("/v1/responses/input_tokens", "input_tokens"),
        ("/v1/chat/completions/render/", None),
        ("/v1/completions", "completions"),
        ("/v1/responses", "responses"),
        ("/v1/responses/resp_1", "stored_responses"),
        ("/v1/responses/resp_1/cancel", "stored_responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count_tokens"),
        ("/v1/messages/x", None),
        ("/inference/v1/generate", "generate"),
        ("/detokenize", "tokenizer"),
        ("/v1/pooling", "pooling"),
        ("/v1/files/", "files"),
        ("/v1/files/f/content", "files"),
        ("/v1/filesystem", None),
        ("/v1", None),
        ("/", None),
        ("", None),
    ],
)
def test_registry_finds_the_api_of_a_path(path: str, name: str | None) -> None:
    api = api_of(path)
    assert (None if api is None else api.name) == name


@given(st.text() | st.lists(st.sampled_from(["/", "v1", "files", "%2F", "%"])).map("".join))
def test_registry_takes_any_path(path: str) -> None:
    api = api_of(path)
    assert api is None or api in APIS


def test_each_name_path_and_parent_belongs_to_one_api() -> None:
    assert len({api.name for api in APIS}) == len(APIS)
    assert set(Counter(path for api in APIS for path in api.paths).values()) == {1}
    parents = [api.below for api in APIS if api.below]
    assert len(parents) == len(set(parents))
    assert all(parent.count("/") == 2 for parent in parents), "the registry looks up two segments"


def test_dialects_are_the_apis_that_the_gateway_reads() -> None:
    read = {path: dialect for path in PATHS if (dialect := dialect_of(path)) is not None}
    assert read == {
        "/v1/chat/completions": CHAT,
        "/v1/completions": COMPLETIONS,
        "/inference/v1/generate": GENERATE,
        "/generate": sglang.GENERATE,
    }
    assert all(api_of(path) is dialect for path, dialect in read.items())


def test_only_what_samples_nothing_is_repeatable() -> None:
    repeatable = {path for path in PATHS if known(path).repeatable}
    assert repeatable == {
        "/detokenize",
        "/tokenize",
        "/v1/chat/completions/derender",
        "/v1/chat/completions/render",
        "/v1/classify",
        "/v1/completions/derender",
        "/v1/completions/render",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
        "/v1/messages/render",
        "/v1/moderations",
        "/v1/pooling",
        "/v1/rerank",
        "/v1/responses/input_tokens",
        "/v1/responses/render",
        "/v1/score",
    }
    assert not any(api.repeatable and api.generates for api in APIS)
    assert all(api.samples_nothing for api in APIS if api.repeatable)
    assert all(api.generates for api in APIS if api.max_tokens)


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/files", "upload"),
        ("/v1/files/x/content", "upload"),
        ("/v1/%66iles", "upload"),
        ("/%761/files", "upload"),
        ("/v1/uploads/x/parts", "upload"),
        ("/v1/batches/x/cancel", "batch"),
        ("/v1/models/x", None),
        ("/v1/messages", None),
    ],
)
def test_api_names_the_scope_that_its_paths_need(path: str, scope: str | None) -> None:
    assert known(path).scope == scope


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/%63hat/completions", None),
        ("/v1/chat/completions/batch", None),
        ("/tokenize", "/tokenize"),
        ("/inference/v1/generate", "/inference/v1/generate"),
        ("/v1/chat/completions/render", None),
        ("/inference/v1/abort_requests", None),
        ("/v1/files", "/v1/files"),
        ("/v1/files/f-1", "/v1/files/{id}"),
        ("/v1/files/", None),
        ("/v1/files/f-1/content", None),
        ("/v1/models/org%2Fname", "/v1/models/{id}"),
        ("/v1/models/org/name", None),
        ("/v1/responses/resp_1", "/v1/responses/{id}"),
        ("/v1/batches/b", "/v1/batches/{id}"),
        ("/v1/uploads", None),
        ("/v1/uploads/u", None),
    ],
)
def test_label_of_a_path_has_no_id(path: str, label: str | None) -> None:
    assert known(path).label(path) == label


@pytest.mark.parametrize(
    ("path", "fields", "requested"),
    [
        ("/v1/chat/completions", {"max_tokens": 7, "max_completion_tokens": 5}, (7, 1)),
        ("/v1/chat/completions", {"max_tokens": -1, "n": 2}, (None, 2)),
        ("/v1/chat/completions", {"max_tokens": 7, "n": {}}, (7, 1)),
        ("/v1/chat/completions", {"max_tokens": 7, "max_output_tokens": []}, (7, 1)),
        ("/v1/completions", {"max_tokens": 7, "n": 2, "best_of": 5}, (7, 5)),
        ("/v1/chat/completions/batch", {"max_tokens": 7}, (7, 1)),
        ("/inference/v1/generate", {"sampling_params": {"max_tokens": 7, "n": 2}}, (7, 2)),
        ("/inference/v1/generate", {"max_tokens": 7, "sampling_params": 1}, (None, 1)),
        ("/v1/chat/completions", {"max_tokens": "7", "n": 2.0}, (7, 2)),
        ("/v1/chat/completions", {"max_output_tokens": 7}, (None, 1)),
        ("/v1/chat/completions", {"max_tokens": [], "n": 2}, (None, 2)),
        ("/v1/completions", {"max_tokens": 7, "max_completion_tokens": 5, "n": 0}, (7, 1)),
        ("/v1/completions", {"n": -3}, (None, 1)),
        ("/v1/responses", {"max_output_tokens": 7, "max_tokens": 5, "n": 3}, (7, 1)),
        ("/v1/messages", {"max_tokens": 7, "n": 3}, (7, 1)),
        ("/v1/embeddings", {"max_tokens": 7, "n": 3}, (None, 1)),
    ],
)
def test_api_reads_how_long_a_response_is_requested(
    path: str, fields: dict[str, object], requested: tuple[int | None, int]
) -> None:
    read = known(path).requested(json.dumps(fields).encode())
    assert (read.max_tokens, read.choices) == requested


@pytest.mark.parametrize("body", [b"", b"[", b"null", b"7", b'\xff{"n":2}', b"[" * 100_000])
def test_api_takes_any_body(body: bytes) -> None:
    assert msgspec.structs.astuple(CHAT.requested(body)) == (None, 1, 1, 0)

"""The objects that requests and responses name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.apis.stored_objects import collection_of, made_by, object_of, references_of


@pytest.mark.parametrize(
    ("path", "collection", "name"),
    [
        ("/v1/responses", "/v1/responses", None),
        ("/v1/responses/", "/v1/responses", None),
        ("/v1/responses/resp_1", "/v1/responses", "/v1/responses/resp_1"),
        ("/v1/responses/resp_1/input_items", "/v1/responses", "/v1/responses/resp_1"),
        ("/v1/responses/render", "/v1/responses", None),
        ("/v1/files/file-1/content", "/v1/files", "/v1/files/file-1"),
        ("/v1/files/..", "/v1/files", None),
        ("/v1/files/a%2Fb", "/v1/files", None),
        ("/v1/models/m", None, None),
        ("/v1", None, None),
    ],
)
def test_path_names_an_object_of_a_collection(
    path: str, collection: str | None, name: str | None
) -> None:
    assert (collection_of(path), object_of(path)) == (collection, name)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"previous_response_id": "resp_1"}, ["/v1/responses/resp_1"]),
        ({"conversation": "conv_1"}, ["/v1/conversations/conv_1"]),
        ({"conversation": {"id": "conv_1"}}, ["/v1/conversations/conv_1"]),
        ({"input_file_id": "file-1"}, ["/v1/files/file-1"]),
        ({"previous_response_id": None, "conversation": None}, []),
        ({"previous_response_id": "../admin"}, []),
        ({"previous_response_id": 7}, []),
        ({}, []),
    ],
)
def test_body_refers_to_objects(body: dict[str, object], names: list[str]) -> None:
    assert list(references_of(json.dumps(body).encode())) == names


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_name_nothing_that_is_no_path(data: bytes, streamed: bool) -> None:
    for name in (*references_of(data), made_by("/v1/files", data, streamed=streamed)):
        assert name is None or name.count("/") == 3

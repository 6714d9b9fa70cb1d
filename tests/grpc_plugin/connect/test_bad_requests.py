"""What a caller of Connect or gRPC-Web can send wrong: it gets the code of the table, in words."""

import contextlib
import gzip
import json
import zlib

import pytest
from gateway_plugins.grpc.connect.codec import from_json, to_json
from gateway_plugins.grpc.connect.formats import formats
from gateway_plugins.grpc.connect.reading import UnknownCoding, message_of, seconds_of
from hypothesis import given
from hypothesis import strategies as st
from support.grpc.over_http import (
    ASKED,
    MESSAGES,
    STREAM,
    WHOLE,
    OverHttp,
    frame,
    frames,
    json_of,
    post,
    request,
    trailers,
)

from gateway import BadRequest, BodyTooLarge
from gateway.testing import GatewayFor

NAME = "llm.v1.ChatCompletionRequest"
FORMATS = formats(streams=True) | formats(streams=False)
LIMIT = 1_000

ZIPPED = {"content_encoding": "gzip"}


BAD_JSON = (
    b"[]",
    b"{",
    b'{"maxTokens": "x"}',
    b'{"maxTokens": 9999999999}',
    b"\xff",
    b'"\\ud800"',
    b'{"userPrompt": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 100_000,
)
BAD_FRAMES = (
    b"",
    b"\0\0",
    frame(b"\xff\xff"),
    frame(b"") + frame(b""),
    frame(b"", 2),
    frame(b"", 0x80),
    frame(b"ab")[:-1],
    frame(b"", 1),
)


@pytest.mark.parametrize("text", BAD_JSON)
async def test_bad_json_is_an_invalid_argument(text: bytes, gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, WHOLE, "json", text)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert len(answer.content) < 2_000


async def test_unknown_fields_are_ignored(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, WHOLE, "json", json_of({**ASKED, "new": {"deep": [1]}}))
    assert answer.status_code == 200


@pytest.mark.parametrize("body", BAD_FRAMES)
async def test_bad_frames_are_an_invalid_argument(body: bytes, gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, STREAM, "connect+proto", body)
    [(_, end)] = frames(answer.content)
    assert json.loads(end)["error"]["code"] == "invalid_argument"
    answer = await post(live.client, STREAM, "grpc-web", body)
    [(_, end)] = frames(answer.content)
    assert trailers(end)["grpc-status"] == "3"


async def test_compressed_requests_are_read(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, WHOLE, "json", gzip.compress(json_of(ASKED)), **ZIPPED)
    assert answer.status_code == 200
    sent = frame(gzip.compress(json_of(ASKED)), 1)
    coding = {"connect_content_encoding": "gzip"}
    answer = await post(live.client, STREAM, "connect+json", sent, **coding)
    assert len(frames(answer.content)) > 2
    sent = frame(gzip.compress(request(model="sim")), 1)
    answer = await post(live.client, STREAM, "grpc-web", sent, grpc_encoding="gzip")
    assert trailers(frames(answer.content)[-1][1])["grpc-status"] == "0"


async def test_other_codings_are_unimplemented(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, WHOLE, "json", json_of(ASKED), content_encoding="br")
    assert (answer.status_code, answer.json()["code"]) == (501, "unimplemented")
    assert "gzip" in answer.json()["message"]


async def test_requests_have_the_limit_of_other_calls(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp, server_limits={"max_body_bytes": LIMIT})
    long = json_of({**ASKED, "userPrompt": "a" * LIMIT})
    for content, headers in ((long, {}), (gzip.compress(long), ZIPPED)):
        answer = await post(live.client, WHOLE, "json", content, **headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
        assert str(LIMIT) in answer.json()["message"]


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1e3", "12345678901", "soon", "٣"])
def test_bad_timeouts_are_named(value: str) -> None:
    with pytest.raises(BadRequest, match="connect-timeout-ms"):
        seconds_of([(b"connect-timeout-ms", value.encode())], "connect")
    with pytest.raises(BadRequest, match="grpc-timeout"):
        seconds_of([(b"grpc-timeout", value.encode() + b"X")], "grpc-web")


def test_timeouts_are_seconds() -> None:
    assert seconds_of([(b"connect-timeout-ms", b"0001500")], "connect") == 1.5
    assert seconds_of([(b"grpc-timeout", b"2M")], "grpc-web") == 120
    assert seconds_of([(b"grpc-timeout", b"20m")], "grpc-web") == 0.02
    assert seconds_of([(b"grpc-timeout", b"2M")], "connect") is None


@given(
    body=st.binary(max_size=60)
    | st.binary(max_size=40).map(frame)
    | st.binary().map(gzip.compress),
    kind=st.sampled_from(sorted(FORMATS)),
    coding=st.sampled_from([b"", b"gzip", b"identity", b"br"]),
)
async def test_any_body_is_a_message_or_an_error(body: bytes, kind: str, coding: bytes) -> None:
    format_ = FORMATS[kind]
    headers = [(b"content-encoding", coding), (format_.message_coding, coding)]
    with contextlib.suppress(BadRequest, BodyTooLarge, UnknownCoding):
        found = await message_of(body, headers, format_, LIMIT)
        if format_.is_json:
            found = from_json(MESSAGES, NAME, found)
        MESSAGES.read(NAME, found)


async def test_a_small_body_cannot_become_a_large_one() -> None:
    bomb = zlib.compressobj(wbits=31)
    body = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(64)) + bomb.flush()
    with pytest.raises(BodyTooLarge, match="decompressed"):
        await message_of(body, [(b"content-encoding", b"gzip")], FORMATS["application/json"], LIMIT)


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(prompt=texts, tokens=st.integers(0, 2**31 - 1), top_p=st.floats(0, 1))
def test_json_and_protobuf_say_the_same(prompt: str, tokens: int, top_p: float) -> None:
    sent = request(user_prompt=prompt, max_tokens=tokens, top_p=top_p)
    assert from_json(MESSAGES, NAME, to_json(MESSAGES, NAME, sent)) == sent

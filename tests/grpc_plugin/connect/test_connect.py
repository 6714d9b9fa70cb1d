"""Connect on the HTTP port: JSON and protobuf, unary and streams, and how RPCs end."""

import json

import pytest
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
    reason,
    request,
)

from gateway import Call, TooManyRequests, hookimpl
from gateway.testing import GatewayFor, entry


class Seeing:
    """Sees the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @hookimpl
    def admit(self, call: Call) -> None:
        self.calls.append(call)


class Refusing:
    @hookimpl
    def admit(self, call: Call) -> None:
        raise TooManyRequests("slowly", headers=((b"retry-after", b"7"),))


async def test_json_is_answered_with_json(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp, Seeing)
    answer = await post(live.client, WHOLE, "json; charset=utf-8", json_of(ASKED), x_request_id="r")
    found = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r"
    assert found["outputText"]
    assert found["totalTokens"] == found["promptTokens"] + 8
    assert isinstance(found["latencyMs"], str)  # an int64 is a string in protobuf's JSON
    [call] = live.plugin(Seeing).calls
    assert (call.frontend, call.path, call.client) == (
        "connect",
        "/v1/chat/completions",
        "127.0.0.1",
    )


async def test_protobuf_is_answered_with_protobuf(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    sent = request(model="sim", user_prompt="Hello", max_tokens=8)
    answer = await post(live.client, WHOLE, "proto", sent)
    found = MESSAGES.type("llm.v1.ChatCompletionResponse").FromString(answer.content)
    assert (answer.headers["content-type"], found.completion_tokens) == ("application/proto", 8)


async def test_a_stream_is_frames_and_an_end(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, STREAM, "connect+json", frame(json_of(ASKED)))
    *messages, (flags, end) = frames(answer.content)
    chunks = [json.loads(data) for _, data in messages]
    assert {flags for flags, _ in messages} == {0}
    assert "".join(chunk.get("deltaText", "") for chunk in chunks)
    assert chunks[-1]["finishReason"] in ("length", "stop")
    assert flags == 0x02
    assert list(json.loads(end)) == ["metadata"]
    assert answer.headers["x-request-id"] == json.loads(end)["metadata"]["x-request-id"][0]


async def test_a_stream_may_be_protobuf(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    sent = frame(request(model="sim", user_prompt="Hello", max_tokens=8))
    answer = await post(live.client, STREAM, "connect+proto", sent)
    *messages, _ = frames(answer.content)
    chunk = MESSAGES.type("llm.v1.ChatCompletionChunkResponse")
    assert [chunk.FromString(data) for _, data in messages][-1].completionTokens > 0


async def test_an_error_of_a_unary_call_has_its_status_of_http(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp, Refusing)
    answer = await post(live.client, WHOLE, "proto", request(model="sim"))
    error = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/json")
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"]
    assert (error["code"], error["message"]) == ("resource_exhausted", "slowly")
    assert reason(error) == "RATE_LIMIT_EXCEEDED"
    assert {one["type"] for one in error["details"]} >= {"google.rpc.RetryInfo"}


async def test_an_error_of_a_stream_is_its_end(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    sent = frame(json_of({**ASKED, "model": "none"}))
    answer = await post(live.client, STREAM, "connect+json", sent)
    [(flags, end)] = frames(answer.content)
    error = json.loads(end)["error"]
    assert (answer.status_code, flags, error["code"]) == (200, 0x02, "not_found")
    assert reason(error) == "NOT_FOUND"


async def test_a_key_is_needed_where_calls_need_one(
    gateway_for: GatewayFor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text('{"keys": [{"id": "a", "token": "gw-a"}]}')
    file.chmod(0o600)
    live = await gateway_for(OverHttp, entry("auth", keys_file=str(file)), Seeing)
    refused = await post(live.client, WHOLE, "json", b"not even JSON")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    key = {"authorization": "Bearer gw-a"}
    taken = await post(live.client, WHOLE, "json", json_of(ASKED), **key)
    assert taken.status_code == 200
    [call] = live.plugin(Seeing).calls
    assert call.principal is not None
    assert call.principal.id == "a"


@pytest.mark.parametrize(
    ("path", "kind"),
    [(WHOLE, "connect+json"), (STREAM, "json"), (WHOLE, "grpc"), (WHOLE, "x-www-form-urlencoded")],
)
async def test_a_method_has_its_content_types(
    gateway_for: GatewayFor, path: str, kind: str
) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, path, kind, b"")
    assert answer.status_code == 415
    assert "application/grpc-web" in answer.headers["accept-post"]
    assert f"application/{kind}" not in answer.headers["accept-post"].split(", ")


async def test_other_methods_of_http_are_refused(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await live.client.get(WHOLE)
    assert (answer.status_code, "POST" in answer.headers["allow"]) == (405, True)
    assert (await live.client.post("/llm.v1.LlmService/Nope")).status_code == 404


async def test_pages_of_allowed_sites_may_call(gateway_for: GatewayFor) -> None:
    page = "https://chat.example"
    live = await gateway_for(OverHttp, cors={"origins": [page]})
    asked = {"origin": page, "access-control-request-method": "POST"}
    allowed = await live.client.options(WHOLE, headers=asked)
    assert allowed.headers["access-control-allow-origin"] == page
    answer = await post(live.client, WHOLE, "json", json_of(ASKED), origin=page)
    assert answer.headers["access-control-allow-origin"] == page
    refused = await live.client.options(WHOLE, headers=asked | {"origin": "https://evil.example"})
    assert refused.status_code == 403

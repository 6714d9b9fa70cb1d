"""gRPC-Web on the HTTP port: frames, and trailers in the body."""

import base64

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

from gateway import Call, NoWorker, hookimpl
from gateway.testing import GatewayFor


class Refusing:
    """Refuses with a text that trailers cannot have as it is."""

    @hookimpl
    def admit(self, call: Call) -> None:
        raise NoWorker(f"{call.frontend}: 100% größer\nthan")


async def test_a_response_ends_with_trailers(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    sent = frame(request(model="sim", user_prompt="Hello", max_tokens=8))
    answer = await post(live.client, WHOLE, "grpc-web+proto", sent, x_request_id="mine")
    [(flags, data), (last, end)] = frames(answer.content)
    found = MESSAGES.type("llm.v1.ChatCompletionResponse").FromString(data)
    assert answer.headers["content-type"] == "application/grpc-web+proto"
    assert (flags, found.completion_tokens, last) == (0, 8, 0x80)
    assert trailers(end) == {"grpc-status": "0", "x-request-id": "mine"}


async def test_a_stream_has_a_frame_for_each_message(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, STREAM, "grpc-web+json", frame(json_of(ASKED)))
    *messages, (last, end) = frames(answer.content)
    assert len(messages) >= 2
    assert (last, trailers(end)["grpc-status"]) == (0x80, "0")


async def test_an_error_is_in_the_trailers(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp, Refusing)
    answer = await post(live.client, STREAM, "grpc-web", frame(request(model="sim")))
    [(flags, data)] = frames(answer.content)
    found = trailers(data)
    assert (answer.status_code, flags, found["grpc-status"]) == (200, 0x80, "14")
    assert found["grpc-message"] == "grpc-web: 100%25 gr%C3%B6%C3%9Fer%0Athan"
    text = found["grpc-status-details-bin"]
    whole = MESSAGES.type("google.rpc.Status").FromString(
        base64.b64decode(text + "=" * (-len(text) % 4))
    )
    assert (whole.code, whole.message) == (14, "grpc-web: 100% größer\nthan")

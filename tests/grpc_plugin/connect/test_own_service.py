"""The gateway's own service over HTTP: a unary method, a stream, and one that is no call."""

import base64
import json

from support.grpc.over_http import OverHttp, frame, frames, json_of, post

from gateway.testing import GatewayFor

OWN = "/gateway.v1.GatewayService/"


async def test_models_are_listed(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, f"{OWN}ListModels", "json", b"{}")
    assert [one["id"] for one in answer.json()["models"]] == ["sim"]


async def test_a_call_has_its_json_in_base64(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    body = {"model": "sim", "prompt": "Hello", "max_tokens": 3, "stream": True}
    sent = {"path": "/v1/completions", "body": base64.b64encode(json_of(body)).decode()}
    answer = await post(live.client, f"{OWN}Call", "connect+json", frame(json_of(sent)))
    *messages, (_, end) = frames(answer.content)
    chunks = [json.loads(data) for _, data in messages]
    events = [json.loads(base64.b64decode(one["json"])) for one in chunks if one.get("json")]
    assert events[-1]["choices"][0]["finish_reason"] in ("length", "stop")
    assert chunks[-1]["done"] is True
    assert "error" not in json.loads(end)


async def test_an_abort_says_that_there_was_no_such_call(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, f"{OWN}Abort", "json", json_of({"requestId": "none"}))
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["x-request-id"]
    refused = await post(live.client, f"{OWN}Abort", "json", b"{}")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_argument")

"""The methods on the HTTP port alone: the library `grpc` stays out of this process."""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from gateway_plugins.grpc.connect.endpoint import routes
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.options import Options
from gateway_plugins.grpc.served import Served
from starlette.routing import BaseRoute

from gateway import Host, hookimpl

WHOLE = "/llm.v1.LlmService/ChatCompletion"
STREAM = "/llm.v1.LlmService/ChatCompletionStream"

ASKED = {"model": "sim", "userPrompt": "Hello", "maxTokens": 8}

MESSAGES = Messages()

HEAD = struct.Struct(">BI")


class OverHttp:
    """A plugin."""

    served: Served

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        self.served = Served(gateway, Options())
        return routes(gateway, self.served)


def frame(data: bytes, flags: int = 0) -> bytes:
    return HEAD.pack(flags, len(data)) + data


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flags and the data of each message of a body."""
    found = []
    while body:
        flags, size = HEAD.unpack_from(body)
        found.append((flags, body[HEAD.size : HEAD.size + size]))
        assert len(body) >= HEAD.size + size
        body = body[HEAD.size + size :]
    return found


def request(**fields: Any) -> bytes:
    """A request of `llm.v1` in protobuf's encoding."""
    data: bytes = MESSAGES.type("llm.v1.ChatCompletionRequest")(**fields).SerializeToString()
    return data


async def post(
    client: httpx.AsyncClient, path: str, kind: str, content: bytes, **headers: str
) -> httpx.Response:
    told = {"content-type": f"application/{kind}"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, content=content, headers=told)


def trailers(data: bytes) -> dict[str, str]:
    """The trailers of gRPC-Web."""
    lines = data.decode().split("\r\n")
    return dict(line.split(": ", 1) for line in lines if line)


def reason(error: Mapping[str, Any]) -> str:
    """The reason in the details of Connect's error, read from the bytes and not from `debug`."""
    [value] = [one["value"] for one in error["details"] if one["type"] == "google.rpc.ErrorInfo"]
    data = base64.b64decode(value + "=" * (-len(value) % 4))
    found: str = MESSAGES.type("google.rpc.ErrorInfo").FromString(data).reason
    return found


def json_of(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()

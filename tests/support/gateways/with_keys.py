"""A file of keys, and a gateway that goes by it."""

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
from gateway_plugins.auth import Auth

from gateway.testing import GatewayFor, Live, entry

TOKEN = "gw-canary-6b1e"
CHAT = "/v1/chat/completions"
BODY = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


class KeysOnDisk(msgspec.Struct, frozen=True):
    """The file, as whoever writes it by hand."""

    path: Path

    def write(self, *keys: dict[str, Any]) -> None:
        self.put(json.dumps({"keys": keys}).encode())

    def put(self, data: bytes) -> None:
        self.path.write_bytes(data)
        self.path.chmod(0o600)


def key(token: str = TOKEN, id: str = "alice", **more: object) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "token": token, **more}


async def keyed(gateway_for: GatewayFor, disk: KeysOnDisk, *plugins: Any, **settings: Any) -> Live:
    """It looks at the file when it is told to, and when it starts."""
    auth = entry("auth", keys_file=str(disk.path), check_interval=3600.0)
    return await gateway_for(auth, *plugins, **settings)


async def look(live: Live) -> None:
    await live.plugin(Auth).file.look()


async def ask(live: Live, token: str | None = TOKEN, **headers: str) -> httpx.Response:
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return await live.client.post(CHAT, json=BODY, headers=headers)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]

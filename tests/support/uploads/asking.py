"""A gateway that takes uploads, and requests of the protocol by hand."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
from support.gateways.batch_doors import Badges

from gateway.testing import GatewayFor, Live, entry

PLUGIN = "gateway_plugins.uploads.plugin:ModelUploads"
TUS = {"tus-resumable": "1.0.0"}
BYTES = {**TUS, "content-type": "application/offset+octet-stream"}


async def uploading(gateway_for: GatewayFor, folder: Path, *plugins: Any, **options: Any) -> Live:
    """A gateway whose models go to the folder `cache`."""
    options = {"cache": str(folder / "cache"), "keep_free_gb": 0, **options}
    return await gateway_for(*plugins, entry(PLUGIN, **options))


async def with_badges(gateway_for: GatewayFor, folder: Path, **options: Any) -> Live:
    """The same, and its callers are those of their badges."""
    return await uploading(gateway_for, folder, Badges, **options)


def metadata(**pairs: str | bytes | None) -> str:
    """The header with these pairs."""

    def pair(key: str, value: str | bytes | None) -> str:
        if value is None:
            return key
        data = value.encode() if isinstance(value, str) else value
        return f"{key} {base64.b64encode(data).decode()}"

    return ",".join(pair(key, value) for key, value in pairs.items())


async def create(
    live: Live, length: int | None, model: str | None = "org/tiny", **headers: str
) -> httpx.Response:
    """Create an upload of a model."""
    given = {**TUS, "upload-length": str(length)} if length is not None else {**TUS}
    if model is not None:
        given["upload-metadata"] = metadata(model_name=model)
    return await live.client.post("/upload", headers={**given, **headers})


async def begun(
    live: Live, length: int | None, model: str | None = "org/tiny", **headers: str
) -> str:
    """The path of a new upload."""
    answer = await create(live, length, model, **headers)
    assert answer.status_code == 201, answer.text
    return f"/{answer.headers['location']}"


async def patch(live: Live, path: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    given = {**BYTES, "upload-offset": str(offset), **headers}
    return await live.client.patch(path, headers=given, content=data)


async def head(live: Live, path: str, **headers: str) -> httpx.Response:
    return await live.client.head(path, headers={**TUS, **headers})


async def offset_of(live: Live, path: str) -> int:
    answer = await head(live, path)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


async def over(live: Live, path: str, **headers: str) -> dict[str, Any]:
    """What becomes of an upload."""
    answer = await live.client.get(path, params={"wait": 60}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] in ("completed", "failed", "expired"), found
    return found


async def install(
    live: Live,
    data: bytes,
    model: str = "org/tiny",
    headers: dict[str, str] | None = None,
    **pairs: str | None,
) -> dict[str, Any]:
    """Upload a model whole; return what becomes of it."""
    pairs = {"model_name": model, "sha256": hashlib.sha256(data).hexdigest(), **pairs}
    given = {**(headers or {}), "upload-metadata": metadata(**pairs)}
    path = await begun(live, len(data), None, **given)
    answer = await patch(live, path, 0, data, **(headers or {}))
    assert answer.status_code == 204, answer.text
    return await over(live, path, **(headers or {}))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]

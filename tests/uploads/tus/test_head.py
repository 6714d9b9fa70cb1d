"""HEAD is never answered with what clients take for the loss of an upload; pages of other sites."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.uploads.plugin import ModelUploads
from support.uploads.asking import PLUGIN, TUS, begun, code, head, patch, uploading

from gateway import Call, CallError, Principal, TooManyRequests, hookimpl
from gateway.testing import GatewayFor, entry


class Failing:
    """Refuses requests that ask for it."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        raised: dict[str | None, Exception] = {
            "429": TooManyRequests("too many"),
            "500": CallError("broken"),
            "bug": RuntimeError("a bug"),
        }
        if (error := raised.get(call.header("x-fail"))) is not None:
            raise error
        return Principal("me", frozenset(("upload",)))


@pytest.mark.parametrize(
    ("failure", "status"),
    [("429", 429), ("500", 500), ("bug", 500)],
)
async def test_head_is_cut_off_in_place_of_429_and_5xx(
    gateway_for: GatewayFor, tmp_path: Path, failure: str, status: int
) -> None:
    live = await uploading(gateway_for, tmp_path, Failing)
    path = await begun(live, 10)
    with pytest.raises(httpx.RemoteProtocolError):
        await head(live, path, **{"x-fail": failure})
    answer = await live.client.delete(path, headers={**TUS, "x-fail": failure})
    assert answer.status_code == status
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert (await head(live, path)).status_code == 200


async def test_head_is_cut_off_while_the_folder_cannot_be_read(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, 10)
    folder = live.plugin(ModelUploads).uploads().folder
    file = folder.file(path.rpartition("/")[2])
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(httpx.RemoteProtocolError):
        await head(live, path)
    assert code(await patch(live, path, 0, b"x")) == (503, "uploads_unavailable")


async def test_head_is_cut_off_while_the_database_cannot_be_read(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, 10)
    await live.gateway.storage.close()
    with pytest.raises(httpx.RemoteProtocolError):
        await head(live, path)
    assert code(await patch(live, path, 0, b"x")) == (503, "storage_unavailable")


CORS: dict[str, Any] = {"origins": ["https://page.example"]}
PREFLIGHT = {
    "origin": "https://page.example",
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "tus-resumable,upload-offset",
}


async def test_pages_of_named_origins_may_upload(gateway_for: GatewayFor, tmp_path: Path) -> None:
    plugin = entry(PLUGIN, cache=str(tmp_path), keep_free_gb=0)
    live = await gateway_for(Failing, plugin, cors=CORS)
    allowed = await live.client.options("/upload", headers=PREFLIGHT)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert "PATCH" in allowed.headers["access-control-allow-methods"]
    assert allowed.headers["access-control-allow-headers"] == "tus-resumable,upload-offset"
    assert allowed.headers["tus-version"] == "1.0.0"
    path = await begun(live, 10)
    of_page = {"origin": "https://page.example", "sec-fetch-site": "cross-site"}
    answer = await head(live, path, **of_page)
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"Location", "Upload-Offset", "Upload-Length", "Tus-Resumable"} <= set(exposed)
    other = {**PREFLIGHT, "origin": "https://other.example"}
    assert (await live.client.options("/upload", headers=other)).status_code == 403
    refused = await head(live, path, origin="https://other.example")
    assert "access-control-allow-origin" not in refused.headers


async def test_preflights_get_nothing_if_no_origin_is_named(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    answer = await live.client.options("/upload", headers=PREFLIGHT)
    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control")]

"""Whose files they are: each key its own, `admin` all; and the scopes that open the routes."""

from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from support.batch.files import client_of, contents
from support.gateways.with_keys import KeysOnDisk, key, keyed

from gateway.testing import GatewayFor, Live

KEYS = {"ann": "batch", "bob": "upload", "eve": "realtime", "root": "admin+batch"}


async def started(gateway_for: GatewayFor, folder: Path) -> Live:
    disk = KeysOnDisk(folder / "keys.json")
    disk.write(*(key(f"gw-{name}", name, scopes=some.split("+")) for name, some in KEYS.items()))
    return await keyed(gateway_for, disk, "batch")


def as_(name: str, live: Live) -> AsyncOpenAI:
    return client_of(live, f"gw-{name}")


async def test_file_of_another_key_is_404(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_("ann", live) as ann, as_("bob", live) as bob:
        made = await ann.files.create(file=b"content", purpose="batch")
        own = await bob.files.create(file=b"other", purpose="batch")
        for ask in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError) as refused:
                await ask(made.id)
            with pytest.raises(openai.NotFoundError) as unknown:
                await ask("file-unknown")
            said = str(refused.value).replace(made.id, "file-unknown")
            assert said == str(unknown.value)
        assert [file.id async for file in bob.files.list()] == [own.id]
        assert [file.id async for file in ann.files.list()] == [made.id]
        after = await bob.files.list(after=made.id, order="asc")
        assert [file.id for file in after.data] == [own.id]
    assert len(contents(live)) == 2


async def test_admin_sees_the_files_of_all(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_("ann", live) as ann, as_("root", live) as root:
        made = await ann.files.create(file=b"content", purpose="batch")
        own = await root.files.create(file=b"x", purpose="batch")
        assert [file.id async for file in root.files.list()] == [own.id, made.id]
        assert (await root.files.content(made.id)).content == b"content"
        await root.files.delete(made.id)
        assert [file async for file in ann.files.list()] == []


@pytest.mark.parametrize(("name", "may"), [("ann", True), ("bob", True), ("eve", False)])
async def test_scope_batch_or_upload_opens_files(
    gateway_for: GatewayFor, tmp_path: Path, name: str, may: bool
) -> None:
    live = await started(gateway_for, tmp_path)
    async with as_(name, live) as client:
        if may:
            assert (await client.files.list()).data == []
            return
        for path in ("", "/x", "/x/content"):
            with pytest.raises(openai.PermissionDeniedError, match="`batch` or `upload`"):
                await client.get(f"/files{path}", cast_to=object)
        with pytest.raises(openai.PermissionDeniedError):
            await client.files.create(file=b"x", purpose="batch")
    assert contents(live) == []


async def test_caller_without_a_key_is_401_before_its_body(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, tmp_path)
    for headers in ({}, {"authorization": "Bearer gw-nobody"}):
        answer = await live.client.post("/v1/files", content=b"x", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

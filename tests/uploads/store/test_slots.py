"""So many uploads of a key are received at a time, whichever process receives them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.uploads.store.slots import Slots
from support.callers.raw_client import RawClient
from support.gateways.serving_processes import a_client_of_each, several
from support.steady import at_once
from support.uploads.asking import BYTES, PLUGIN, TUS, metadata

MIB = 1 << 20

HOLD = """
import asyncio, pathlib, sys
from gateway_plugins.uploads.store.slots import Slots

async def main():
    async with Slots(pathlib.Path(sys.argv[1])).slot("ada", int(sys.argv[2])):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@asynccontextmanager
async def another(file: Path, most: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has a slot."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(file), str(most)),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def is_free(slots: Slots, owner: str, most: int) -> bool:
    """Whether a slot is free now, and stays so."""
    try:
        async with at_once(60), slots.slot(owner, most):
            return True
    except TimeoutError:
        return False


async def test_slots_are_those_of_all_processes(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    async with another(tmp_path / "slots", 2) as process:
        async with slots.slot("ada", 2):
            assert not await is_free(slots, "ada", 2)
            assert await is_free(slots, "ada", 3)
            assert await is_free(slots, "bob", 1)
            waiting = asyncio.ensure_future(slots.slot("ada", 2).__aenter__())
            process.kill()
            await waiting
    slots.close()


async def test_slots_are_given_back(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    for _ in range(3):
        async with slots.slot("ada", 1):
            waiting = asyncio.create_task(is_free(slots, "ada", 1))
            await asyncio.sleep(0)
        assert await waiting
    async with another(tmp_path / "slots", 1):
        assert not await is_free(slots, "ada", 1)
    assert await is_free(slots, "ada", 1)
    slots.close()


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: gateway", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def begun(client: RawClient, length: int) -> str:
    named = {"upload-length": str(length), "upload-metadata": metadata(model_name="org/tiny")}
    await client.send(request("POST", "/upload", {**TUS, **named}))
    location = (await client.answer()).value(b"location")
    assert location is not None
    return f"/{location.decode()}"


async def stored(client: RawClient, path: str, size: int) -> None:
    """Wait until so many bytes of an upload are there."""
    while msgspec.json.decode((await client.ask("GET", path)).body)["offset"] < size:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_an_upload_waits_for_one_that_another_process_receives(tmp_path: Path) -> None:
    options = {"cache": str(tmp_path / "cache"), "keep_free_gb": 0, "max_at_once": 1}
    async with several(tmp_path / "gateway.yaml", 2, (PLUGIN, options)) as process:
        async with a_client_of_each(process, 2) as (one, other):
            first, second = await begun(one, 4 * MIB), await begun(other, 20)
            given = {**BYTES, "upload-offset": "0"}
            whole = request("PATCH", first, given, bytes(2 * MIB))
            await one.send(whole[:-1])
            await stored(other, first, MIB)
            await other.send(request("PATCH", second, given, b"0123456789"))
            answer = asyncio.ensure_future(other.answer())
            assert not (await asyncio.wait([answer], timeout=1))[0]
            await one.send(whole[-1:])
            assert (await one.answer()).status == 204
            assert (await answer).status == 204

"""Bytes that arrive, callers that leave, and two callers of one upload."""

import asyncio
import random
from pathlib import Path

from gateway_plugins.uploads.plugin import ModelUploads
from support.callers.raw_client import RawClient, head_of
from support.uploads.asking import (
    TUS,
    begun,
    create,
    head,
    metadata,
    offset_of,
    patch,
    uploading,
)
from support.uploads.slow_caller import ended, patch_head, raw, sending, stored

from gateway.testing import GatewayFor, Live

MIB = 1024 * 1024
CONTENT = random.Random(1).randbytes(3 * MIB + 17)


def content_of(live: Live, path: str) -> bytes:
    folder = live.plugin(ModelUploads).uploads().folder
    return folder.file(path.rpartition("/")[2]).read_bytes()


async def test_fault_9_1_bytes_are_kept_when_the_caller_leaves(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path, at = await begun(live, len(CONTENT) + 1), 0
    for cut in (1, MIB + 1, 3 * MIB + 5):
        async with sending(live, path, at, len(CONTENT) - at, CONTENT[at:cut]) as caller:
            caller.writer.write_eof()
            await ended(caller)
        await stored(live, path, cut)
        at = await offset_of(live, path)
        assert at == cut
    assert (await patch(live, path, at, CONTENT[at:])).status_code == 204
    assert content_of(live, path) == CONTENT


async def test_fault_9_1_bytes_are_on_the_disk_before_the_request_ends(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(CONTENT))
    async with sending(live, path, 0, len(CONTENT), CONTENT[: 2 * MIB]):
        await stored(live, path, MIB)


async def test_fault_9_2_two_patches_at_one_offset_append_once(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(CONTENT))
    async with sending(live, path, 0, len(CONTENT), CONTENT[: MIB + 9]) as first:
        await stored(live, path, MIB)
        second = await patch(live, path, 0, b"x" * 100)
        assert second.status_code == 409
        offset = int(second.headers["upload-offset"])
        assert MIB <= offset <= MIB + 9
        assert await ended(first) == b""  # its caller comes again
    assert (await patch(live, path, offset, CONTENT[offset:-1])).status_code == 204
    assert content_of(live, path) == CONTENT[:-1]


async def test_fault_9_2_many_patches_at_once_leave_one_content(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, max_at_once=64)
    path = await begun(live, 9 * MIB)
    bodies = [bytes([number]) * (MIB + number) for number in range(8)]

    async def send(body: bytes) -> int:
        async with raw(live) as client:
            await client.send(patch_head(path, 0, len(body)) + body)
            return len(await ended_or_answered(client))

    await asyncio.gather(*map(send, bodies))
    content = content_of(live, path)
    assert any(body.startswith(content) for body in bodies)
    assert len(content) == await offset_of(live, path)


async def ended_or_answered(client: RawClient) -> bytes:
    try:
        return await client.reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""


async def test_head_takes_the_lock_over_from_a_dead_connection(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, hand_over=10)
    path = await begun(live, len(CONTENT))
    async with sending(live, path, 0, len(CONTENT), CONTENT[: MIB + 100]) as dead:
        await stored(live, path, MIB)
        offset = await offset_of(live, path)
        assert MIB <= offset <= MIB + 100
        assert (await patch(live, path, offset, CONTENT[offset:-1])).status_code == 204
        assert await ended(dead) == b""
    assert content_of(live, path) == CONTENT[:-1]


async def test_checked_patch_is_all_or_nothing(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(CONTENT))
    checksum = "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="
    assert (await patch(live, path, 0, b"hello")).status_code == 204
    async with sending(
        live, path, 5, len(CONTENT) - 5, CONTENT[: 2 * MIB], upload_checksum=checksum
    ) as caller:
        caller.writer.write_eof()
        await ended(caller)
    assert await offset_of(live, path) == 5
    wrong = await patch(live, path, 5, CONTENT[: 2 * MIB], **{"upload-checksum": checksum})
    assert wrong.status_code == 460
    assert await offset_of(live, path) == 5
    assert content_of(live, path) == b"hello"


async def test_silent_caller_is_cut_off(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path, idle=0.05)
    path = await begun(live, 10)
    async with sending(live, path, 0, 10, b"abc") as caller:
        assert await ended(caller) == b""
    assert await offset_of(live, path) == 3


async def test_drain_keeps_what_has_come(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(CONTENT))
    async with sending(live, path, 0, len(CONTENT), CONTENT[: MIB + 3]) as caller:
        await stored(live, path, MIB)
        draining = asyncio.create_task(live.gateway.drain(5))
        assert await ended(caller) == b""
        await draining
    assert MIB <= await offset_of(live, path) <= MIB + 3


async def test_fault_9_11_lengths(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path, max_bytes=100)
    assert (await create(live, -1)).status_code == 400
    assert (await create(live, 101)).status_code == 413
    empty = await create(live, 0)
    assert (empty.status_code, empty.headers["x-upload-status"]) == (201, "verifying")
    path = await begun(live, 10)
    async with raw(live) as client:  # refused by its length, before any byte of the body
        await client.send(patch_head(path, 0, 11))
        answer = await client.answer()
        assert (answer.status, answer.value(b"connection")) == (413, b"close")
    chunks = b"6\r\nabcdef\r\n6\r\nghijkl\r\n"
    async with sending(live, path, 0, None, chunks) as client:  # and cut off at the limit
        assert (await client.answer()).status == 413
    assert await offset_of(live, path) == 0
    deferred = await begun(live, None, **{"upload-defer-length": "1"})
    assert (await patch(live, deferred, 0, bytes(101))).status_code == 413


async def test_deferred_length_comes_with_a_later_patch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, None, **{"upload-defer-length": "1"})
    assert (await head(live, path)).headers["upload-defer-length"] == "1"
    assert (await patch(live, path, 0, b"abc")).status_code == 204
    wrong = await patch(live, path, 3, b"", **{"upload-length": "2"})
    assert wrong.status_code == 400
    last = await patch(live, path, 3, b"de", **{"upload-length": "5"})
    assert (last.status_code, last.headers["x-upload-status"]) == (204, "verifying")


async def test_body_of_a_creation_is_kept_as_that_of_a_patch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    request = head_of(
        "POST",
        "/upload",
        [
            (b"tus-resumable", b"1.0.0"),
            (b"content-type", b"application/offset+octet-stream"),
            (b"upload-metadata", metadata(model_name="tiny").encode()),
            (b"upload-length", b"10"),
            (b"content-length", b"4"),
        ],
    )
    async with raw(live) as client:
        await client.send(request + b"abcd")
        answer = await client.answer()
    assert (answer.status, answer.value(b"upload-offset")) == (201, b"4")
    path = f"/{(answer.value(b'location') or b'').decode()}"
    assert await offset_of(live, path) == 4
    assert (await live.client.delete(path, headers=TUS)).status_code == 204


async def test_uploads_of_a_key_wait_for_one_another(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, max_at_once=1)
    one, other = await begun(live, 2 * MIB), await begun(live, 10)
    async with sending(live, one, 0, 2 * MIB, bytes(MIB)) as caller:
        await stored(live, one, MIB)
        waiting = asyncio.create_task(patch(live, other, 0, b"0123"))
        await caller.send(bytes(MIB // 2))
        await live.client.get(other)
        assert not waiting.done()
        await caller.send(bytes(MIB // 2))
        assert (await caller.answer()).status == 204
        assert (await waiting).status_code == 204


async def test_too_many_unfinished_uploads(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path, max_open_per_key=2)
    first = await begun(live, 10)
    await begun(live, 10)
    assert (await create(live, 10)).status_code == 429
    assert (await head(live, first)).status_code == 200
    await live.client.delete(first, headers=TUS)
    assert (await create(live, 10)).status_code == 201

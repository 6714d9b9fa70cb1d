"""Contents, whole and in ranges, and callers that do not take them in."""

import asyncio
import os
import random
from pathlib import Path

import httpx
import openai
import pytest
from gateway_plugins.batch.doors.files.content import PIECE, Range, RangeNotSatisfiable, range_of
from hypothesis import given
from hypothesis import strategies as st
from support.batch.files import client_of, files_of, open_files, raw
from support.callers.leaving_caller import leave
from support.callers.raw_client import head_of

from gateway.testing import GatewayFor, Live

CONTENT = random.Random(1).randbytes(3 * PIECE + 17)


async def stored(live: Live, content: bytes = CONTENT, name: str = "a.jsonl") -> str:
    async with client_of(live) as client:
        return (await client.files.create(file=(name, content), purpose="batch")).id


async def ask(live: Live, file_id: str, **headers: str) -> httpx.Response:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return await live.client.get(f"/v1/files/{file_id}/content", headers=lines)


async def test_content_has_its_length_and_is_never_a_page(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    file_id = await stored(live, b"<script>", 'x"\r\n€.html')
    answer = await ask(live, file_id)
    assert (answer.status_code, answer.content) == (200, b"<script>")
    assert answer.headers["content-length"] == "8"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith("attachment; filename*=UTF-8''x%22")
    assert disposition.endswith("%E2%82%AC.html")


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=5-", 5, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=-99999999", 0, len(CONTENT)),
        ("bytes=0-99999999", 0, len(CONTENT)),
        (f"bytes={PIECE - 1}-{2 * PIECE}", PIECE - 1, 2 * PIECE + 1),
    ],
)
async def test_range_of_a_content_is_206(
    gateway_for: GatewayFor, text: str, begin: int, end: int
) -> None:
    live = await gateway_for("batch")
    answer = await ask(live, await stored(live), range=text)
    assert (answer.status_code, answer.content) == (206, CONTENT[begin:end])
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - begin)


async def test_range_behind_the_end_is_416(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    empty = await stored(live, b"")
    for file_id, text, size in (
        (await stored(live), f"bytes={len(CONTENT)}-", len(CONTENT)),
        (empty, "bytes=0-", 0),
        (empty, "bytes=-1", 0),
    ):
        answer = await ask(live, file_id, range=text)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            416,
            "range_not_satisfiable",
        )
        assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "text", ["bytes=0-1,4-5", "lines=0-1", "bytes", "bytes=-", "bytes=5-4", "x" * 999]
)
async def test_other_ranges_are_ignored(gateway_for: GatewayFor, text: str) -> None:
    live = await gateway_for("batch")
    answer = await ask(live, await stored(live), range=text)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["accept-ranges"] == "bytes"


async def test_range_counts_only_for_the_content_that_the_caller_knows(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    file_id = await stored(live)
    tag = (await ask(live, file_id)).headers["etag"]
    assert (await ask(live, file_id, range="bytes=0-0", if_range=tag)).status_code == 206
    assert (await ask(live, file_id, range="bytes=0-0", if_range='"x"')).status_code == 200


async def test_head_has_the_length_without_the_content(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    target = f"/v1/files/{await stored(live)}/content"
    async with raw(live) as client:
        for _ in range(2):
            answer = await client.ask("HEAD", target)
            assert (answer.status, answer.body) == (200, b"")
            assert answer.value(b"content-length") == b"%d" % len(CONTENT)


async def test_interrupted_download_goes_on_where_it_ended(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    file_id = await stored(live)
    async with (
        client_of(live) as client,
        client.files.with_streaming_response.content(file_id) as answer,
    ):
        part = await anext(answer.iter_bytes(1_000))
    async with client_of(live) as client:
        rest = await client.files.content(file_id, extra_headers={"range": f"bytes={len(part)}-"})
    assert part + rest.content == CONTENT


async def test_download_goes_on_while_the_file_is_deleted(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    content = CONTENT * 8
    file_id = await stored(live, content)
    async with raw(live) as client:
        await client.send(head_of("GET", f"/v1/files/{file_id}/content", []))
        assert (await client.head()).status == 200
        async with client_of(live) as other:
            await other.files.delete(file_id)
        assert await client.reader.readexactly(len(content)) == content


async def opened(path: Path, wanted: bool) -> None:
    """Wait until the content is read, or is no more."""
    async with asyncio.timeout(20):
        while (path in open_files()) != wanted:  # noqa: ASYNC110  a descriptor has no event
            await asyncio.sleep(0.005)


def endless(live: Live, file_id: str) -> Path:
    """Make a content so long that it takes minutes to read, and no room on the disk."""
    path = files_of(live).folder.content(file_id)
    os.truncate(path, 1 << 38)
    return path


@pytest.mark.parametrize("reset", [False, True])
async def test_caller_that_leaves_ends_the_reading(gateway_for: GatewayFor, reset: bool) -> None:
    live = await gateway_for("batch")
    file_id = await stored(live, b"")
    path = endless(live, file_id)
    async with raw(live) as client:
        await client.send(head_of("GET", f"/v1/files/{file_id}/content", []))
        assert (await client.head()).status == 200
        await opened(path, True)
        leave(client, reset=reset)
        await opened(path, False)


async def test_caller_that_takes_nothing_in_ends_the_reading(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", timeouts={"idle": 0.3})
    file_id = await stored(live, b"")
    path = endless(live, file_id)
    async with raw(live) as client:
        await client.send(head_of("GET", f"/v1/files/{file_id}/content", []))
        assert (await client.head()).status == 200
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await opened(path, True)
        await opened(path, False)


async def test_content_that_is_lost_is_404(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    file_id = await stored(live)
    files_of(live).folder.content(file_id).unlink()
    async with client_of(live) as client:
        with pytest.raises(openai.NotFoundError, match="content of this file is gone"):
            await client.files.content(file_id)


@given(st.text(alphabet="bytes=-0123456789, ", max_size=30), st.integers(0, 300))
def test_range_is_within_the_content(text: str, size: int) -> None:
    try:
        found = range_of(text, size)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found.begin < found.end <= size


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300))
def test_range_has_the_bytes_that_it_names(first: int, last: int, size: int) -> None:
    content = range(size)
    if first < size and first <= last:
        assert content[slice(*_found(f"bytes={first}-{last}", size))] == content[first : last + 1]
        assert content[slice(*_found(f"bytes={first}-", size))] == content[first:]
    if last:
        assert content[slice(*_found(f"bytes=-{last}", size))] == content[-last:]


def _found(text: str, size: int) -> Range:
    found = range_of(text, size)
    assert found is not None
    return found

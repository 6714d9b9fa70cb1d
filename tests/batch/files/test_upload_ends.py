"""Uploads that do not come to a good end: nothing of them is kept."""

import asyncio
import resource
from collections.abc import Sequence
from pathlib import Path

import openai
import pytest
from gateway_plugins.batch.files.folder import PART
from gateway_plugins.batch.files.part import PIECE
from support.batch.files import (
    FORM,
    PURPOSE,
    client_of,
    contents,
    file_part,
    form,
    open_files,
    raw,
    with_length,
    written,
)
from support.callers.leaving_caller import leave
from support.callers.raw_client import head_of

from gateway.testing import GatewayFor, Live, entry

MIB = 1024 * 1024
SMALL = {"max_batch_file_bytes": 1_000, "max_file_bytes": 2_000}


async def until(wanted: int, live: Live) -> None:
    """Wait until so many contents are in the folder."""
    async with asyncio.timeout(20):
        while len(contents(live)) != wanted:  # noqa: ASYNC110  a folder has no event for it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("reset", [False, True])
async def test_caller_that_leaves_leaves_nothing_behind(
    gateway_for: GatewayFor, reset: bool
) -> None:
    live = await gateway_for("batch")
    assert (await live.client.get("/v1/files")).status_code == 200
    async with raw(live) as client:
        await client.send(head_of("POST", "/v1/files", with_length(100 * MIB)))
        await client.send(written(PURPOSE) + written(file_part(b"x" * 4 * PIECE))[:-2])
        await until(1, live)
        leave(client, reset=reset)
        await until(0, live)
    assert (await live.client.get("/v1/files")).json()["data"] == []
    assert not [path for path in open_files() if path.suffix == PART]


async def test_caller_that_stops_sending_leaves_nothing_behind(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", timeouts={"idle": 0.05})
    async with raw(live) as client:
        await client.send(head_of("POST", "/v1/files", with_length(MIB)))
        await client.send(written(PURPOSE) + written(file_part(b"x"))[:-2])
        answer = await client.answer()
    assert (answer.status, b"request_body_timeout" in answer.body) == (408, True)
    await until(0, live)


async def test_form_that_is_wrong_at_its_end_leaves_nothing_behind(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    async with raw(live) as client:
        for body in (
            form(PURPOSE, file_part(b"x" * PIECE))[:-9],
            form(file_part(b"x" * PIECE)),
            form(file_part(b"x" * PIECE), (PURPOSE[0], b"x")),
        ):
            answer = await client.ask("POST", "/v1/files", [FORM], body)
            assert answer.status == 400, answer
    assert contents(live) == []


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ((PURPOSE, file_part(b"x" * 1_001)), 1_000),
        ((file_part(b"x" * 1_001), PURPOSE), 1_000),
        (((PURPOSE[0], b"evals"), file_part(b"x" * 2_001)), 2_000),
        ((file_part(b"x" * 2_001), (PURPOSE[0], b"evals")), 2_000),
    ],
)
async def test_file_above_the_limit_of_its_purpose_is_refused(
    gateway_for: GatewayFor, parts: Sequence[tuple[bytes, bytes]], limit: int
) -> None:
    live = await gateway_for(entry("batch", **SMALL))
    async with raw(live) as client:
        answer = await client.ask("POST", "/v1/files", [FORM], form(*parts))
        assert (answer.status, b"larger than %d bytes" % limit in answer.body) == (413, True)
        smaller = [(name, content.removeprefix(b"x")) for name, content in parts]
        assert (await client.ask("POST", "/v1/files", [FORM], form(*smaller))).status == 200
    assert len(contents(live)) == 1


async def test_length_above_all_limits_is_refused_before_the_body(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch", **SMALL))
    async with raw(live) as client:
        await client.send(head_of("POST", "/v1/files", with_length(MIB)))
        answer = await client.answer()
    assert (answer.status, answer.value(b"connection")) == (413, b"close")


async def test_full_disk_in_mid_upload_is_507_and_nothing_is_kept(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """As on a full disk, writing fails half-way: this process may write no larger files."""
    live = await gateway_for(entry("batch", files=str(tmp_path / "files")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    try:
        async with client_of(live) as client:
            with pytest.raises(openai.InternalServerError, match="no room on the disk") as refused:
                await client.files.create(file=b"x" * 8 * MIB, purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (507, "disk_full")
            assert contents(live) == []
            assert (await client.files.list()).data == []
            made = await client.files.create(file=b"x" * MIB, purpose="batch")
            assert len((await client.files.content(made.id)).content) == MIB
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_folder_that_is_gone_is_503_and_in_the_log(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "files"
    live = await gateway_for(entry("batch", files=str(folder)))
    folder.rename(tmp_path / "elsewhere")
    async with client_of(live) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.files.create(file=b"x", purpose="batch")
    assert (refused.value.status_code, refused.value.code) == (503, "files_unavailable")
    assert "No such file" in caplog.text
    (tmp_path / "elsewhere").rename(folder)

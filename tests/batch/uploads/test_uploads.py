"""OpenAI's uploads, by the unmodified `openai` client."""

import asyncio
import hashlib
import random
from pathlib import Path

import openai
import pytest
from gateway_plugins.batch import Batch
from gateway_plugins.batch.files.part import PIECE, Part
from openai import AsyncOpenAI
from openai.types import Upload
from support.batch.files import (
    client_of,
    contents,
    file_part,
    files_of,
    form,
    raw,
    with_length,
)
from support.callers.raw_client import head_of
from support.gateways.with_keys import KeysOnDisk, key, keyed

from gateway.testing import GatewayFor, entry

CONTENT = random.Random(1).randbytes(2 * PIECE + 17)
MIB = 1024 * 1024


async def begun(client: AsyncOpenAI, size: int = 6) -> Upload:
    return await client.uploads.create(
        bytes=size, filename="in.jsonl", mime_type="text/jsonl", purpose="batch"
    )


async def parts_of(client: AsyncOpenAI, upload: Upload, *contents: bytes) -> list[str]:
    return [(await client.uploads.parts.create(upload.id, data=content)).id for content in contents]


async def test_chunked_upload_of_the_client_is_a_file(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("batch")
    path = tmp_path / "in.jsonl"
    path.write_bytes(CONTENT)
    async with client_of(live) as client:
        done = await client.uploads.upload_file_chunked(
            file=path,
            mime_type="text/jsonl",
            purpose="batch",
            part_size=100_000,
            md5=hashlib.md5(CONTENT).hexdigest(),
        )
        assert (done.object, done.status, done.bytes) == ("upload", "completed", len(CONTENT))
        assert done.file is not None
        assert await client.files.retrieve(done.file.id) == done.file
        assert (done.file.filename, done.file.status) == ("in.jsonl", "processed")
        assert (await client.files.content(done.file.id)).content == CONTENT
        assert [path.name for path in contents(live)] == [done.file.id]


async def test_parts_are_joined_in_the_order_of_the_completion(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        assert (upload.status, upload.expires_at - upload.created_at) == ("pending", 3_600)
        tasks = [parts_of(client, upload, content) for content in (b"ab", b"cd", b"ef")]
        [[a], [c], [e]] = await asyncio.gather(*tasks)
        done = await client.uploads.complete(upload.id, part_ids=[e, a, c])
        assert done.file is not None
        assert (await client.files.content(done.file.id)).content == b"efabcd"


async def test_completion_that_is_sent_again_changes_nothing(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        ids = await parts_of(client, upload, b"abc", b"def")
        once = await client.uploads.complete(upload.id, part_ids=ids)
        assert await client.uploads.complete(upload.id, part_ids=ids) == once
        assert len([file async for file in client.files.list()]) == 1


async def test_completions_at_the_same_time_make_one_file(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        ids = await parts_of(client, upload, b"abc", b"def")
        ends = await asyncio.gather(
            *(client.uploads.complete(upload.id, part_ids=ids) for _ in range(5)),
            return_exceptions=True,
        )
        made = {end.file.id for end in ends if isinstance(end, Upload) and end.file is not None}
        assert len(made) == 1
        others = [end for end in ends if not isinstance(end, Upload)]
        assert all(isinstance(end, openai.ConflictError) for end in others)
        assert [file.id async for file in client.files.list()] == [*made]
        assert [path.name for path in contents(live)] == [*made]


async def test_wrong_completion_is_refused_and_the_upload_goes_on(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload, other = await begun(client), await begun(client)
        [strange] = await parts_of(client, other, b"x")
        ids = await parts_of(client, upload, b"abc", b"def")
        for wrong, said in (
            (ids[:1], "have 3 bytes, and the upload was to have 6"),
            ([*ids, ids[0]], "twice"),
            ([*ids, strange], "no part of this upload"),
        ):
            with pytest.raises(openai.BadRequestError, match=said) as refused:
                await client.uploads.complete(upload.id, part_ids=wrong)
            assert refused.value.param == "part_ids"
        with pytest.raises(openai.BadRequestError, match="the md5 of the parts"):
            await client.uploads.complete(upload.id, part_ids=ids, md5="0" * 32)
        assert (await client.uploads.complete(upload.id, part_ids=ids)).file is not None


async def test_cancelled_upload_keeps_nothing(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        ids = await parts_of(client, upload, b"abc", b"def")
        assert len(contents(live)) == 2
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"
        assert contents(live) == []
        with pytest.raises(openai.ConflictError, match="is cancelled already"):
            await client.uploads.complete(upload.id, part_ids=ids)
        with pytest.raises(openai.ConflictError, match="is cancelled already"):
            await parts_of(client, upload, b"abc")


async def test_upload_that_is_cancelled_while_a_part_comes_keeps_nothing(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client, raw(live) as slow:
        upload = await begun(client)
        body = form(file_part(b"abc", name=b"data"))
        await slow.send(head_of("POST", f"/v1/uploads/{upload.id}/parts", with_length(len(body))))
        await slow.send(body[:-4])
        while not contents(live):  # noqa: ASYNC110  a folder has no event for it
            await asyncio.sleep(0.005)
        await client.uploads.cancel(upload.id)
        await slow.send(body[-4:])
        assert (await slow.answer()).status == 409
    assert contents(live) == []


async def test_part_that_comes_into_place_after_the_cancellation_is_deleted(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await gateway_for("batch")
    files = files_of(live)
    move = files.move
    async with client_of(live) as client:
        upload = await begun(client)

        async def late(part: Part, part_id: str) -> None:
            await client.uploads.cancel(upload.id)
            await move(part, part_id)

        monkeypatch.setattr(files, "move", late)
        with pytest.raises(openai.ConflictError, match="is cancelled already"):
            await parts_of(client, upload, b"abc")
    assert contents(live) == []


async def test_expired_upload_is_deleted_with_its_parts(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    storage = live.gateway.storage
    async with client_of(live) as client:
        upload = await begun(client)
        ids = await parts_of(client, upload, b"abc", b"def")
        await storage.write(lambda db: db.execute("UPDATE batch_uploads SET expires = 1"))
        with pytest.raises(openai.NotFoundError, match="expired"):
            await client.uploads.complete(upload.id, part_ids=ids)
        await live.plugin(Batch)._engine().uploads.clean()
    assert contents(live) == []
    query = "SELECT id FROM batch_uploads UNION SELECT id FROM batch_upload_parts"
    assert await storage.read(lambda db: [*db.select(query)]) == []


async def test_upload_has_no_more_bytes_than_it_was_to_have(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        await parts_of(client, upload, b"abcd")
        with pytest.raises(openai.APIStatusError, match="larger than 2 bytes") as refused:
            await parts_of(client, upload, b"efg")
        assert refused.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="the part is empty"):
            await parts_of(client, upload, b"")
        assert len(contents(live)) == 1


async def test_parts_that_come_together_have_no_more_bytes_either(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        upload = await begun(client)
        ends = await asyncio.gather(
            *(parts_of(client, upload, b"abcd") for _ in range(4)), return_exceptions=True
        )
        assert sum(isinstance(end, list) for end in ends) == 1
    assert len(contents(live)) == 1


async def test_upload_above_the_limit_is_refused(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch", max_batch_file_bytes=5, max_files_per_key=1))
    async with client_of(live) as client:
        with pytest.raises(openai.APIStatusError, match="larger than 5 bytes"):
            await begun(client)
        await begun(client, 5)
        with pytest.raises(openai.BadRequestError, match="max_files_per_key"):
            await begun(client, 5)


async def test_upload_of_another_key_is_404(gateway_for: GatewayFor, tmp_path: Path) -> None:
    disk = KeysOnDisk(tmp_path / "keys.json")
    disk.write(*(key(f"gw-{name}", name, scopes=["upload"]) for name in ("ann", "bob")))
    live = await keyed(gateway_for, disk, "batch")
    async with client_of(live, "gw-ann") as ann, client_of(live, "gw-bob") as bob:
        upload = await begun(ann)
        ids = await parts_of(ann, upload, b"abc", b"def")
        for ask in (
            bob.uploads.cancel(upload.id),
            bob.uploads.complete(upload.id, part_ids=ids),
            bob.uploads.parts.create(upload.id, data=b"x"),
        ):
            with pytest.raises(openai.NotFoundError):
                await ask
        done = await ann.uploads.complete(upload.id, part_ids=ids)
        assert done.file is not None
        with pytest.raises(openai.NotFoundError):
            await bob.files.retrieve(done.file.id)

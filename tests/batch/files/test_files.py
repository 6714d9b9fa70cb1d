"""OpenAI's files, by the unmodified `openai` client."""

import time
from collections.abc import Sequence
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from support.batch.files import client_of, contents, files_of

from gateway.testing import GatewayFor, ScriptedWorker, answer_of, entry

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'
DAY = 86_400


async def test_file_is_stored_and_comes_back_as_it_was(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        made = await client.files.create(file=("lines.jsonl", LINES), purpose="batch")
        assert (made.bytes, made.filename, made.purpose) == (len(LINES), "lines.jsonl", "batch")
        assert (made.object, made.status, made.status_details) == ("file", "processed", None)
        assert abs(made.created_at - time.time()) < 60
        assert made.expires_at == made.created_at + 30 * DAY
        assert await client.files.retrieve(made.id) == made
        assert await client.files.wait_for_processing(made.id) == made
        assert (await client.files.content(made.id)).content == LINES
        assert [file async for file in client.files.list()] == [made]


async def test_deleted_file_is_gone_with_its_content(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        made = await client.files.create(file=LINES, purpose="batch")
        assert [path.name for path in contents(live)] == [made.id]
        gone = await client.files.delete(made.id)
        assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
        assert contents(live) == []
        for ask in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError, match=made.id):
                await ask(made.id)
        assert [file async for file in client.files.list()] == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (LINES, "upload"),
        (("Größe 漢字.jsonl", LINES), "Größe 漢字.jsonl"),
        (('a "b" \\c;d=e.jsonl', LINES), 'a "b" \\c;d=e.jsonl'),
        (("../../etc/passwd", LINES), "../../etc/passwd"),
        (("x" * 1_000, LINES), "x" * 1_000),
    ],
)
async def test_name_of_a_file_is_kept_as_a_name_only(
    gateway_for: GatewayFor, given: bytes | tuple[str, bytes], shown: str
) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        made = await client.files.create(file=given, purpose="batch")
        assert made.filename == shown
        assert [path.name for path in contents(live)] == [made.id]
        assert (await client.files.content(made.id)).content == LINES


async def test_file_from_a_path_is_stored(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for("batch")
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"")
    async with client_of(live) as client:
        made = await client.files.create(file=path, purpose="batch")
        assert (made.filename, made.bytes) == ("input.jsonl", 0)
        assert (await client.files.content(made.id)).content == b""


async def filled(client: AsyncOpenAI, count: int) -> list[str]:
    purposes = ("batch", "evals")
    made = [
        await client.files.create(file=b"x", purpose=purposes[place % 2])  # type: ignore[arg-type]
        for place in range(count)
    ]
    return [file.id for file in made]


async def test_pages_of_a_list_have_each_file_once(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        ids = await filled(client, 7)
        assert [file.id async for file in client.files.list(limit=3)] == ids[::-1]
        assert [file.id async for file in client.files.list(limit=3, order="asc")] == ids
        page = await client.files.list(limit=3, order="asc", after=ids[0])
        assert ([file.id for file in page.data], page.has_more) == (ids[1:4], True)
        answer = (await live.client.get("/v1/files?limit=7")).json()
        ends = (answer["object"], answer["first_id"], answer["last_id"], answer["has_more"])
        assert ends == ("list", ids[-1], ids[0], False)
        some = [file.id async for file in client.files.list(purpose="evals", limit=2)]
        assert some == ids[1::2][::-1]


async def test_list_goes_on_after_a_file_that_was_deleted_meanwhile(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        await filled(client, 5)
        async for file in client.files.list(limit=2):
            await client.files.delete(file.id)
        assert [file async for file in client.files.list()] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up"])
async def test_list_names_a_parameter_out_of_bounds(gateway_for: GatewayFor, query: str) -> None:
    live = await gateway_for("batch")
    answer = await live.client.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_file_expires_as_its_caller_says(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        for seconds in (3_600, 2_592_000):
            made = await client.files.create(
                file=LINES,
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": seconds},
            )
            assert made.expires_at == made.created_at + seconds
        for seconds in (3_599, 2_592_001):
            with pytest.raises(openai.BadRequestError, match="3600 to 2592000"):
                await client.files.create(
                    file=LINES,
                    purpose="batch",
                    expires_after={"anchor": "created_at", "seconds": seconds},
                )
        assert len(contents(live)) == 2


async def test_expired_file_is_deleted(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch", keep_files=0.05))
    async with client_of(live) as client:
        made = await client.files.create(file=LINES, purpose="batch")
        while (await live.client.get(f"/v1/files/{made.id}")).status_code == 200:
            pass
        assert (await client.files.list()).data == []
        await files_of(live).clean()
        assert contents(live) == []
        assert (
            await live.gateway.storage.read(lambda db: [*db.select("SELECT 1 FROM batch_files")])
            == []
        )


async def test_key_has_at_most_so_many_files(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("batch", max_files_per_key=2))
    async with client_of(live) as client:
        ids = await filled(client, 2)
        with pytest.raises(openai.BadRequestError, match="max_files_per_key") as refused:
            await client.files.create(file=LINES, purpose="batch")
        assert refused.value.code == "too_many_files"
        assert len(contents(live)) == 2
        await client.files.delete(ids[0])
        await client.files.create(file=LINES, purpose="batch")


async def test_unknown_purpose_is_refused(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        for purpose in ("batch_output", "", "x"):
            with pytest.raises(openai.BadRequestError, match="one of assistants, batch") as refused:
                await client.files.create(file=LINES, purpose=purpose)  # type: ignore[arg-type]
            assert refused.value.param == "purpose"
    assert contents(live) == []


@pytest.mark.parametrize("plugins", [("batch",), ()])
async def test_worker_gets_files_only_without_the_plugin(
    gateway_for: GatewayFor, plugins: Sequence[str]
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(*plugins, workers=[worker.url])
        for path in ("/v1/files", "/v1/files/x", "/v1/files/x/content"):
            answer = await live.client.get(path)
            assert (answer.content == b"{}") == (not plugins)
        assert len(worker.requests) == (0 if plugins else 3)

"""OpenAI's files, by the unmodified `openai` client."""

from openai import AsyncOpenAI

from gateway.testing import GatewayFor, Live

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'


def client_of(live: Live, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0)


async def test_file_is_stored_and_comes_back_as_it_was(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        made = await client.files.create(file=("lines.jsonl", LINES), purpose="batch")
        assert (made.bytes, made.filename, made.purpose) == (len(LINES), "lines.jsonl", "batch")
        assert (made.object, made.status, made.status_details) == ("file", "processed", None)
        assert await client.files.retrieve(made.id) == made
        assert (await client.files.content(made.id)).content == LINES
        assert [file async for file in client.files.list()] == [made]
        assert (await client.files.delete(made.id)).deleted
        assert [file async for file in client.files.list()] == []

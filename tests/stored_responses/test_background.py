"""Responses in the background: they run on, can be followed, and cancelled."""

import asyncio
from typing import Any

import openai
import pytest

from gateway.testing import Live

Client = openai.AsyncOpenAI


async def begin(client: Client, **fields: Any) -> Any:
    return await client.responses.create(
        model="sim", input="Hello", background=True, **{"max_output_tokens": 5, **fields}
    )


async def ended(client: Client, id_: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            found = await client.responses.retrieve(id_)
            if found.status not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.02)


async def test_a_response_is_queued_and_ends(client: Client) -> None:
    made = await begin(client)
    assert (made.status, made.background, made.output) == ("queued", True, [])
    found = await ended(client, made.id)
    assert found.status == "incomplete"
    assert found.output_text
    again = await client.responses.create(
        model="sim", input="More", previous_response_id=made.id, max_output_tokens=5
    )
    assert again.output_text


async def test_a_stream_that_its_caller_left_runs_on(client: Client) -> None:
    stream = await begin(client, stream=True, max_output_tokens=40)
    first = []
    async for event in stream:
        first.append(event)
        if len(first) == 8:
            break
    await stream.close()
    id_ = first[0].response.id
    rest = [
        event async for event in await client.responses.retrieve(id_, stream=True, starting_after=7)
    ]
    numbers = [event.sequence_number for event in (*first, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed"
    # Once it has ended, the events are those that were kept.
    kept = [event async for event in await client.responses.retrieve(id_, stream=True)]
    assert [one.to_dict() for one in kept] == [one.to_dict() for one in (*first, *rest)]
    assert (await client.responses.retrieve(id_)).to_dict() == rest[-1].response.to_dict()


async def test_a_cancelled_response_says_so(client: Client, running: Live) -> None:
    slow = {"x-sim-fault": "slow:0.2"}
    made = await begin(client, max_output_tokens=500, extra_headers=slow)
    found = await client.responses.cancel(made.id)
    assert found.status == "cancelled"
    assert (await client.responses.retrieve(made.id)).status == "cancelled"
    again = await client.responses.cancel(made.id)
    assert again.status == "cancelled"


async def test_a_cancelled_stream_ends(client: Client) -> None:
    slow = {"x-sim-fault": "slow:0.2"}
    stream = await begin(client, stream=True, max_output_tokens=500, extra_headers=slow)
    kinds: list[str] = []
    async for event in stream:
        if not kinds:
            await client.responses.cancel(event.response.id)
        kinds.append(event.type)
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.failed"


async def test_only_background_responses_can_be_cancelled(client: Client) -> None:
    made = await client.responses.create(model="sim", input="Hello", max_output_tokens=5)
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(made.id)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_whose_worker_refuses_has_failed(client: Client, stream: bool) -> None:
    made = await begin(client, stream=stream, extra_headers={"x-sim-fault": "500"})
    if stream:
        made = (await anext(made.__aiter__())).response
    found = await ended(client, made.id)
    assert found.status == "failed"
    assert found.error.message


async def test_a_client_raises_for_an_error_among_the_events(client: Client) -> None:
    events = await begin(client, stream=True, extra_headers={"x-sim-fault": "500"})
    with pytest.raises(openai.APIError, match="EngineCore"):
        [event async for event in events]


async def test_a_key_runs_only_so_many(client: Client) -> None:
    slow = {"x-sim-fault": "slow:0.2"}
    for _ in range(3):
        await begin(client, max_output_tokens=500, extra_headers=slow)
    with pytest.raises(openai.RateLimitError, match="max_background"):
        await begin(client)


async def test_background_needs_store(client: Client) -> None:
    with pytest.raises(openai.BadRequestError, match="store"):
        await begin(client, store=False)


async def test_so_many_run_at_a_time_even_if_they_begin_together(client: Client) -> None:
    slow = {"x-sim-fault": "slow:0.2"}
    asked = [begin(client, max_output_tokens=500, extra_headers=slow) for _ in range(8)]
    begun = await asyncio.gather(*asked, return_exceptions=True)
    made = [one for one in begun if not isinstance(one, BaseException)]
    assert (len(made), {type(one) for one in begun} - {type(made[0])}) == (
        3,
        {openai.RateLimitError},
    )
    for one in made:
        await client.responses.cancel(one.id)

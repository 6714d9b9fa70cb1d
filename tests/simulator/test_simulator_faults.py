"""Each fault, as a client sees it that reads the socket itself, on both event loops."""

import asyncio
import json
from collections.abc import Callable, Coroutine

import httpx
import msgspec
import pytest
import uvloop

from gateway.simulator import Fault, Faults, Simulator, SimulatorConfig

Run = Callable[[Coroutine[None, None, None]], None]

BODY = {"messages": [{"role": "user", "content": "Hi"}], "seed": 1, "max_tokens": 20}


class Seen(msgspec.Struct):
    """All bytes until the connection ended, and whether a reset ended it."""

    raw: bytes
    reset: bool

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    def events(self) -> int:
        return self.body.count(b"data: {")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


async def ask(
    sim: Simulator, fault: str = "", *, stream: bool, path: str = "chat/completions"
) -> Seen:
    """Sends one call and reads until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    body = json.dumps(BODY | {"stream": stream}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    asked = f"x-sim-fault: {fault}\r\n" if fault else ""
    writer.write(f"{head}{asked}\r\n".encode() + body)
    raw, reset = b"", False
    try:
        while part := await reader.read(65536):
            raw += part
    except ConnectionResetError:
        reset = True
    writer.close()
    return Seen(raw, reset)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "reset", "starts"),
    [
        ("reset-before", True, b""),
        ("garbage", False, b"\x00\xff"),
        ("500", False, b"HTTP/1.1 500 "),
        ("503", False, b"HTTP/1.1 503 "),
    ],
)
def test_simulator_faults_before_the_response_run_nothing(
    run: Run, stream: bool, fault: str, reset: bool, starts: bytes
) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            seen = await ask(sim, fault, stream=stream)
            assert seen.reset == reset
            assert seen.raw.startswith(starts)
            assert bool(seen.raw) == bool(starts)
            assert sim.stats.served == 0
            assert (await ask(sim, stream=stream)).raw.startswith(b"HTTP/1.1 200 ")

    run(scenario())


@pytest.mark.parametrize("events", [0, 1, 4])
@pytest.mark.parametrize("fault", ["reset", "close"])
def test_simulator_breaks_off_a_stream_after_the_given_events(
    run: Run, fault: str, events: int
) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            whole = await ask(sim, stream=True)
            seen = await ask(sim, f"{fault}:{events}", stream=True)
            assert seen.raw.startswith(b"HTTP/1.1 200 ")
            assert b"[DONE]" not in seen.raw
            assert seen.reset == (fault == "reset")
            complete = seen.body.count(b"\n\n\r\n")
            assert complete == events
            assert seen.events() == events + (fault == "close")
            assert not seen.raw.endswith(b"0\r\n\r\n")
            assert whole.events() > events
            assert (sim.stats.served, sim.stats.in_flight) == (1, 0)

    run(scenario())


@pytest.mark.parametrize("fault", ["reset:3", "close", "truncate"])
def test_simulator_breaks_off_a_plain_response_halfway(run: Run, fault: str) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            whole = await ask(sim, stream=False)
            seen = await ask(sim, fault, stream=False)
            assert seen.reset == fault.startswith("reset")
            assert len(seen.body) == pytest.approx(len(whole.body) // 2, abs=2)
            assert b"content-length: %d\r\n" % len(whole.body) in seen.raw
            assert sim.stats.served == 1

    run(scenario())


def test_simulator_truncates_a_stream_after_one_event(run: Run) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            seen = await ask(sim, "truncate", stream=True)
            assert seen.body.count(b"\n\n\r\n") == 1

    run(scenario())


def test_simulator_error_event_ends_a_stream_with_done(run: Run) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            seen = await ask(sim, "error-event:3", stream=True)
            assert seen.events() == 4
            assert b'data: {"error": {"message": "EngineCore' in seen.body
            assert b"data: [DONE]\n\n" in seen.body
            assert seen.raw.endswith(b"0\r\n\r\n")
            plain = await ask(sim, "error-event:3", stream=False)
            assert plain.raw.startswith(b"HTTP/1.1 500 ")
            assert json.loads(plain.body)["error"]["type"] == "InternalServerError"

    run(scenario())


async def test_simulator_abort_fault_ends_a_response_with_finish_reason_abort() -> None:
    async with Simulator() as sim:
        plain = json.loads((await ask(sim, "abort:5", stream=False)).body)
        stream = await ask(sim, "abort:5", stream=True)
    assert plain["choices"][0]["finish_reason"] == "abort"
    assert plain["usage"]["completion_tokens"] == 5
    assert b'"finish_reason":"abort"' in stream.body
    assert b"data: [DONE]\n\n" in stream.body
    assert sim.stats.served == 2


def test_simulator_hang_fault_sends_no_response(run: Run) -> None:
    async def scenario() -> None:
        async with Simulator() as sim:
            hung = asyncio.create_task(ask(sim, "hang", stream=False))
            await ask(sim, stream=False)
            assert not hung.done()
        assert (await hung).raw == b""

    run(scenario())


async def test_simulator_timing_headers_override_its_config() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=3600, itl=3600)) as sim,
        httpx.AsyncClient(base_url=sim.url) as client,
    ):
        headers = {"x-sim-ttft": "0", "x-sim-itl": "0.001"}
        answer = await client.post("/v1/chat/completions", json=BODY, headers=headers)
        assert answer.json()["usage"]["completion_tokens"] > 1


async def test_simulator_slow_fault_waits_before_each_token() -> None:
    async with Simulator() as sim, httpx.AsyncClient(base_url=sim.url) as client:
        endless = asyncio.create_task(ask(sim, "slow:3600", stream=True))
        await until_in_flight(sim)
        metrics = (await client.get("/metrics")).text
        assert 'vllm:num_requests_waiting{engine="0",model_name="sim"} 1.0' in metrics
        assert (await ask(sim, "slow:0.001", stream=True)).body.endswith(b"0\r\n\r\n")
    seen = await endless
    assert seen.raw.startswith(b"HTTP/1.1 200 ")
    assert seen.events() == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_simulator_aborts_the_generation_if_the_caller_disconnects(stream: bool) -> None:
    async with Simulator(SimulatorConfig(itl=3600)) as sim:
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        body = json.dumps(BODY | {"stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        await until_in_flight(sim)
        writer.close()
        await sim.idle()
        assert (sim.stats.aborted, sim.stats.served) == (1, 0)


async def until_in_flight(sim: Simulator) -> None:
    """Asks the simulator itself: its `/load` counts the calls that it has begun."""
    async with httpx.AsyncClient(base_url=sim.url) as client:
        while (await client.get("/load")).json() == {"server_load": 0}:
            pass


async def test_simulator_refuse_fault_refuses_connections_until_accept() -> None:
    async with Simulator(SimulatorConfig(faults=Faults.parse("refuse"))) as sim:
        with pytest.raises(ConnectionRefusedError):
            await ask(sim, stream=False)
        await sim.accept()
        assert (await ask(sim, stream=False)).raw.startswith(b"HTTP/1.1 200 ")


async def test_simulator_config_faults_hit_the_first_calls_or_every_path() -> None:
    async with (
        Simulator(SimulatorConfig(faults=Faults(fault=Fault("503"), first=2))) as sim,
        httpx.AsyncClient(base_url=sim.url) as client,
    ):

        async def statuses() -> list[int]:
            answers = [await client.post("/v1/chat/completions", json=BODY) for _ in range(3)]
            return [answer.status_code for answer in answers]

        assert (await client.get("/health")).status_code == 200
        assert await statuses() == [503, 503, 200]
        sim.faults = Faults(fault=Fault("500"), everywhere=True)
        assert (await client.get("/health")).status_code == 500
        assert await statuses() == [500, 500, 500]
        sim.faults = Faults()
        assert await statuses() == [200, 200, 200]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hang", Fault("hang")),
        ("reset:3", Fault("reset", 3)),
        (" slow:0.25 ", Fault("slow", 0.25)),
        ("close", Fault("close", 1)),
    ],
)
def test_fault_parse_reads_names_and_arguments(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault
    assert Faults.parse(text) == Faults(fault=fault)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("explode", "no fault is called 'explode'; there are refuse, hang"),
        ("", "no fault is called ''"),
        ("hang:3", "takes no argument"),
        ("reset:soon", "needs a number"),
        ("slow:-1", "needs a number"),
        ("slow:inf", "needs a number"),
    ],
)
def test_fault_parse_rejects_unknown_names_and_wrong_arguments(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"fault|needs") as caught:
        Fault.parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-sim-fault": "explode"},
        {"x-sim-fault": "refuse"},
        {"x-sim-ttft": "soon"},
        {"x-sim-itl": "-1"},
    ],
)
async def test_simulator_rejects_invalid_control_headers(headers: dict[str, str]) -> None:
    async with Simulator() as sim, httpx.AsyncClient(base_url=sim.url) as client:
        answer = await client.post("/v1/chat/completions", json=BODY, headers=headers)
    assert answer.status_code == 400
    assert next(iter(headers)) in answer.json()["error"]["message"]

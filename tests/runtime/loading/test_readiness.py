"""From a start to an answer: the driver of processes, with the simulator as engine."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from gateway_plugins.runtime.drivers.driver import Exit
from gateway_plugins.runtime.drivers.process import ProcessDriver
from gateway_plugins.runtime.loading import readiness
from gateway_plugins.runtime.loading.engines import command_of
from gateway_plugins.runtime.loading.failures import Failure, hint
from gateway_plugins.runtime.loading.log import EngineLog
from gateway_plugins.runtime.loading.readiness import asking, wait_until_ready
from gateway_plugins.runtime.options import Model
from support.ports import free_port
from support.runtime.small_engines import FORK, launch

from gateway import UpstreamError, Worker, WorkerAnswer, config
from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

SIMULATE = (sys.executable, "-c", "from gateway.cli import main; main()", "simulate")
LISTED = answer_of(b'{"object": "list", "data": [{"id": "m"}]}')

Load = Callable[..., Awaitable[Failure | None]]


def worker_at(url: str) -> Worker:
    settings = config.Worker(url=url)
    return Worker(settings, config.Timeouts(), config.ServerLimits())


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Start an engine, wait until it is ready or not, and end it."""
    driver = ProcessDriver(str(tmp_path))

    async def start(
        *options: str, program: str | None = None, name: str = "m", **limits: float
    ) -> Failure | None:
        model = msgspec.convert({"name": name, "ready_timeout": 50, **limits}, Model)
        port = free_port()
        engines = (*SIMULATE, "--port", str(port), "--model", "m", *options)
        environment = {"PYTHONPATH": ":".join(sys.path)}
        command = engines if program is None else FORK + program
        log = await EngineLog.open(tmp_path / "logs", model.name, ())
        began = monotonic()
        engine = await driver.start(launch(command, port=port, environment=environment), log.write)
        worker = worker_at(engine.url)
        try:
            return await wait_until_ready(model, engine, log, asking(worker), began=began)
        finally:
            worker.close()
            await engine.stop(5)
            await log.close()

    return start


@pytest.fixture
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine does not end after it has failed, so that nothing has to wait for that."""
    monkeypatch.setattr(readiness, "AFTERMATH", 0.01)


async def test_an_engine_is_ready_after_its_load(load: Load) -> None:
    before = monotonic()
    assert await load("--load-time", "0.5") is None
    assert monotonic() - before > 0.5


async def test_an_engine_that_crashes_at_its_load_fails_at_once(load: Load) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    found = await load("--load-time", "60", "--crash", "0.2", "--last-words", words)
    assert found is not None
    assert found.reason == "runtime_oom"
    assert words in found.text


async def test_the_status_of_a_segmentation_fault_is_told(load: Load) -> None:
    found = await load("--load-time", "60", "--crash", "0.1", "--exit-code", "139")
    assert found is not None
    assert found.reason == "runtime_segfault"


@pytest.mark.usefixtures("stays")
async def test_fault_6_05_an_engine_that_fails_its_warm_up_is_not_ready(load: Load) -> None:
    found = await load("--fault", "500")
    assert found is not None
    assert found.reason == "runtime_not_ready"
    assert "/v1/chat/completions: it answers 500" in found.text
    assert "/v1/completions: it answers 500" in found.text


@pytest.mark.slow
async def test_fault_6_05_an_engine_that_does_not_answer_its_warm_up_is_not_ready(
    load: Load,
) -> None:
    found = await load("--fault", "hang", warmup=0.2)
    assert found is not None
    assert found.reason == "runtime_not_ready"


@pytest.mark.slow
async def test_an_engine_that_is_too_slow_fails_at_its_time(load: Load) -> None:
    before = monotonic()
    found = await load("--load-time", "60", ready_timeout=1.0)
    assert found is not None
    assert found.reason == "runtime_timeout"
    assert found.text.startswith("the engine is not ready after 1 s; /v1/models: ")
    assert monotonic() - before < 30


@pytest.mark.usefixtures("stays")
async def test_fault_6_09_an_engine_that_prints_nothing_fails_earlier(load: Load) -> None:
    found = await load(program="say('one line'); stay()", log_timeout=0.5)
    assert found is not None
    assert found.reason == "runtime_timeout"
    assert found.text.startswith("the engine has printed nothing for 0.5 s; ")


@pytest.mark.slow
async def test_fault_6_09_progress_in_the_log_keeps_a_load_alive(load: Load) -> None:
    program = "\nwhile True: say('loading'); time.sleep(0.1)"
    before = monotonic()
    found = await load(program=program, log_timeout=0.6, ready_timeout=2.0)
    assert found is not None
    assert found.text.startswith("the engine is not ready after 2 s")
    assert monotonic() - before >= 2


async def test_the_kv_cache_hint_leads_to_an_engine_that_is_ready(tmp_path: Path) -> None:
    arguments = ("--max-model-len", "20000", "--kv-cache-tokens", "9000", "--port", "{port}")
    model = Model(name="m", command=(*SIMULATE, "--model", "{name}", *arguments))
    driver = ProcessDriver(str(tmp_path))
    length: int | None = None
    found: list[Failure | None] = []
    for _ in range(2):
        log = await EngineLog.open(tmp_path / "logs", "m", ())
        port, began = free_port(), monotonic()
        command = command_of(model, "127.0.0.1", port, {}, length=length)
        environment = {"PYTHONPATH": ":".join(sys.path)}
        engine = await driver.start(launch(command, port=port, environment=environment), log.write)
        worker = worker_at(engine.url)
        found.append(await wait_until_ready(model, engine, log, asking(worker), began=began))
        worker.close()
        await engine.stop(5)
        await log.close()
        length = hint(log.tail)
    assert [one and one.reason for one in found] == ["runtime_oom", None]


class Standing:
    """An engine that has not ended until it is told so, and its log."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.latest = monotonic()
        self.tail = ["ValueError: what was wrong"]

    async def ended(self) -> Exit:
        return await asyncio.shield(self.end)


class Answering:
    """Answers by path: a status, or an answer of `answer_of`'s kind; counts what was asked."""

    def __init__(self, **answers: bytes) -> None:
        self.asked: list[str] = []
        self.answers = answers

    async def serve(self, connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        path = request.split()[1].rpartition(b"/")[2].decode()
        kind = "chat" if b"/chat/" in request.split(b"\r\n")[0] else path
        self.asked.append(kind)
        await connection.write(self.answers[kind])


async def wait_at(
    answering: Answering, engine: Standing, *, name: str = "m", **limits: float
) -> Failure | None:
    model = msgspec.convert({"name": name, "ready_timeout": 50, **limits}, Model)
    async with ScriptedWorker(answering.serve) as scripted:
        worker = worker_at(scripted.url)
        try:
            return await wait_until_ready(model, engine, engine, asking(worker), began=monotonic())
        finally:
            worker.close()


async def silent_once_asked(answering: Answering, name: str = "m") -> Failure | None:
    """Why an engine is not ready that prints lines until it was asked, and none from then on."""
    engine = Standing()
    engine.latest += 600
    waiting = asyncio.create_task(wait_at(answering, engine, name=name, log_timeout=0.2))
    while len(answering.asked) < 2:  # noqa: ASYNC110  a connection of its own
        await asyncio.sleep(0.01)
    engine.latest = 0.0
    return await waiting


NO = answer_of(b'{"error": {"message": "no template"}}', status="400 Bad Request")
YES = answer_of(b'{"choices": []}')


async def test_completions_warm_up_a_model_without_a_chat_template() -> None:
    answering = Answering(models=LISTED, chat=NO, completions=YES)
    assert await wait_at(answering, Standing()) is None
    assert answering.asked == ["models", "chat", "completions"]


@pytest.mark.usefixtures("stays")
async def test_fault_2_04_an_engine_with_another_model_is_not_ready() -> None:
    found = await silent_once_asked(Answering(models=LISTED), "other")
    assert found is not None
    assert found.reason == "runtime_timeout"
    assert "/v1/models names 'm', not 'other'" in found.text


async def test_silence_before_the_wait_does_not_count() -> None:
    engine = Standing()
    engine.latest -= 600
    answering = Answering(models=LISTED, chat=YES)
    assert await wait_at(answering, engine, log_timeout=300) is None


async def test_an_engine_that_is_busy_at_its_warm_up_is_asked_again() -> None:
    busy = answer_of(b"{}", status="503 Service Unavailable")
    answering = Answering(models=LISTED, chat=busy, completions=NO)
    waiting = asyncio.create_task(wait_at(answering, Standing()))
    while answering.asked.count("chat") < 2:  # noqa: ASYNC110  a connection of its own
        await asyncio.sleep(0.01)
    answering.answers["chat"] = YES
    assert await waiting is None


@pytest.mark.parametrize(
    "listed",
    [b"<html>", b"[]", b'{"data": [{"name": "m"}]}', b'{"data": [{"id": 3}]}', b"[" * 9999],
)
@pytest.mark.slow
@pytest.mark.usefixtures("stays")
async def test_what_is_no_list_of_models_is_not_ready(listed: bytes) -> None:
    found = await silent_once_asked(Answering(models=answer_of(listed)))
    assert found is not None
    assert found.text.endswith("/v1/models: it answers what is no list of models")


async def test_the_exit_tells_more_than_a_failed_warm_up() -> None:
    """vLLM answers 500 when its core is dead, and ends then."""
    answering = Answering(models=LISTED, chat=NO, completions=NO)
    engine = Standing()
    waiting = asyncio.create_task(wait_at(answering, engine))
    while "completions" not in answering.asked:  # noqa: ASYNC110  a connection of its own
        await asyncio.sleep(0.01)
    engine.end.set_result(Exit(1))
    found = await waiting
    assert found is not None
    assert found.reason == "runtime_crashed"
    assert found.text.endswith("ValueError: what was wrong")


async def test_an_answer_of_a_stranger_does_not_make_a_dead_engine_ready() -> None:
    engine = Standing()
    engine.end.set_result(Exit(1))
    answering = Answering(models=LISTED, chat=YES)
    found = await wait_at(answering, engine)
    assert found is not None
    assert found.reason == "runtime_crashed"


async def test_a_cancelled_wait_leaves_no_task() -> None:
    async def ask(method: str, path: str, body: bytes, seconds: float) -> WorkerAnswer:
        raise UpstreamError("refused")

    engine = Standing()
    waiting = asyncio.create_task(
        wait_until_ready(Model(name="m"), engine, engine, ask, began=monotonic())
    )
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}

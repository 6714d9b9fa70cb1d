"""TRL's routes through the gateway, with the configuration that is shipped for it."""

import pytest
from gateway_plugins.weights.trl.options import Options
from gateway_plugins.weights.trl.plugin import Trl
from support.callers.raw_client import RawClient
from support.records.vllm_recordings import RecordedExchange, load
from support.workers.trl_worker import Fleet, shipped

from gateway import Gateway
from gateway.errors import ConfigError

CARRIED = (
    "generate_text",
    "generate_ids_n2",
    "generate_logprobs_null",
    "generate_bad",
    "chat",
    "seq_logprobs_json",
    "seq_logprobs_binary",
    "health",
    "world",
)


async def replayed(fleet: Fleet, exchange: RecordedExchange, path: str) -> None:
    """The worker gets and the caller is told what was recorded, byte for byte."""
    [worker] = fleet.workers
    worker.plays(exchange)
    gateway = await fleet.gateway()
    headers = [(name.encode(), value.encode()) for name, value in exchange.request_headers]
    dropped = (b"host", b"content-length", b"connection")
    kept = [line for line in headers if line[0].lower() not in dropped]
    async with RawClient(*gateway.server.address) as client:
        answer = await client.ask(exchange.method, path, kept, exchange.request_body)
    assert (answer.status, answer.body) == (exchange.status, exchange.body)
    assert answer.value(b"x-backend") == worker.url.encode()
    told = worker.requests[-1]
    assert (told.target, told.body) == (exchange.path, exchange.request_body)


@pytest.mark.parametrize("name", CARRIED)
async def test_the_old_generation_s_routes_carry_what_was_recorded(fleet: Fleet, name: str) -> None:
    await fleet.start(1)
    exchange = load()[f"trl_legacy/{name}"]
    await replayed(fleet, exchange, exchange.path)


@pytest.mark.parametrize("name", ["generate_text", "chat", "seq_logprobs_json"])
async def test_the_last_slash_may_be_missing(fleet: Fleet, name: str) -> None:
    await fleet.start(1)
    exchange = load()[f"trl_legacy/{name}"]
    await replayed(fleet, exchange, exchange.path.removesuffix("/"))


async def test_nan_goes_through_as_it_is(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    body = b'{"logprobs":[[[NaN]]],"prompt_ids":[[1]],"completion_ids":[[2]]}'
    worker.says("/generate/", body)
    gateway = await fleet.gateway()
    answer = await gateway.client.post("/generate/", json={"prompts": ["x"]})
    assert (answer.status_code, answer.content) == (200, body)


@pytest.mark.parametrize("path", ["/generate/", "/chat/", "/get_sequence_logprobs/", "/generate"])
async def test_what_is_no_json_object_is_refused(fleet: Fleet, path: str) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000):
        answer = await gateway.client.post(path, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert not worker.requests


async def test_the_new_generation_s_health_waits_for_a_fit_worker(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/health")).status_code == 200
    gateway.gateway.workers.all[0].mark("test", "down", "as told")
    assert (await gateway.client.get("/health")).status_code == 503
    assert not worker.requests


async def test_the_old_client_learns_where_a_single_worker_is(fleet: Fleet) -> None:
    await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/health/")).headers["x-forwarded-for"] == "127.0.0.1"
    await fleet.start(1)
    gateway = await fleet.gateway()
    assert "x-forwarded-for" not in (await gateway.client.get("/health/")).headers


async def test_a_broadcast_is_a_post(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/init_communicator/")).status_code == 400
    assert not worker.requests


async def test_what_climbs_out_of_a_route_is_not_carried(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    async with RawClient(*gateway.server.address) as client:
        for path in ("/generate/../sleep", "/generate//", "/chat/%2e%2e/sleep", "/sleep"):
            assert (await client.ask("POST", path, body=b"{}")).status == 404
    assert not worker.requests


def test_the_old_gateway_s_variables_are_fields_here() -> None:
    config = shipped(
        BACKENDS="http://a:1,http://b:2",
        REQUIRED_MODEL_VERSION="7",
        FAIL_EJECT_THRESHOLD="5",
        COOLDOWN_SECONDS="600",
        HEALTH_INTERVAL="1.5",
        REQUEST_TIMEOUT="120",
        MAX_BODY_MB="1",
        MAX_INFLIGHT_PER_BACKEND="2",
        STICKY_HEADER="x-mine",
        PROMPT_STICKY_PREFIX_CHARS="40",
    )
    Gateway(config)
    assert [worker.url for worker in config.workers] == ["http://a:1", "http://b:2"]
    assert (config.probes.interval, config.timeouts.first_byte) == (1.5, 120.0)
    assert config.server_limits.max_body_bytes == 1 << 20
    options = {entry.name: entry.options for entry in config.plugins}
    assert options["trl"]["required_version"] == "7"
    assert options["circuit_breaker"]["consecutive_failures"] == "5"
    assert options["circuit_breaker"]["cooldown"] == "600"
    assert options["backpressure"] == {"max_in_flight_per_worker": "2", "status": 503}
    assert options["stickiness"] == {"header": "x-mine", "prefix_chars": "40"}


def test_without_variables_its_defaults_hold() -> None:
    config = shipped(BACKENDS="http://a:1")
    Gateway(config)
    assert (config.probes.interval, config.timeouts.first_byte) == (3.0, 90.0)
    assert config.server_limits.max_body_bytes == 20 << 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKENDS", ""),
        ("BACKENDS", "a:8000"),
        ("FAIL_EJECT_THRESHOLD", "0"),
        ("COOLDOWN_SECONDS", "soon"),
        ("HEALTH_INTERVAL", "-1"),
        ("REQUEST_TIMEOUT", "x"),
        ("MAX_BODY_MB", "lots"),
        ("MAX_INFLIGHT_PER_BACKEND", "0"),
        ("PROMPT_STICKY_PREFIX_CHARS", "-1"),
    ],
)
def test_a_wrong_value_is_told_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Gateway(shipped(**{"BACKENDS": "http://a:1", name: value}))


async def test_options_change_while_it_runs(fleet: Fleet) -> None:
    await fleet.start(1)
    gateway = await fleet.gateway()
    plugin = gateway.plugin(Trl)
    assert (await gateway.client.get("/get_world_size")).status_code == 200
    plugin.reconfigure(Options(required_version="2"))
    answer = await gateway.client.get("/get_world_size")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "wrong_version")
    plugin.reconfigure(Options())
    assert (await gateway.client.get("/get_world_size")).status_code == 200
    with pytest.raises(ValueError, match="change only at a restart"):
        plugin.reconfigure(Options(max_wait=1.0))

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
async def test_trl_legacy_routes_forward_recorded_exchanges_unchanged(
    fleet: Fleet, name: str
) -> None:
    await fleet.start(1)
    exchange = load()[f"trl_legacy/{name}"]
    await replayed(fleet, exchange, exchange.path)


@pytest.mark.parametrize("name", ["generate_text", "chat", "seq_logprobs_json"])
async def test_trl_legacy_routes_work_without_the_trailing_slash(fleet: Fleet, name: str) -> None:
    await fleet.start(1)
    exchange = load()[f"trl_legacy/{name}"]
    await replayed(fleet, exchange, exchange.path.removesuffix("/"))


async def test_trl_routes_forward_nan_unchanged(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    body = b'{"logprobs":[[[NaN]]],"prompt_ids":[[1]],"completion_ids":[[2]]}'
    worker.says("/generate/", body)
    gateway = await fleet.gateway()
    answer = await gateway.client.post("/generate/", json={"prompts": ["x"]})
    assert (answer.status_code, answer.content) == (200, body)


@pytest.mark.parametrize("path", ["/generate/", "/chat/", "/get_sequence_logprobs/", "/generate"])
async def test_trl_routes_reject_a_body_that_is_no_json_object(fleet: Fleet, path: str) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000):
        answer = await gateway.client.post(path, content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert not worker.requests


async def test_trl_health_returns_503_without_a_fit_worker(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/health")).status_code == 200
    gateway.gateway.workers.all[0].mark("test", "down", "as told")
    assert (await gateway.client.get("/health")).status_code == 503
    assert not worker.requests


async def test_trl_legacy_health_names_the_address_of_a_single_worker(fleet: Fleet) -> None:
    await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/health/")).headers["x-forwarded-for"] == "127.0.0.1"
    await fleet.start(1)
    gateway = await fleet.gateway()
    assert "x-forwarded-for" not in (await gateway.client.get("/health/")).headers


async def test_trl_broadcast_route_rejects_get(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    assert (await gateway.client.get("/init_communicator/")).status_code == 400
    assert not worker.requests


async def test_trl_routes_reject_paths_that_leave_the_route(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    gateway = await fleet.gateway()
    async with RawClient(*gateway.server.address) as client:
        for path in ("/generate/../sleep", "/generate//", "/chat/%2e%2e/sleep", "/sleep"):
            assert (await client.ask("POST", path, body=b"{}")).status == 404
    assert not worker.requests


def test_trl_config_reads_the_old_gateway_s_variables() -> None:
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


def test_trl_config_uses_the_old_gateway_s_defaults() -> None:
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
def test_trl_config_error_names_the_wrong_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Gateway(shipped(**{"BACKENDS": "http://a:1", name: value}))


async def test_trl_options_change_at_run_time(fleet: Fleet) -> None:
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

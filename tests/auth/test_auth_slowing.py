"""Who guesses keys waits, and nobody else does."""

import asyncio
from pathlib import Path

import pytest
from gateway_plugins.auth import Auth, slowing
from gateway_plugins.auth.slowing import Slowing
from support.callers.raw_client import RawClient, head_of
from support.gateways.with_keys import TOKEN, KeysOnDisk, ask, code_of, key, keyed
from support.plugins.recording_plugin import until

from gateway import TooManyRequests
from gateway.testing import GatewayFor, Live

REFUSED = (401, "invalid_api_key")
TOO_MANY = (429, "too_many_failed_attempts")


@pytest.fixture
async def live(gateway_for: GatewayFor, tmp_path: Path) -> Live:
    disk = KeysOnDisk(tmp_path / "keys.json")
    disk.write(key())
    return await keyed(gateway_for, disk)


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowing, "FIRST_DELAY", 1e6)
    monkeypatch.setattr(slowing, "MAX_DELAY", 1e6)


async def fail(live: Live, times: int) -> None:
    for _ in range(times):
        assert code_of(await ask(live, "unknown")) == REFUSED


def waits(times: int, slow: Slowing, address: str = "a", now: float = 0.0) -> list[float]:
    return [slow.wait_of(address, now) for _ in range(times)]


def test_slowing_delays_failures_progressively_after_ten_a_minute() -> None:
    slow = Slowing()
    assert waits(10, slow) == [0.0] * 10
    assert waits(7, slow) == [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 2.0]
    assert slow.wait_of("b", 0.0) == 0.0
    assert waits(10, slow, "b", 60.0)[-2:] == [0.0, 0.0]
    assert slow.wait_of("a", 60.0) == 0.0


def test_slowing_forgets_failures_after_two_minutes() -> None:
    slow = Slowing()
    waits(1000, slow)
    assert waits(11, slow, now=120.0) == [*[0.0] * 10, 0.0625]


def test_slowing_bounds_the_addresses_it_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowing, "MAX_ADDRESSES", 2)
    slow = Slowing()
    for address in "ab":
        waits(11, slow, address)
    assert slow.wait_of("c", 0.0) == 0.0
    assert slow.wait_of("b", 0.0) > 0
    assert slow.wait_of("a", 0.0) == 0.0


@pytest.mark.usefixtures("forever")
@pytest.mark.parametrize(
    ("addresses", "same"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], True),
        (["2001:db8:1:2::1", "2001:db8:1:3::1"], False),
        (["::ffff:10.0.0.1", "10.0.0.1"], True),
        (["10.0.0.1", "10.0.0.2"], False),
        (["fe80::1%eth0", "fe80::2%eth1"], True),
        ([None, ""], True),
        (["x" * 100, "x" * 200], True),
    ],
)
async def test_slowing_groups_equivalent_addresses(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str | None], same: bool
) -> None:
    monkeypatch.setattr(slowing, "MAX_WAITING", 0)
    slow = Slowing()
    for _ in range(10):
        await slow.failed(addresses[0])
    if same:
        with pytest.raises(TooManyRequests):
            await slow.failed(addresses[1])
    else:
        await slow.failed(addresses[1])


@pytest.mark.usefixtures("forever")
async def test_slowing_delays_guesses_but_no_valid_key(
    live: Live,
) -> None:
    await fail(live, 10)
    slow = live.plugin(Auth).slowing
    async with RawClient(*live.server.address) as client:
        await client.send(head_of("GET", "/v1/models", [(b"api-key", b"unknown")]))
        await until(lambda: slow.waiting == 1)
        assert (await ask(live, TOKEN)).status_code == 200
        assert slow.waiting == 1
    await until(lambda: slow.waiting == 0)


@pytest.mark.usefixtures("forever")
async def test_slowing_rejects_a_guess_at_once_if_too_many_wait(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(live, 10)
    monkeypatch.setattr(slowing, "MAX_WAITING", 1)
    slow = live.plugin(Auth).slowing
    first = asyncio.create_task(ask(live, "unknown"))
    await until(lambda: slow.waiting == 1)
    for answer in (await ask(live, None), await live.client.get("/health/workers")):
        assert code_of(answer) == TOO_MANY
        assert int(answer.headers["retry-after"]) > 0
    assert (await ask(live, TOKEN)).status_code == 200
    first.cancel()


async def test_delayed_guess_is_rejected_like_any_other(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowing, "FIRST_DELAY", 1e-6)
    await fail(live, 15)

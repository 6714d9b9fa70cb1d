"""Ports of engines that live beside each other."""

from typing import Literal

import pytest
from gateway_plugins.runtime.drivers.ports import ports_of
from gateway_plugins.runtime.options import Model, Options, Runtime
from hypothesis import given
from hypothesis import strategies as st

from gateway import ConfigError

Level = Literal[1, 2] | None

LEVELS: tuple[Level, ...] = (None, 1, 2)

ENDS, SLEEPS, DOZES = (
    Model(name="ends"),
    Model(name="sleeps", sleep_level=1),
    Model(name="dozes", sleep_level=2),
)
ELSEWHERE = Model(name="elsewhere", sleep_level=1, url="http://other:8000")


def test_engines_that_sleep_get_the_ports_after_their_runtimes() -> None:
    options = Options(
        models=(SLEEPS, ELSEWHERE, ENDS, DOZES),
        runtimes=(Runtime(name="a", port=7000), Runtime(name="b", port=8000, models=("dozes",))),
    )
    assert ports_of(options) == {
        ("a", "sleeps"): 7001,
        ("a", "ends"): 7000,
        ("a", "dozes"): 7002,
        ("b", "dozes"): 8001,
    }


def test_runtimes_with_the_same_port_on_one_host_are_refused() -> None:
    near = (Runtime(name="a", port=7000), Runtime(name="b", port=7002))
    with pytest.raises(ConfigError, match="a and b both need port 7002 on 127"):
        ports_of(Options(models=(ENDS, SLEEPS, DOZES), runtimes=near))
    apart = (Runtime(name="a"), Runtime(name="b", host="127.0.0.2"))
    assert len(ports_of(Options(models=(ENDS,), runtimes=apart))) == 2


def test_ports_end_where_numbers_of_ports_do() -> None:
    runtimes = (Runtime(name="a", port=65_535),)
    assert ports_of(Options(models=(ENDS,), runtimes=runtimes)) == {("a", "ends"): 65_535}
    with pytest.raises(ConfigError, match="no port is left for model sleeps above 65535"):
        ports_of(Options(models=(ENDS, SLEEPS), runtimes=runtimes))


@given(st.lists(st.sampled_from(LEVELS), min_size=1, max_size=6), st.integers(1, 65_535))
def test_no_engine_shares_a_port_with_one_that_sleeps(levels: list[Level], port: int) -> None:
    models = tuple(
        Model(name=f"m{number}", sleep_level=level) for number, level in enumerate(levels)
    )
    options = Options(models=models, runtimes=(Runtime(port=port),))
    try:
        ports = ports_of(options)
    except ConfigError:
        assert port + len(levels) > 65_535
        return
    asleep = [ports["gpu", model.name] for model in models if model.sleep_level is not None]
    assert len({*asleep, port}) == len(asleep) + 1
    assert set(ports.values()) <= {*asleep, port}

"""Options that contradict each other are told at the start, each in a line."""

import pytest
from gateway_plugins.runtime import Runtime as Plugin
from gateway_plugins.runtime.options import Docker, Model, Options, Runtime

from gateway import ConfigError
from gateway.testing import GatewayFor, entry

A, B = Model(name="a"), Model(name="b")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Options(models=(A, A)), "models: the name a is given 2 times"),
        (
            Options(models=(Model(name="a", url="http://127.0.0.1:1"),)),
            "models: a: an engine with a url is woken and put to sleep; set sleep_level",
        ),
        (
            Options(
                models=(Model(name="a", url="http://h", sleep_level=1, docker=Docker(image="i")),)
            ),
            "models: a: give url or docker, not both",
        ),
        (
            Options(models=(Model(name="a", engine="sglang", sleep_level=1),)),
            "models: a: only vllm can sleep",
        ),
        (
            Options(models=(A,), runtimes=(Runtime(realtime="b"),)),
            "runtimes: gpu: realtime: b is none of its models",
        ),
        (
            Options(models=(A, B), runtimes=(Runtime(realtime="b", models=("a",)),)),
            "runtimes: gpu: realtime: b is none of its models",
        ),
        (
            Options(models=(A,), runtimes=(Runtime(models=("c",)),)),
            "runtimes: gpu: models: there is no model c",
        ),
        (
            Options(models=(A,), runtimes=(Runtime(), Runtime(port=30_001))),
            "runtimes: the name gpu is given 2 times",
        ),
        (
            Options(models=(A,), runtimes=(Runtime(), Runtime(name="other"))),
            (
                "runtimes: gpu and other both need port 30000 on 127.0.0.1: each needs a "
                "`port` with room for each model that sleeps"
            ),
        ),
    ],
)
def test_contradiction_is_told(options: Options, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Plugin(options)
    assert raised.value.problems == (f"runtime.{told}",)


def test_several_runtimes_with_ports_of_their_own_are_valid() -> None:
    Plugin(Options(models=(A, B), runtimes=(Runtime(), Runtime(name="two", port=30_001))))


async def test_plugin_without_models_is_refused(gateway_for: GatewayFor) -> None:
    with pytest.raises(ConfigError, match="models"):
        await gateway_for(entry(Plugin, models=[]), workers=())

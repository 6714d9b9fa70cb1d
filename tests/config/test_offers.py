"""Settings that come with a flag: below the file, and with plugins that are added."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from gateway.config import Config, load
from gateway.config.node import Variable
from gateway.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")

OFFERS: Mapping[str, Mapping[str, object]] = {
    "--other": {
        "workers": [Variable("OTHER_URL", "http://old:1")],
        "timeouts": {"idle": 7.0},
        "plugins": [{"other": {"port": Variable("OTHER_PORT", "5"), "name": "n"}}],
    }
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: int
    name: str


def loaded(text: str = "", environ: Mapping[str, str] = {}, **overrides: object) -> Config:
    Path("gateway.yaml").write_text(text)
    return load(Path("gateway.yaml"), environ, overrides, OFFERS)


def options_of(config: Config) -> Options | None:
    [entry] = [entry for entry in config.plugins if entry.name == "other"]
    return entry.options_as(Options, [])


def test_offered_settings_lie_below_the_file() -> None:
    config = loaded("workers: [http://new:1]\ntimeouts: {connect: 3}")
    assert [worker.url for worker in config.workers] == ["http://new:1"]
    assert (config.timeouts.idle, config.timeouts.connect) == (7.0, 3.0)
    assert loaded(environ={"GATEWAY_TIMEOUTS__IDLE": "8"}).timeouts.idle == 8
    assert loaded(workers=["http://newest:1"]).workers[0].url == "http://newest:1"
    assert loaded().workers[0].url == "http://old:1"


@pytest.mark.parametrize(
    ("text", "environ", "names", "port"),
    [
        ("", {}, ["other"], 5),
        ("plugins: [sessions]", {}, ["sessions", "other"], 5),
        ("plugins: [other: {port: 6}, sessions]", {}, ["other", "sessions"], 6),
        ("plugins: [other]", {}, ["other"], 5),
        ("", {"GATEWAY_PLUGINS": "sessions,other"}, ["sessions", "other"], 5),
    ],
)
def test_offered_plugins_are_added_where_no_source_names_them(
    text: str, environ: dict[str, str], names: list[str], port: int
) -> None:
    config = loaded(text, environ)
    assert [entry.name for entry in config.plugins] == names
    assert options_of(config) == Options(port=port, name="n")


def test_messages_about_offered_values_name_the_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        load(offers={"--other": {"port": Variable("OTHER_PORT", "x"), "timeouts": {"idle": -1}}})
    first, second = caught.value.problems
    assert first == 'OTHER_PORT: port: expected a port from 0 to 65535, got "x"'
    assert second.startswith("--other: timeouts.idle: expected a number greater than 0")
    problems: list[str] = []
    config = load(offers={"--other": {"plugins": [{"other": {"port": Variable("P", "x")}}]}})
    config.plugins[0].options_as(Options, problems)
    assert problems[0].startswith("P: plugins.other.port: expected an integer")

"""docs/dashboard.md says what the code says."""

import re
from pathlib import Path
from typing import get_args

import pytest
from gateway_plugins.dashboard import Dashboard, doors, logins, panels, times, ui
from support.paths import DOCS
from support.plugins.recording_plugin import Watcher

from gateway import Cause, ForkKind, Reason
from gateway.testing import GatewayFor

MANUAL = (DOCS / "dashboard.md").read_text()
WORDS = Path(doors.__file__).parent / "static" / "words.mjs"


def first_column(heading: str) -> list[str]:
    """The words in backquotes in the first cells of the table with this head."""
    table = MANUAL.split(heading, 1)[1].split("\n\n", 1)[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_manual_lists_each_option_and_default() -> None:
    options = Dashboard.Config
    assert first_column("| option | default | meaning |") == [*options.__struct_fields__]
    for name in options.__struct_fields__:
        assert f"| `{name}` | `{getattr(options(), name)}` |" in MANUAL


def test_the_manual_gives_each_limit() -> None:
    assert panels.READING == 2.0
    assert "longer than two seconds" in MANUAL
    assert f"at most {logins.MAX_OF_ONE} logins at a time" in MANUAL
    assert f"all keys together {logins.MAX_LOGINS:,}" in MANUAL
    assert f"{logins.LoginsUnavailable.status} `{logins.LoginsUnavailable.code}`" in MANUAL
    assert f"{ui.MAX_TEXT:,} characters" in MANUAL
    assert times.BOUNDS[1] / times.BOUNDS[0] < 1 + 2 * 0.08
    assert doors.HOME == "/dashboard"


async def test_the_manual_lists_each_route(gateway_for: GatewayFor) -> None:
    live = await gateway_for("dashboard", Watcher)
    paths = [str(getattr(route, "path", "")) for route in live.gateway.routes]
    own = {path.partition("{path")[0] for path in paths if path.startswith(("/dashboard", "/ui"))}
    named = [one.split(" ")[-1] for one in first_column("| route | scope | meaning |")]
    assert {one.partition("?")[0].partition("...")[0] for one in named} == own


def test_the_picture_is_small() -> None:
    assert (DOCS / "dashboard.png").stat().st_size < 150_000


@pytest.mark.parametrize(
    ("name", "values"), [("REASONS", Reason), ("CAUSES", Cause), ("FORK_KINDS", ForkKind)]
)
def test_page_has_words_for_each_value(name: str, values: object) -> None:
    flags = re.DOTALL | re.MULTILINE
    [said] = re.findall(rf"export const {name} = {{\n(.*?)^}};", WORDS.read_text(), flags)
    assert set(re.findall(r"^  (\w+):", said, re.MULTILINE)) == set(get_args(values))

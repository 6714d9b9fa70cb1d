"""docs/responses.md: its tables are complete."""

import re

from gateway_plugins.stored_responses.options import Options
from support.paths import DOCS

TEXT = (DOCS / "responses.md").read_text()


def test_manual_lists_every_option() -> None:
    table = TEXT.split("| field | default |")[1]
    named = {
        name
        for line in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }
    assert named == set(Options.__struct_fields__)


def test_manual_has_the_defaults() -> None:
    options = Options()
    assert f"| `max_background` | {options.max_background} |" in TEXT
    assert f"| `max_items` | {options.max_items} |" in TEXT
    assert options.keep == 30 * 86_400
    assert options.max_event_bytes == 64 * 1024**2

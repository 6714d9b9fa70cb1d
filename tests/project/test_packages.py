"""The files of requirements/ are in step with pyproject.toml, and hold everything to a hash."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT

WRITTEN = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = WRITTEN["project"]
RUN = [Requirement(one) for one in PROJECT["dependencies"]]
EXTRAS = [Requirement(one) for some in PROJECT["optional-dependencies"].values() for one in some]
BUILD = [Requirement(one) for one in WRITTEN["build-system"]["requires"]]
_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; .+?)?(?P<hashes>(?: --hash=\S+)+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(name: str) -> dict[str, list[Version]]:
    """The versions by package; a marker may choose between several."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found: dict[str, list[Version]] = {}
    for one in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        pin = _PIN.fullmatch(one)
        assert pin is not None, one
        assert all(_HASH.fullmatch(part) for part in pin["hashes"].split()), one
        found.setdefault(canonicalize_name(pin["name"]), []).append(Version(pin["version"]))
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("run.txt", RUN),
        ("dev.txt", [*RUN, *EXTRAS, *BUILD]),
        ("lowest.txt", [*RUN, *EXTRAS, *BUILD]),
        ("lock.txt", [Requirement("uv")]),
    ],
)
def test_requirements_pin_every_dependency(name: str, wanted: list[Requirement]) -> None:
    pinned = pins(name)
    for one in wanted:
        versions = pinned.get(canonicalize_name(one.name), [])
        assert versions, f"`make lock`: {name} has no {one.name}"
        for version in versions:
            assert one.specifier.contains(version, prereleases=True), f"`make lock`: {one}"


def test_run_pins_equal_the_tested_pins() -> None:
    tested = pins("dev.txt")
    assert {name: tested.get(name) for name in pins("run.txt")} == pins("run.txt")


def test_lowest_pins_equal_the_lower_bounds() -> None:
    """So each bound is one that the tests have seen, and there is no package without one."""
    lowest = pins("lowest.txt")
    for one in RUN:
        [bound] = [Version(part.version) for part in one.specifier if part.operator == ">="]
        assert lowest[canonicalize_name(one.name)] == [bound], one
    for one in EXTRAS:
        assert any(part.operator in (">=", "==") for part in one.specifier), one


def test_requirements_name_no_index() -> None:
    """Where packages come from is for whoever installs them to say."""
    for file in (ROOT / "requirements").iterdir():
        text = file.read_text()
        assert "://" not in text, file
        options = re.findall(r"^\s*(-\S+?)[=\s]", text, re.MULTILINE)
        assert set(options) <= {"--hash"}, file

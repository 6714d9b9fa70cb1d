"""Paths of a container, found on its host."""

from pathlib import PurePosixPath

import pytest
from gateway_plugins.runtime.drivers.containers.volumes import outside
from hypothesis import given
from hypothesis import strategies as st

PARTS = st.lists(st.sampled_from(["data", "hub", "a b", ".x", "models--a--b"]), max_size=5)


@pytest.mark.parametrize(
    ("path", "volumes", "found"),
    [
        ("/root/.cache/hub/x.jinja", ["/cache:/root/.cache"], "/cache/hub/x.jinja"),
        ("/root/.cache", ["/cache:/root/.cache:ro"], "/cache"),
        ("/c/", ["/cache/:/c/"], "/cache"),
        ("/cc/x", ["/cache:/c"], None),
        ("/c/../etc/passwd", ["/cache:/c"], None),
        ("//c/x", ["/cache:/c"], "/cache/x"),
        ("/a/b/x", ["/a/long/path:/a", "/two:/a/b", "/all:/"], "/two/x"),
        ("/a/b/x", ["named:/a/b", "/all:/"], None),
        ("c/x", ["/cache:/c"], None),
        ("/x", ["/x"], None),
        ("/x", [":/x", "", "::"], None),
        ("/anything", [], None),
    ],
)
def test_fault_6_04_paths_of_a_container_are_found_on_its_host(
    path: str, volumes: list[str], found: str | None
) -> None:
    assert outside(path, volumes) == found


@given(PARTS, PARTS, PARTS)
def test_path_in_a_volume_keeps_its_rest(
    host: list[str], container: list[str], rest: list[str]
) -> None:
    there, here = PurePosixPath("/", *host), PurePosixPath("/", *container)
    assert outside(str(here.joinpath(*rest)), [f"{there}:{here}:ro"]) == str(there.joinpath(*rest))


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=4))
def test_any_path_and_volumes_are_read_without_an_error(path: str, volumes: list[str]) -> None:
    found = outside(path, volumes)
    assert found is None or found.startswith("/")

"""One Docker daemon for all tests of a file that need one."""

from collections.abc import Iterator

import pytest
from support.workers.docker_daemon import DockerDaemon, docker_daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[DockerDaemon]:
    with docker_daemon() as running:
        yield running

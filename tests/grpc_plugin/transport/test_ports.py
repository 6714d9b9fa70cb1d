"""Who has the port: all processes of one gateway, and no other program."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_plugins.grpc.ports import claim

from gateway import ConfigError, Peers

HERE = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens, which would share it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HERE, 0))
        other.listen()
        yield other.getsockname()[1]


def test_processes_that_start_at_once_choose_one_port(tmp_path: Path) -> None:
    peers = [Peers(index, 8, tmp_path) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ports = set(pool.map(lambda one: claim(one, HERE, 0), peers))
    assert len(ports) == 1
    assert 0 not in ports


def test_a_port_of_another_program_is_refused(tmp_path: Path, taken: int) -> None:
    for index in range(2):
        with pytest.raises(ConfigError, match=f"port: {HERE}:{taken} is taken"):
            claim(Peers(index, 2, tmp_path), HERE, taken)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "unix:/tmp/socket", "/tmp/socket"])
def test_hosts_that_are_none_are_named(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^host: ") as refused:
        claim(Peers(0, 2, tmp_path), host, 0)
    assert host in str(refused.value)

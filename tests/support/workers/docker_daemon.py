"""A Docker daemon of the test's own, without a network and with an image of no files.

Containers get the machine's programs as volumes, so that nothing has to be copied.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway_plugins.runtime.options import Docker

IMAGE = "empty:1"
PATIENCE = 30.0


class DockerDaemon:
    """A daemon that keeps all it has in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it answers. Raises RuntimeError with its log."""
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(self._command(), stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._running.poll() is not None or time.monotonic() > deadline:
                self._signal(signal.SIGTERM)
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        with self.client() as client:
            client.api.import_image_from_data(_no_files(), repository="empty", tag="1")

    def end(self) -> None:
        """Remove all containers, which would outlive the daemon, and stop the daemon."""
        if self._running is not None:
            with self.client() as client:
                for container in client.containers.list(all=True):
                    container.remove(force=True)
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the daemon. What ran in its containers runs on, and belongs to the next one."""
        helper = int((self.folder / "exec-root/containerd/containerd.pid").read_text())
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{helper}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # the next daemon would wait for it in vain

    def options(self, *volumes: str, **changes: Any) -> Docker:
        """Options of a model that runs on this daemon, with the programs of this machine."""
        everything = (*_programs(), *volumes)
        more: dict[str, Any] = {"network": "host", "gpus": False, "shm_size": "16m"}
        return Docker(image=IMAGE, host=self.host, volumes=everything, **more | changes)

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        import docker

        with contextlib.closing(docker.DockerClient(base_url=self.host)) as client:
            yield client

    def _signal(self, number: int) -> None:
        if self._running is None:
            return
        self._running.send_signal(number)
        self._running.wait(PATIENCE)
        self._running = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
            asking.connect(self.host.removeprefix("unix://"))
            return True
        return False

    def _command(self) -> list[str]:
        places = [
            f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")
        ]
        return [
            *("dockerd", "--iptables=false", "--bridge=none", "--storage-driver=vfs"),
            *(*places, "--host", self.host, "--live-restore"),
        ]


@contextlib.contextmanager
def docker_daemon() -> Iterator[DockerDaemon]:
    """A daemon; its socket needs a short path, shorter than tests' folders have."""
    folder = Path("/tmp") / f"dockerd-{os.getpid()}"
    folder.mkdir()
    daemon = DockerDaemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.end()
        _unmount(folder)
        shutil.rmtree(folder)


def _unmount(folder: Path) -> None:
    """A daemon leaves the mount of its network, and one that was killed that of its data."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)


def _programs() -> list[str]:
    """The folders with Python, this project and their libraries, each as it is, read-only."""
    wanted = {Path(sys.prefix), Path(sys.base_prefix), *map(Path, sys.path)}
    system = [Path(name) for name in ("/bin", "/lib", "/lib64", "/usr") if Path(name).exists()]
    inner = [one for one in wanted if one.is_dir() and not any(map(one.is_relative_to, system))]
    return [f"{one}:{one}:ro" for one in (*system, *_outermost(inner))]


def _outermost(folders: list[Path]) -> list[Path]:
    return [one for one in folders if not any(parent in folders for parent in one.parents)]


def _no_files() -> bytes:
    """An archive of one folder, for which alone the daemon takes it to be an image."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    return made.getvalue()

"""`gateway serve --processes N`: one port, one database, N processes, each a whole gateway.

`supervisor.py` starts and replaces them, `sharing_port.py` has them listen on one port, and
`siblings.py` is how they talk. What is the same in all of them is in docs/processes.md.
"""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import pickle
import select
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from gateway.app import Gateway
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.logs import Logs
from gateway.server import Server
from gateway.sharing_port import BALANCED, listening
from gateway.siblings import Siblings
from gateway.supervisor import Post, Supervisor

log = logging.getLogger("gateway")

MEMORY = Path("/dev/shm")
"""Linux's file system without a disk behind it."""

NOT_LISTENING = 3
"""The exit status with which uvicorn ends where it cannot listen."""

Source = Callable[[], Config]


def serve(settings: Config, source: Source | None) -> int:
    """Serve with `settings.processes` processes until a signal; gives the exit status.

    `source` reads the configuration anew. `settings` were found good by making a Gateway of them.
    """
    try:
        sockets = listening(settings.host, settings.port, settings.processes)
    except OSError as error:
        log.error("%s", error)
        return NOT_LISTENING
    gc.collect()
    gc.freeze()  # what stands now is shared by all, as long as no collection touches it
    with _folder() as folder:
        return Supervisor(
            partial(_fill, settings, source, folder, sockets),
            settings.processes,
            reloads=source is not None,
            serving=partial(_tell_address, settings, sockets[0][0]),
            closing=partial(_close, sockets),
        ).run()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Private to this gateway. It is locked, so that nobody who tidies up thinks it forgotten.

    In memory, where that can be: a disk may hold up who writes to a page that it is writing out.
    """
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(
        prefix="gateway-", dir=memory, ignore_cleanup_errors=True
    ) as made:
        fd = os.open(made, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield Path(made)
        finally:
            os.close(fd)


def _tell_address(settings: Config, listens: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = listens.getsockname()[1]
    log.info("%d processes serve on http://%s:%d", settings.processes, host, port)


def _close(sockets: Sequence[Sequence[socket.socket]]) -> None:
    for own in sockets:
        for one in own:
            one.close()


def _fill(
    settings: Config,
    source: Source | None,
    folder: Path,
    sockets: Sequence[Sequence[socket.socket]],
    post: Post,
) -> int:
    """The life of one process."""
    if BALANCED:
        _close([own for index, own in enumerate(sockets) if index != post.index])
    siblings = Siblings(post.index, settings.processes, folder)
    try:
        return _status_of(partial(_serve, settings, source, siblings, sockets[post.index], post))
    finally:
        _clear(folder, post)


def _serve(
    settings: Config,
    source: Source | None,
    siblings: Siblings,
    sockets: Sequence[socket.socket],
    post: Post,
) -> None:
    if post.replaces:
        settings = asyncio.run(_standing(siblings)) or _read_again(source) or settings
    logs = Logs(settings.log_level, settings.log_format, process=siblings.index)
    logs.begin()
    gateway = Gateway(settings, source=source, siblings=siblings)
    gateway.reloaded.append(logs.follow)
    OneOfSeveral(gateway, post).run(list(sockets))


async def _standing(siblings: Siblings) -> Config | None:
    """What the other processes go by; None where there is none."""
    for told in await siblings.ask("configuration"):
        config: Config = pickle.loads(told)  # of a process of ours, by a socket in a folder of ours
        return config
    return None


def _read_again(source: Source | None) -> Config | None:
    """None where it cannot be: the gateway goes on with what it was started with."""
    with contextlib.suppress(ConfigError):
        return source() if source is not None else None
    return None


class OneOfSeveral(Server):
    """Says when it serves, and drains once the supervisor is gone."""

    def __init__(self, gateway: Gateway, post: Post) -> None:
        super().__init__(gateway)
        self._post = post
        gateway.siblings.answer("configuration", self._tell_configuration)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._post.life, self._note_orphaned)
        if self._post.replaces:
            await self._catch_up()
        os.write(self._post.ready, bytes([self._post.index]))

    async def _tell_configuration(self, _: bytes) -> bytes:
        return pickle.dumps(self._gateway.config)

    async def _catch_up(self) -> None:
        """The others may have reloaded while this one started, and was not heard of yet."""
        config = await _standing(self._gateway.siblings)
        try:
            if config is not None:
                await self._gateway.reloader.follow(config)
        except Exception:
            log.exception("what the other processes go by cannot be used in this one")

    def _note_orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._post.life)
        log.error("the process that started this one is gone; it drains and ends")
        self.should_exit = True


def _status_of(run: Callable[[], None]) -> int:
    """The exit status with which a command would end that does the same."""
    try:
        run()
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return 2
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # noqa: BLE001  nobody is left to raise it to
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _clear(folder: Path, post: Post) -> None:
    """Whoever is the last one without a supervisor takes the folder away."""
    readable, _, _ = select.select([post.life], [], [], 0)
    if readable and not any(folder.glob("*.sock")):
        shutil.rmtree(folder, ignore_errors=True)

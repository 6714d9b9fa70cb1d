"""`gateway serve --processes N`: one port, one database, N processes, each a whole gateway.

`supervisor.py` starts and replaces the processes, `sockets.py` lets them listen on one port,
and `peers.py` carries their messages. docs/processes.md lists what is the same in all of them.
"""

import asyncio
import contextlib
import gc
import logging
import os
import pickle
import select
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial

from gateway.app.gateway import Gateway
from gateway.cluster.peers import Peers, Topic
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.serve.private_folder import PrivateFolder, private_folder
from gateway.serve.server import Server
from gateway.serve.sockets import BALANCED, listening
from gateway.serve.supervisor import Post, Supervisor
from gateway.telemetry.logs import Logs

log = logging.getLogger("gateway")

CONFIGURATION = Topic("serve", "configuration")

NOT_LISTENING = 3
"""Exit status of uvicorn if it cannot listen."""

Source = Callable[[], Config]


def serve(settings: Config, source: Source | None) -> int:
    """Serve with `settings.processes` processes until a signal; return the exit status.

    `source` reads the configuration again. `settings` must have been checked by building a Gateway.
    """
    try:
        sockets = listening(settings.host, settings.port, settings.processes)
    except OSError as error:
        log.error("%s", error)
        return NOT_LISTENING
    gc.collect()
    gc.freeze()  # all processes share this memory as long as no collection touches it
    with private_folder() as folder:
        return Supervisor(
            partial(_fill, settings, source, folder, sockets),
            settings.processes,
            reloads=source is not None,
            serving=partial(_tell_address, settings, sockets[0][0]),
            closing=partial(_close, sockets),
        ).run()


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
    folder: PrivateFolder,
    sockets: Sequence[Sequence[socket.socket]],
    post: Post,
) -> int:
    """Run one process; return its exit status."""
    if BALANCED:
        _close([own for index, own in enumerate(sockets) if index != post.index])
    peers = Peers(post.index, settings.processes, folder.path)
    try:
        return _status_of(partial(_serve, settings, source, peers, sockets[post.index], post))
    finally:
        if _is_orphaned(post):
            folder.close()


def _serve(
    settings: Config,
    source: Source | None,
    peers: Peers,
    sockets: Sequence[socket.socket],
    post: Post,
) -> None:
    if post.replaces:
        settings = asyncio.run(_standing(peers)) or _read_again(source) or settings
    logs = Logs(settings.log_level, settings.log_format, process=peers.index)
    logs.begin()
    gateway = Gateway(settings, source=source, peers=peers)
    gateway.reloaded.append(logs.follow)
    OneOfSeveral(gateway, post).run(list(sockets))


async def _standing(peers: Peers) -> Config | None:
    """Return the configuration that another process uses; None if no other process replies."""
    for told in await peers.request(CONFIGURATION):
        config: Config = pickle.loads(told)  # safe: from our own process, via our private folder
        return config
    return None


def _read_again(source: Source | None) -> Config | None:
    """Read the configuration; None if that fails, and the gateway then keeps its first one."""
    with contextlib.suppress(ConfigError):
        return source() if source is not None else None
    return None


class OneOfSeveral(Server):
    """Server of one process: reports when it serves, and drains once the supervisor is gone."""

    def __init__(self, gateway: Gateway, post: Post) -> None:
        super().__init__(gateway)
        self._post = post
        gateway.peers.handle(CONFIGURATION, self._tell_configuration)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._post.life, self._note_orphaned)
        if self._post.replaces:
            await self._catch_up()
        # A supervisor that died meanwhile changes nothing: the process serves what has come to it,
        # and drains as soon as the loop sees the end of `life`.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._post.ready, bytes([self._post.index]))

    async def _tell_configuration(self, _: bytes) -> bytes:
        return pickle.dumps(self._gateway.config)

    async def _catch_up(self) -> None:
        """Adopt the others' configuration: they may have reloaded while this process started."""
        config = await _standing(self._gateway.peers)
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
    """Call `run`; return the exit status that a command doing the same would end with."""
    try:
        run()
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return 2
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # noqa: BLE001  no caller is left to handle it
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _is_orphaned(post: Post) -> bool:
    """Whether the supervisor is gone."""
    return bool(select.select([post.life], [], [], 0)[0])

"""A gateway whose configuration file a test rewrites, and plugins that say what becomes of them."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from gateway import Call, Gateway, Migration, Migrations, hookimpl
from gateway.config import load
from gateway.testing import Live, live

log = logging.getLogger("reloadable")

ADDS_A_TABLE = Migrations("tabled", (Migration("tabled", "CREATE TABLE tabled (text TEXT)"),))


class Named:
    """Has its name in the answers, at /NAME, and in the log when it is entered and left."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        name: str = "one"
        fails: bool = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.calls = 0

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.calls += 1
        call.add_header("x-named", self.config.name)

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        async def page(_: Request) -> PlainTextResponse:
            return PlainTextResponse(self.config.name)

        return [gateway.guarded(Route(f"/{self.config.name}", page), scope=None)]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        name = self.config.name
        if self.config.fails:
            raise OSError("the disk is full")
        log.info("%s entered", name)
        async with asyncio.TaskGroup() as group:  # to be left in the task that entered it
            waiting = group.create_task(asyncio.Event().wait())
            try:
                yield
            finally:
                waiting.cancel()
                log.info("%s left", name)


class Other(Named):
    """A second one."""


class Yielding(Named):
    """Takes other options as it is, but not every name."""

    @hookimpl
    def reconfigure(self, config: Named.Config) -> None:
        if config.name == "nobody":
            raise ValueError("nobody is no name")
        log.info("%s is %s now", self.config.name, config.name)
        self.config = config


class Tabled:
    """Keeps a table."""

    @hookimpl
    def migrations(self) -> Migrations:
        return ADDS_A_TABLE


class Reloadable(msgspec.Struct, frozen=True):
    """What it serves is in `file`."""

    file: Path
    live: Live

    @property
    def client(self) -> httpx.AsyncClient:
        return self.live.client

    def write(self, *plugins: Any, **fields: Any) -> None:
        """`plugins` as in a file, classes of this module, or (class, options)."""
        write(self.file, *plugins, **fields)

    async def reload(self) -> httpx.Response:
        return await self.client.post("/admin/reload")

    async def changed(self, *plugins: Any, **fields: Any) -> dict[str, Any]:
        """What a reload of such a file says that it has changed."""
        self.write(*plugins, **fields)
        answer = await self.reload()
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def refused(self, *plugins: Any, **fields: Any) -> str:
        """Why a reload of such a file changes nothing."""
        self.write(*plugins, **fields)
        answer = await self.reload()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_configuration")
        message: str = error["message"]
        return message


def write_text(file: Path, text: str) -> None:
    file.write_text(text)


def write(file: Path, *plugins: Any, **fields: Any) -> None:
    fields["storage"] = {"path": ":memory:", **fields.get("storage", {})}
    fields.setdefault("probes", {"interval": None, "models_interval": None})
    file.write_text(json.dumps({**fields, "plugins": [_named(one) for one in plugins]}))


def _named(plugin: Any) -> object:
    if isinstance(plugin, tuple):
        kind, options = plugin
        return {_named(kind): options}
    return plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}"


@contextlib.asynccontextmanager
async def reloadable(file: Path, *plugins: Any, **fields: Any) -> AsyncIterator[Reloadable]:
    """A gateway that serves what such a file says, until the block ends."""
    write(file, *plugins, **fields)
    source = partial(load, file)
    async with live(Gateway(source(), source=source)) as running:
        yield Reloadable(file, running)

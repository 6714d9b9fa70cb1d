"""A plugin that breaks in every way that has no caller to tell, with somebody's words in it."""

import asyncio
import contextlib
import gc
import logging
import threading
import warnings
from collections.abc import AsyncIterator

from gateway import Gateway, hookimpl

WORDS = "canary-words"


def break_with(words: str) -> None:
    raise ValueError(words)


async def break_later(words: str) -> None:
    break_with(words)


class Undeletable:
    def __del__(self) -> None:
        break_with(WORDS)


class Noisy:
    """At its end it breaks too, so that the process ends by an error."""

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_soon(break_with, WORDS)
        task = asyncio.create_task(break_later(WORDS))
        await asyncio.wait([task])
        del task
        Undeletable()
        gc.collect()
        thread = threading.Thread(target=break_with, args=(WORDS,), name="noise")
        thread.start()
        thread.join()
        warnings.warn(WORDS, stacklevel=1)
        logging.getLogger("noisy").error("%d", WORDS)
        logging.getLogger("noisy").error("it broke: %s", ValueError(WORDS))
        yield
        break_with(WORDS)

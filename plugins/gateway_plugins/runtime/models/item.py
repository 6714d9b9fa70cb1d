"""What is known of one model on disk, and of its download."""

import asyncio
from time import monotonic

import msgspec

from gateway_plugins.runtime.loading.snapshots import Place
from gateway_plugins.runtime.models.inspecting import Files
from gateway_plugins.runtime.options import Model

TELLS = 0.01
"""Part of a download from which on its speed tells when it ends."""


class Progress(msgspec.Struct):
    """A download since `since` (`time.monotonic()`); bytes that are there, and of all files.

    `total` is 0 until the hub has told it, and `began_with` are bytes that were there before.
    """

    since: float
    done: int = 0
    total: int = 0
    began_with: int = 0

    @property
    def remaining(self) -> float | None:
        """The estimate of the seconds until it ends, None if nothing tells."""
        moved, elapsed = self.done - self.began_with, monotonic() - self.since
        tells = moved > 0 and moved >= TELLS * self.total
        return (self.total - self.done) * elapsed / moved if tells else None


class Item(msgspec.Struct, eq=False):
    """A model; `place` is where the gateway downloads it to, None: its engine has it.

    `is_there` is None until somebody has looked. `trusted`: the hub could not be asked, and the
    engine is left to load what is there.
    """

    model: Model
    place: Place | None = None
    files: Files = Files()
    is_there: bool | None = None
    looked_at: float = 0.0
    trusted: bool = False
    progress: Progress | None = None
    task: asyncio.Task[None] | None = None

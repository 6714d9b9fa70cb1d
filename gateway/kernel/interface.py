"""What a kernel has, the native one and the one in Python alike; None stands for "left to you"."""

from typing import Protocol


class Functions(Protocol):
    """The functions and types of a kernel: the module `reference` or the module `_native`.

    `BUILT` says how it was made, `SOURCES` from which sources: see `digest` in `build.py`.
    """

    BUILT: str
    SOURCES: str

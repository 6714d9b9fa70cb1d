"""What is fuzzed."""

from collections.abc import Sequence
from random import Random
from typing import Protocol

from gateway.kernel.interface import Functions


class Differs(Exception):
    """The native kernel made something else of an input than the Python code."""


class Target(Protocol):
    """One use of the kernel. A target is made once for each run."""

    name: str

    def seeds(self) -> Sequence[bytes]:
        """Return whole inputs, as workers send them; the fuzz damages them."""

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        """Give one input to the native kernel; return whether the kernel took the input.

        An input that the kernel leaves is no difference. `random` makes whatever else varies, such
        as the places at which reads end. Raises Differs.
        """

"""The kernel: what runs for each event and each record, in C if it has been built, else in Python.

`interface.py` lists the functions of a kernel. `_native` has them in C (`native/module.c`
begins, `build.py` compiles all), `reference.py` in Python. This room imports nothing of the gateway
but its errors.

**The C leaves each input that it is not sure of.** A function of a kernel returns None, or False,
for an input that it leaves, and its caller goes on in the Python code that has always read such
inputs. So that code stays in the rooms above, and is the reference. The kernel in Python leaves
every input. A caller counts what it had to read itself under the name of its part:
`kernel.fallbacks["stream"] += 1`. A usage or a chunk that is left is not counted: it costs little.

**The kernel is chosen when an object is assembled, not when a module is imported.** `active()`
reads GATEWAY_KERNEL and returns a Kernel. A Gateway has one (`gateway.kernel`, also for
plugins), and what it assembles gets it from there; something without a gateway, such as a command,
calls `active()` itself. Functions may be bound for a quick way at assembly:
`self._cut = kernel.functions.cut`. So that a test may run one case with each kernel in one process:

- No module of the gateway keeps a function or a type of a kernel in a global.
- No class inherits from a type of a kernel. An object holds one, or hands over to one, such as
  `transport.set_protocol(functions.tap(...))`.
- A test that uses `kernel_of_test` or `kernel_of_module` runs once with each.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, cast

from gateway.errors import ConfigError
from gateway.kernel import reference
from gateway.kernel.build import digest, sources
from gateway.kernel.interface import Functions

VARIABLE = "GATEWAY_KERNEL"

PARTS = ("record", "stream", "plain", "request")
"""What a kernel does: a record of an answer; the path of a stream's events; plain answers without
what was injected; the fields of a request. Messages of HTTP are not counted: many do not come in
one read."""

Name = Literal["native", "python"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in use. `fallbacks` counts what its functions left to the Python code, see PARTS."""

    name: Name
    functions: Functions
    problem: str = ""
    """Why this is not the native kernel although nobody asked for another."""
    fallbacks: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(PARTS, 0)))

    def __str__(self) -> str:
        return f"{self.name} ({self.functions.BUILT})"


def _load() -> tuple[Functions | None, str]:
    """Return the native kernel, or None and why there is none."""
    try:
        native = cast(Functions, import_module("gateway.kernel._native"))
    except ImportError as error:
        return None, str(error)
    if sources() and digest() not in native.SOURCES:
        return None, "gateway/kernel/_native was built from other sources: `make` builds it anew"
    return native, ""


_NATIVE, _PROBLEM = _load()


def is_built() -> bool:
    """Whether there is a native kernel."""
    return _NATIVE is not None


def active() -> Kernel:
    """Return the kernel that GATEWAY_KERNEL names; without it the native one, if there is one.

    Raises ConfigError if it names no kernel, or names the native one and that cannot be loaded.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "native", "python"):
        raise ConfigError(f"{VARIABLE}={wanted}: python or native was expected")
    if wanted == "python":
        return Kernel("python", reference)
    if _NATIVE is not None:
        return Kernel("native", _NATIVE)
    if wanted == "native":
        raise ConfigError(f"{VARIABLE}=native: there is no native kernel: {_PROBLEM}")
    return Kernel("python", reference, _PROBLEM)

"""Descriptors of this process that no engine may inherit."""

import contextlib
import os
from pathlib import Path


def keep_to_oneself() -> None:
    """Let new processes get none of the descriptors but the standard ones.

    Python's own are not inherited, but those that came with this process are: uvloop does not close
    them in a new process, whatever `close_fds` says. An engine that outlives this gateway would
    keep a pipe of its log open, or a socket that it was given.
    """
    for place in list(Path("/proc/self/fd").iterdir()):
        if int(place.name) > 2:
            with contextlib.suppress(OSError):  # it was that of the listing
                os.set_inheritable(int(place.name), False)

#!/usr/bin/env bash
# uvloop 0.23.0: a new process inherits descriptors in spite of `close_fds=True`.
#
# Input: asyncio.create_subprocess_exec with close_fds=True (its default) in a process that has an inheritable
# pipe, on asyncio's own loop and on uvloop.
# Guess: the new process has the standard descriptors alone, on either loop.
# Seen: on uvloop it has the pipe, too, as every inheritable descriptor of its parent, and copies of those that
# became its standard ones. On asyncio's own loop it has none of them. So a server on uvloop hands to its
# children what it was given itself: the pipe of its log, a socket. A child that outlives the server keeps the
# pipe open, and whoever reads the log waits for the child's end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uvloop==0.23.0
cat > "$work/try.py" <<'EOF'
import asyncio
import os
import sys

import uvloop

LIST = """
import os
places = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
print(*(os.readlink(place) for place in places if os.path.exists(place)))
"""


async def inherited() -> bool:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    ours = os.readlink(f"/proc/self/fd/{writing}")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIST, stdout=asyncio.subprocess.PIPE, close_fds=True
    )
    told, _ = await child.communicate()
    os.close(reading)
    os.close(writing)
    return ours in told.decode().split()


plain, fast = asyncio.run(inherited()), uvloop.run(inherited())
print(f"the child has the pipe: asyncio {plain}, uvloop {uvloop.__version__} {fast}")
sys.exit((plain, fast) != (False, True))
EOF
"$work/venv/bin/python" "$work/try.py"

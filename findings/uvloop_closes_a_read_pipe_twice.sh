#!/usr/bin/env bash
# uvloop 0.23.0: connect_read_pipe closes the descriptor of its pipe, and the file object closes the number again.
#
# Input: loop.connect_read_pipe with an unbuffered file of a pipe, on asyncio's own loop and on uvloop. The
# transport is closed; the file's `close` looks whether its descriptor is open at that moment.
# Guess: the transport closes the file, which closes the descriptor once, on either loop.
# Seen: on uvloop the descriptor is closed before the file is asked to close, and the file's `close` then closes
# the same number. Meanwhile another thread may have opened something under that number, which is closed in
# place of the pipe. On asyncio's own loop the descriptor is open until the file closes it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uvloop==0.23.0
cat > "$work/try.py" <<'EOF'
import asyncio
import io
import os
import sys

import uvloop

was_open: list[bool] = []


class Watched(io.FileIO):
    def close(self) -> None:
        if not self.closed:
            try:
                os.fstat(self.fileno())
                was_open.append(True)
            except OSError:
                was_open.append(False)
        super().close()


async def close_one() -> None:
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(asyncio.Protocol, Watched(reading, "rb"))
    os.close(writing)
    transport.close()
    await asyncio.sleep(0.2)


for run in (asyncio.run, uvloop.run):
    try:
        run(close_one())
    except OSError:  # of the second close
        pass
print(f"open when the file closes it: asyncio {was_open[0]}, uvloop {uvloop.__version__} {was_open[1]}")
sys.exit(was_open != [True, False])
EOF
"$work/venv/bin/python" "$work/try.py"

"""Run as a program: starts an engine that resists, and ends it.

Prints the capabilities that the program has, and how many processes of the engine have stayed.
"""

import asyncio
import sys
from pathlib import Path

from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver
from support.runtime.small_engines import Printed, launch

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say('child', child(lambda: (os.setsid(), stay())))
say('leader', os.getpid())
stay()
"""


def capabilities() -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("CapEff"))


async def run(owner: str) -> int:
    printed = Printed()
    engine = await ProcessDriver(owner).start(launch(STUBBORN), printed)
    started = [await printed.pid("leader"), await printed.pid("child")]
    assert all(map(alive, started))
    await engine.stop(0.1)
    return sum(map(alive, started))


if __name__ == "__main__":
    sys.stdout.write(f"{capabilities()} {asyncio.run(run(sys.argv[1]))}\n")

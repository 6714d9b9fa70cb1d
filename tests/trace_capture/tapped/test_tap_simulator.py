"""The comparison with a tap, in front of the simulator: every day, and without deaths."""

from pathlib import Path

from accounting.calls import FAULTS
from trace_capture.tapped.conduct import CALLERS, books_of, tapped

from gateway.simulator import Simulator, SimulatorConfig

CALLS = 80


async def no_abort(request_ids: list[str]) -> None:
    """The caller reads on."""


async def test_every_trace_of_the_simulator_is_what_a_tap_heard(tmp_path: Path) -> None:
    async with Simulator(SimulatorConfig(itl=0.001, scale_out=True)) as simulator:
        port = int(simulator.url.rsplit(":", 1)[1])
        async with tapped(port, tmp_path, "sim", 1, FAULTS) as (tap, load):
            await load.run(CALLS, CALLERS, no_abort)
        books = books_of(tmp_path, tap, load)
    assert not books.problems, "\n".join(books.problems[:10])
    assert sum(row.complete for row in books.rows.values()) > CALLS / 3

"""Gateways that are killed while they run a batch: fault 4.5 of the contract, and 3.5 and 3.6.

Each line is answered once and billed once, whatever dies. `make batch-kills` does it at any size.
"""

import pytest
from batch.kills.conduct import Plan, run


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
async def test_fault_4_5_batch_outlives_the_gateways_that_run_it(processes: int) -> None:
    plan = Plan(lines=240, kills=2, processes=processes, longest=0.3, ttft=0.2, itl=0.005)
    report = await run(plan)
    assert report.problems == []
    assert report.kills > 0

"""What the plugin costs a realtime call whose model is hot, counted in steps."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.records.step_counts import STACK, plain, steps_of, stream
from support.runtime.boxes import box
from support.workers import slotted_engine

CALLS = 64
CAPTURED_AT_NO_TIME = tuple(name for name in STACK if name != "trace_capture")
"""What a commit costs a call varies by more than the plugin costs it."""

TRIES = 3
"""On a busy machine calls wait for each other in more ways, which takes steps of the core."""


@pytest.mark.parametrize(
    ("plugins", "streamed", "most"),
    [((), False, 13), ((), True, 15), (CAPTURED_AT_NO_TIME, False, 8)],
    ids=["core", "core, stream", "off"],
)
async def test_plugin_adds_few_steps_to_a_call_of_a_hot_model(
    plugins: Sequence[str], streamed: bool, most: float, tmp_path: Path
) -> None:
    """In the core alone, most of them are for the model's name, which nobody else reads there."""
    answer = stream(8) if streamed else plain()
    command = [sys.executable, slotted_engine.__file__, "--port", "{port}"]
    models = [{"name": name, "command": command} for name in ("sim", "another")]
    plugin = box(tmp_path, *models, runtime={"realtime": "sim"})
    for _ in range(TRIES):
        without = await steps_of(plugins, answer, tmp_path, CALLS)
        added = await steps_of(plugins, answer, tmp_path, CALLS, plugin) - without
        if added < most + 1.0:
            break
    assert added < most + 1.0

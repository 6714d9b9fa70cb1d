"""Exports are read by the trainers' own code, in a Python that has them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from gateway_plugins.trace_capture.exports.formats import TRAINERS
from hypothesis import HealthCheck, Phase, given, settings
from support.paths import ROOT
from support.trainers.reading import READERS
from support.trainers.rollouts import rollouts_of, sessions, trained

from gateway import Trace

HOME = Path(os.environ.get("TRAINERS_HOME", ""))
READING = ROOT / "tests/support/trainers/reading.py"

pytestmark = [pytest.mark.trainers, pytest.mark.timeout(600)]


def read(name: str, file: Path) -> list[list[list[float]]]:
    """What the trainer's code makes of the file."""
    command = [f"{HOME}/venv/bin/python", str(READING), name, str(file), str(HOME)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line[3:]) for line in done.stdout.splitlines() if line.startswith("ROW")]


@pytest.mark.parametrize("name", READERS)
@given(traces=sessions())
@settings(
    max_examples=3,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
def test_trainer_reads_what_the_trajectories_say(
    tmp_path: Path, name: str, traces: list[Trace]
) -> None:
    trainer = TRAINERS["slime" if name == "miles" else name]
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.{trainer.file.suffix}"
    wanted = []
    with file.open("wb") as stream:
        output = trainer.file.open(stream, trainer.row_type)
        for one, rollout in rollouts_of(traces):
            if rollout is not None:
                output.write(trainer.row_of(rollout))
                mask = trained(one, traces)
                pairs = zip(mask, one.logprobs, strict=True)
                logprobs = [value if bit else 0.0 for bit, value in pairs]
                wanted.append([one.token_ids, mask, logprobs])
        output.close()
    assert read(name, file) == wanted

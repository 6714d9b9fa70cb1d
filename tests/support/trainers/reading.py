"""Reads an export with a trainer's own code, in a Python of its own: reading.py NAME FILE HOME.

It prints a JSON line for each rollout: tokens, mask and logprobs as the trainer has them.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Read = tuple[list[int], list[int], list[float]]


def verl(file: str) -> Iterator[Read]:
    from datasets import load_dataset
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    for row in load_dataset("parquet", data_files=file)["train"]:
        assert row["prompt"][0]["role"] == "user"
        known = {name: row[name] for name in AgentLoopOutput.model_fields if name in row}
        known["routed_experts"] = None if row["routed_experts"] is None else experts(row)
        made = AgentLoopOutput(**known, metrics=AgentLoopMetrics()).as_dict()
        assert made["rm_scores"][-1] == 0.5
        start = len(made["prompts"])
        rest = [made[name].tolist() for name in ("responses", "response_mask", "rollout_log_probs")]
        yield made["prompts"].tolist() + rest[0], [0] * start + rest[1], [0.0] * start + rest[2]


def experts(row: dict[str, Any]) -> Any:
    import numpy

    told = row["routed_experts"]
    return numpy.frombuffer(told["data"], told["dtype"]).reshape(told["shape"])


def trl(file: str) -> Iterator[Read]:
    from datasets import load_dataset
    from trl.data_utils import is_conversational
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    for row in load_dataset("parquet", data_files=file)["train"]:
        assert is_conversational({"prompt": row["prompt"], "completion": row["completion"]})
        batch = collate([row])
        mask = [int(label != -100) for label in batch["labels"][0].tolist()]
        start = len(row["prompt_ids"])
        assert mask == [0] * start + row["env_mask"]
        yield batch["input_ids"][0].tolist(), mask, [0.0] * start + row["logprobs"]


def nemo_rl(file: str) -> Iterator[Read]:
    import torch
    from nemo_rl.data.datasets.response_datasets.oai_format_dataset import OpenAIFormatDataset
    from nemo_rl.data.llm_message_utils import message_log_to_flat_messages

    data = OpenAIFormatDataset(file, use_preserving_dataset=True).dataset
    lines = Path(file).read_text().splitlines()
    assert len(data) == len(lines)
    for line in lines:
        log = json.loads(line)["message_log"]
        for message in log:
            message.setdefault("generation_logprobs", [0.0] * len(message["token_ids"]))
            for name in ("token_ids", "token_loss_mask", "generation_logprobs"):
                message[name] = torch.tensor(message[name])
        flat = message_log_to_flat_messages(log)
        names = ("token_ids", "token_loss_mask", "generation_logprobs")
        tokens, mask, logprobs = [flat[name].tolist() for name in names]
        yield tokens, mask, logprobs


def slime(file: str) -> Iterator[Read]:
    from slime.observability.rollout_data_utils import load_debug_rollout_data

    for one in load_debug_rollout_data(file, rollout_id=0):
        one._validate_response_metadata_lengths()
        yield of_sample(one)


def miles(file: str) -> Iterator[Read]:
    from miles.ray.rollout.debug_data import load_debug_rollout_data

    options = SimpleNamespace(load_debug_rollout_data=file, load_debug_rollout_data_subsample=None)
    samples, _ = load_debug_rollout_data(options, 0)
    for one in samples:
        one.validate()
        assert one.rollout_routed_experts.shape == (len(one.tokens) - 1, 2, 3)
        yield of_sample(one)


def of_sample(one: Any) -> Read:
    assert (one.status.value, one.reward) in {("completed", 0.5), ("aborted", 0.5)}
    start = len(one.tokens) - one.response_length
    return one.tokens, [0] * start + one.loss_mask, [0.0] * start + one.rollout_log_probs


def atif(file: str) -> Iterator[Read]:
    from harbor.models.trajectories import Trajectory

    for line in Path(file).read_text().splitlines():
        steps = Trajectory.model_validate_json(line).steps
        measured = [step.metrics for step in steps if step.metrics is not None]
        tokens = measured[-1].prompt_token_ids + measured[-1].completion_token_ids
        mask, logprobs = [0] * len(tokens), [0.0] * len(tokens)
        for one in measured:
            start, stop = len(one.prompt_token_ids), one.prompt_tokens + one.completion_tokens
            if one.extra["trained"]:
                mask[start:stop], logprobs[start:stop] = [1] * (stop - start), one.logprobs
        yield tokens, mask, logprobs


READERS: dict[str, tuple[str, Callable[[str], Iterator[Read]]]] = {
    "verl": ("", verl),
    "trl": ("", trl),
    "nemo-rl": ("RL", nemo_rl),
    "slime": ("slime", slime),
    "miles": ("miles", miles),
    "atif": ("harbor", atif),
}

if __name__ == "__main__":
    name, file, home = sys.argv[1:]
    source, read = READERS[name]
    sys.path.insert(0, str(Path(home) / source))
    for found in read(file):
        sys.stdout.write("ROW" + json.dumps(found) + "\n")

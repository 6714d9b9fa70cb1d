"""Reads exports without any trainer: each row as tokens, mask and logprobs of its sequence."""

import base64
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet
from support.trainers.rollouts import Read

CODES = {"int32": "i", "float32": "f"}


def parquet(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


class Numpy(pickle.Unpickler):
    """Reads the pickle with lists in place of numpy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        assert module == "numpy"
        return {"frombuffer": frombuffer, "reshape": nested, "array": list}[name]


def frombuffer(data: bytes, kind: str) -> list[float]:
    code = {"<i4": "i", "<f4": "f"}[kind]
    return list(struct.unpack(f"<{len(data) // 4}{code}", data))


def nested(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    assert len(flat) == shape[0]
    return flat


def samples(data: bytes) -> list[dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        raw = archive.read("rollout/data.pkl")
    found: list[dict[str, Any]] = Numpy(io.BytesIO(raw)).load()["samples"]
    return found


def unpacked(told: dict[str, Any] | None) -> list[Any] | None:
    """The nested lists of a packed array, of Parquet or of JSON."""
    if told is None:
        return None
    data, code = told["data"], CODES[told["dtype"]]
    raw = base64.b64decode(data) if isinstance(data, str) else data
    return nested(list(struct.unpack(f"<{len(raw) // 4}{code}", raw)), tuple(told["shape"]))


def without_fill(ids: list[list[int]], logprobs: list[list[float]]) -> list[list[Any]]:
    rows = [zip(*pair, strict=True) for pair in zip(ids, logprobs, strict=True)]
    return [[(one, value) for one, value in row if not math.isnan(value)] for row in rows]


def response(row: dict[str, Any], prompt: str, answer: str, mask: str, logprobs: str) -> Read:
    start = len(row[prompt])
    return {
        "tokens": row[prompt] + row[answer],
        "mask": [0] * start + row[mask],
        "logprobs": [0.0] * start + row[logprobs],
        "experts": unpacked(row["routed_experts"]),
        "top": without_fill(row["top_token_ids"], row["top_logprobs"]),
        "versions": [None] * start + row["weight_versions"],
    }


def read_verl(data: bytes) -> Iterator[Read]:
    for row in parquet(data):
        names = ("prompt_ids", "response_ids", "response_mask", "response_logprobs")
        yield response(row, *names) | {"reward": row["reward_score"]}


def read_trl(data: bytes) -> Iterator[Read]:
    for row in parquet(data):
        read = response(row, "prompt_ids", "completion_ids", "env_mask", "logprobs")
        assert row["input_ids"] == read["tokens"]
        pairs = zip(read["tokens"], read["mask"], strict=True)
        assert row["labels"] == [token if mask else -100 for token, mask in pairs]
        yield read | {"reward": row["reward"]}


def read_nemo_rl(data: bytes) -> Iterator[Read]:
    for row in lines(data):
        log, top = row["message_log"], row["top_logprobs"]
        tokens = [token for one in log for token in one["token_ids"]]
        mask = [bit for one in log for bit in one["token_loss_mask"]]
        blank = [[0.0] * len(one["token_ids"]) for one in log]
        pairs = zip(log, blank, strict=True)
        values = [one.get("generation_logprobs", zeros) for one, zeros in pairs]
        assert row["length"] == len(tokens)
        for one in log:
            assert set(one["token_loss_mask"]) == {int(one["role"] == "assistant")}
        yield {
            "tokens": tokens,
            "mask": mask,
            "logprobs": [value for one in values for value in one],
            "experts": unpacked(row["routed_experts"]),
            "top": without_fill(unpacked(top["ids"]) or [], unpacked(top["logprobs"]) or []),
            "versions": row["weight_versions"],
            "reward": row["reward"],
        }


def read_slime(data: bytes) -> Iterator[Read]:
    for row in samples(data):
        start = len(row["tokens"]) - row["response_length"]
        assert set(row["weight_versions"]) == {"v"}
        yield {
            "tokens": row["tokens"],
            "mask": [0] * start + row["loss_mask"],
            "logprobs": [0.0] * start + row["rollout_log_probs"],
            "experts": row["rollout_routed_experts"],
            "top": without_fill(row["rollout_top_token_ids"], row["rollout_top_logprobs"]),
            "reward": row["reward"],
        }


def read_atif(data: bytes) -> Iterator[Read]:
    for row in lines(data):
        measured = [step["metrics"] for step in row["steps"] if "metrics" in step]
        last = measured[-1]
        tokens = last["prompt_token_ids"] + last["completion_token_ids"]
        mask, logprobs, top = [0] * len(tokens), [0.0] * len(tokens), []
        for one in measured:
            start = len(one["prompt_token_ids"])
            assert tokens[:start] == one["prompt_token_ids"]
            if one["extra"]["trained"]:
                stop = start + len(one["completion_token_ids"])
                mask[start:stop], logprobs[start:stop] = [1] * (stop - start), one["logprobs"]
                told = one["extra"]["top_logprobs"]
                top += without_fill(unpacked(told["ids"]) or [], unpacked(told["logprobs"]) or [])
        yield {
            "tokens": tokens,
            "mask": mask,
            "logprobs": logprobs,
            "experts": unpacked(row["extra"]["routed_experts"]),
            "trained_top": top,
            "reward": row["final_metrics"]["extra"]["reward"],
        }


READERS: dict[str, Callable[[bytes], Iterator[Read]]] = {
    "verl": read_verl,
    "trl": read_trl,
    "nemo-rl": read_nemo_rl,
    "slime": read_slime,
    "atif": read_atif,
}

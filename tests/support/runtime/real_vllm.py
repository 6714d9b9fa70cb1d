"""A real vLLM on the CPU with a tiny model, in the folder that the variable VLLM_HOME names."""

import os

import pytest
from gateway_plugins.runtime.options import Model

CPU = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}

ARGUMENTS = """
    --dtype bfloat16 --max-num-seqs 16 --enforce-eager --kv-cache-memory-bytes 33554432
    --hf-overrides '{"max_position_embeddings": 300000}'
"""


def tiny_model(**environment: str) -> Model:
    """The model `tiny`, with more variables. Skips the test if there is no vLLM."""
    place = os.environ.get("VLLM_HOME")
    if place is None:
        pytest.skip("set VLLM_HOME to a folder with venv/bin/vllm and model")
    path = f"{place}/venv/bin:{os.environ['PATH']}"
    return Model(
        name="tiny",
        path=f"{place}/model",
        environment={**CPU, "PATH": path, **environment},
        arguments=ARGUMENTS,
    )

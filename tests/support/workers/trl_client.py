"""Run by TRL's own Python: its VLLMClient against the server in argv[1], what it got as JSON.

The client wants to find vLLM installed for the tensors that it sends; nothing here sends any, so
empty modules of vLLM's names stand in for it where it is not there.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Sequence

VERSION = "0.27.0"
"""Of a vLLM that TRL 1.16 supports."""


class Anything(types.ModuleType):
    """A module that has an empty class of every name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Pretending(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds vllm and all that may be in it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "vllm":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It is made already."""


def pretend_vllm() -> None:
    sys.meta_path.append(Pretending())
    real = importlib.metadata.version
    found = importlib.metadata.packages_distributions

    def version(distribution_name: str) -> str:
        return VERSION if distribution_name == "vllm" else real(distribution_name)

    importlib.metadata.packages_distributions = lambda: {**found(), "vllm": ["vllm"]}
    importlib.metadata.version = version


def main(url: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        pretend_vllm()
    from trl.generation.vllm_client import VLLMClient

    client = VLLMClient(base_url=url, connection_timeout=60)
    prompts = [[46, 728, 334, 295], [61, 267, 520]]
    conversation = [{"role": "user", "content": "Hello there, count to five."}]
    told = {
        "model": client.model,
        "world_size": client.get_world_size(),
        "backend": client.get_server_info()["weight_transfer_config"]["backend"],
        "generate": client.generate(prompts, n=2, max_tokens=4, logprobs=1),
        "text": client.generate(["Hello", "World"], max_tokens=3),
        "chat": client.chat([conversation, conversation], n=2, max_tokens=4),
        "logprobs": client.get_sequence_logprobs(
            [[46, 728, 334, 295, 267, 520]], [3], top_logprobs=2
        ),
    }
    client.reset_prefix_cache()
    with client.weight_update():
        pass
    client.close_communicator()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])

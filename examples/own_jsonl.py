"""After trace_capture: write the samples of COMPLETE traces to a file in a custom format."""

import json
from pathlib import Path

import msgspec

from gateway import Trace, hookimpl


class OwnJsonl:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        path: str = "sampled.jsonl"

    def __init__(self, config: Config) -> None:
        self.path = Path(config.path)

    @hookimpl
    def trace_recorded(self, trace: Trace) -> None:
        for choice in trace.choices if trace.verdict == "COMPLETE" else ():
            line: dict[str, object] = {"session": trace.session_id, "weights": trace.weight_version}
            line |= {"prompt": choice.prompt_token_ids, "sampled": choice.token_ids}
            line |= {"logprobs": choice.logprobs, "end": choice.finish_reason}
            with self.path.open("a") as file:
                print(json.dumps(line), file=file)

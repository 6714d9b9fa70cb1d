"""Write captured.jsonl, one line per call: its prompt, and the tokens and logprobs sampled."""

import json
from pathlib import Path

from gateway import Call, Delta, Outcome, hookimpl


class Capture:
    def __init__(self, call: Call) -> None:
        self.call = call
        self.choices: dict[int, dict[str, list[object]]] = {}

    def delta(self, delta: Delta) -> None:
        for part in delta.choices:
            choice = self.choices.setdefault(part.index, {})
            for name in ("prompt_token_ids", "token_ids", "logprobs"):
                choice.setdefault(name, []).extend(getattr(part, name) or ())

    def finished(self, outcome: Outcome) -> None:
        body = json.loads(self.call.body.data or b"{}")
        line: dict[str, object] = {"session": self.call.session_id, "whole": outcome.complete}
        line |= {"prompt": body.get("messages") or body.get("prompt"), "choices": self.choices}
        with Path("captured.jsonl").open("a") as file:
            print(json.dumps(line), file=file)


@hookimpl
async def prepare(call: Call) -> None:
    await call.inject("token_ids", "logprobs")


@hookimpl
def observe(call: Call) -> Capture | None:
    return Capture(call) if call.dialect else None

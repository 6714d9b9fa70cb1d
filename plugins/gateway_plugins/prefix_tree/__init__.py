"""Sends a call to the worker that was sent the longest beginning of its prompt before.

For callers that do not say which session a call belongs to. `prompts.py` makes blocks of a prompt,
`tree.py` keeps which worker was sent which, and `choice.py` weighs that against the load.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from gateway import Call, Host, Sample, StateKey, Worker, hookimpl
from gateway_plugins.prefix_tree.choice import Choice, Options
from gateway_plugins.prefix_tree.prompts import path_of

PATH: StateKey[Sequence[int]] = StateKey("prefix_tree")
"""Path of the call's prompt, for a retry of the call."""


class PrefixTreePolicy:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._choice = Choice(config)

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._choice.set_options(config)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        def follow() -> None:
            self._choice.tree.keep([worker.id for worker in gateway.workers.all])

        gateway.workers.changed.append(follow)
        try:
            yield
        finally:
            gateway.workers.changed.remove(follow)

    @hookimpl
    def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        api = call.api
        if api is None or api.work not in ("generates", "reads"):
            return None
        return self._choice.pick(workers, self._path(call))

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Blocks of prompts in the tree."
        yield Sample("gateway_prefix_tree_blocks", "gauge", len(self._choice.tree), help_)
        for reason, count in msgspec.structs.asdict(self._choice.counts).items():
            help_ = "Choices of a worker for a prompt, by their reason."
            labels = {"reason": reason}
            yield Sample("gateway_prefix_tree_choices_total", "counter", count, help_, labels)

    def _path(self, call: Call) -> Sequence[int]:
        path = call.state.get(PATH)
        if path is None:
            options, body = self._choice.options, call.body
            size, most = options.block_bytes, options.max_blocks_per_worker
            path = path_of(body.readable, body.fields, call.model, size, most)
            call.state[PATH] = path
        return path

"""Answers the calls of a recorded run from its traces, so that a run can be driven again.

`recording.py` reads the file of traces, `matching.py` finds the recorded call that a new call
repeats, `requests.py` says what two requests differ in, `answers.py` makes the response.
"""

import asyncio
from collections import OrderedDict
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway import Answer, BadRequest, Call, StateKey, Trace, hookimpl
from gateway_plugins.replay.answers import answer_of, injections_of
from gateway_plugins.replay.errors import ReplayDiverged
from gateway_plugins.replay.matching import Diverged, Live, Matcher, Recorded
from gateway_plugins.replay.recording import Recording, Step, read_recording
from gateway_plugins.replay.requests import IDENTITY, Rules, first_difference

ANSWER = StateKey[Answer]("replay.answer")

MAX_LINKS = 10_000
"""Calls whose trace may be still to come."""


class Link(msgspec.Struct, frozen=True):
    """What the trace of a call says of the recorded one, `None` of a call that has none."""

    source: Literal["recorded", "live"]
    session_id: str | None
    step: int | None
    trace_id: str | None


class Replay:
    """The replay plugin."""

    after = ("sessions", "translate")
    one_process = "it counts the steps of a session in this process alone"

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """The recording, and how far it is replayed.

        `path` is a file of traces as JSON lines. The first `to_step` calls of each session are
        answered from it, without `to_step` all of them; later ones go to a worker, for the model
        `model` if that is set. `on_divergence` says what becomes of a call that the recorded
        session did not make. Requests are compared without the top-level fields `ignore`, and with
        all texts that match a pattern of `mask` taken as equal.
        """

        path: Annotated[str, Meta(min_length=1)]
        to_step: Annotated[int, Meta(ge=0)] | None = None
        model: Annotated[str, Meta(min_length=1)] | None = None
        on_divergence: Literal["error", "live"] = "error"
        ignore: tuple[str, ...] = IDENTITY
        mask: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            Rules(self.ignore, self.mask)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rules = Rules(config.ignore, config.mask)
        self.recording: Recording = read_recording(config.path, self.rules)
        self._matcher = Matcher(self.recording, config.to_step)
        self._links: OrderedDict[str, Link] = OrderedDict()

    @hookimpl
    async def prepare(self, call: Call) -> None:
        api = call.api
        if call.method != "POST" or (api is not None and api.samples_nothing):
            return
        if not await call.body.is_object():
            return
        request = await call.json()
        try:
            digest = self.rules.digest(call.path, request)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        principal = None if call.principal is None else call.principal.id
        found = self._matcher.match(call.session_id, digest, principal)
        if isinstance(found, Recorded):
            await self._replay(call, found)
        elif isinstance(found, Live) or self.config.on_divergence == "live":
            await self._go_live(call, found)
        else:
            raise await self._diverged(request, found)

    @hookimpl
    def handle(self, call: Call) -> Answer | None:
        return call.state.get(ANSWER)

    @hookimpl
    def redact_trace(self, trace: Trace) -> None:
        link = self._links.get(trace.trace_id)
        if link is not None:
            trace.metadata["replay"] = msgspec.to_builtins(link)

    async def _replay(self, call: Call, found: Recorded) -> None:
        trace = await asyncio.to_thread(self.recording.trace, found.step)
        call.state[ANSWER] = answer_of(trace)
        if injections := injections_of(trace):
            await call.inject(*injections)
        call.add_header("x-gateway-replayed", str(found.step.number))
        self._link(call, "recorded", found.session_id, found.step)

    async def _go_live(self, call: Call, found: Live | Diverged) -> None:
        if self.config.model is not None:
            await call.set("model", self.config.model)
        self._link(call, "live", found.session_id, found.step if isinstance(found, Live) else None)

    def _link(
        self,
        call: Call,
        source: Literal["recorded", "live"],
        session_id: str | None,
        step: Step | None,
    ) -> None:
        number, trace_id = (None, None) if step is None else (step.number, step.trace_id)
        self._links[call.trace_id] = Link(source, session_id, number, trace_id)
        if len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)

    async def _diverged(self, request: object, found: Diverged) -> ReplayDiverged:
        if found.expected is None:
            return ReplayDiverged(found.why)
        step = found.expected
        trace = await asyncio.to_thread(self.recording.trace, step)
        differs = first_difference(self.rules, trace.raw_request, request)
        field, words = differs or ("path", f"`path` is {trace.path!r} in the recording")
        where = f"at step {step.number} (trace {step.trace_id})"
        return ReplayDiverged(f"{found.why} {where}: {words}", param=field)

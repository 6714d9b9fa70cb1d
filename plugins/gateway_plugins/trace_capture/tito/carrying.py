"""Carries the chat calls of sessions as generate."""

from array import array
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from gateway import (
    BadRequest,
    Call,
    Database,
    GatewayError,
    Host,
    NoWorker,
    StorageError,
    Translation,
    UpstreamError,
    Worker,
)
from gateway_plugins.trace_capture.recording.carried import CARRIED, Carried
from gateway_plugins.trace_capture.sessions.caps import applied
from gateway_plugins.trace_capture.tito.answer.structs import Asked
from gateway_plugins.trace_capture.tito.answer.translator import GenerateAsChat, Said
from gateway_plugins.trace_capture.tito.bridges import Bridges
from gateway_plugins.trace_capture.tito.engine import Refused, Unable, derender, encoded
from gateway_plugins.trace_capture.tito.history import history_of
from gateway_plugins.trace_capture.tito.prompts import Prompt, Prompts
from gateway_plugins.trace_capture.tito.requests import (
    GENERATE,
    generate_body,
    is_parsed,
    must_call,
    top_logprobs,
    unfit,
)
from gateway_plugins.trace_capture.tito.stored import end_of_turn, read_turns
from gateway_plugins.trace_capture.tito.turns import Turn, Turns

Mode = Literal["off", "prefer", "require"]
"""`off`: chats are carried as they are. `prefer`: a chat that cannot be carried as generate is
carried as it is, and its trace says why. `require`: it is rejected."""


class Carrier:
    """Makes the Translations; keeps the turns of sessions."""

    def __init__(self, gateway: Host, bridges: Bridges) -> None:
        self._gateway = gateway
        self.turns = Turns()
        self._prompts = Prompts(self.turns, self._read, bridges)

    def set_bridges(self, bridges: Bridges) -> None:
        self._prompts.bridges = bridges

    async def _read(self, session_id: str) -> list[Turn]:
        def read(db: Database) -> list[Turn]:
            return read_turns(db, session_id)

        try:
            return await self._gateway.storage.read(read)
        except StorageError:  # the storage reports that itself
            return []

    async def carry(
        self, call: Call, params: Mapping[str, Any], *, required: bool
    ) -> Translation | None:
        """Return the translation of a chat call of a session; None: it is carried as chat.

        `params` are those that the session sets. Raises CallError if it is `required` and cannot be
        carried as generate, and NoWorker.
        """
        if not await call.body.is_object():
            return None
        request = {**await call.json(), **call.overwritten}
        request |= applied(params, call.api, request)
        try:
            return await self._carry(call, request)
        except (Unable, Refused) as error:
            if required:
                raise _rejection(error) from None
            call.state[CARRIED] = Carried({"prompt": "by_engine", "reason": str(error)})
            return None

    async def _carry(self, call: Call, request: dict[str, Any]) -> Translation:
        if (reason := unfit(request)) is not None:
            raise Refused(f"a chat with token-in/token-out cannot be like this: {reason}")
        worker, session_id = self._worker(call), call.session_id or ""
        prompt = await self._prompts.make(worker, session_id, request)
        body = encoded(request)
        carried = call.state[CARRIED] = Carried(prompt.facts(), body)
        asked = _asked(request, prompt, call.model)
        said = partial(self._said, carried, call.trace_id, session_id, request, prompt)
        response = GenerateAsChat(asked, partial(self._derender, call, worker), said)
        made = generate_body(request, prompt.rendered, prompt.token_ids)
        return Translation(made, response, GENERATE, response)

    async def _derender(
        self, call: Call, worker: Worker, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Ask the worker that generates, or another one if the stream outlives that worker."""
        generates = call.worker or worker
        try:
            return await derender(generates, request)
        except UpstreamError:
            others = [one for one in self._able(call) if one is not generates]
            if call.continuation is None or not others:
                raise
            return await derender(self._gateway.workers.least_loaded(others), request)

    def _worker(self, call: Call) -> Worker:
        """Return a worker that may take the call. Raises NoWorker."""
        able, workers = self._able(call), self._gateway.workers
        if not able:
            seconds = workers.seconds_until_fit(call.model)
            raise NoWorker("no worker can render this chat now", retry_after=seconds)
        return workers.least_loaded(able)

    def _able(self, call: Call) -> list[Worker]:
        workers = self._gateway.workers
        fit = workers.serving(call.model if workers.mixed else None).fit
        names = call.principal.workers if call.principal is not None else None
        return [one for one in fit if names is None or one.id in names]

    def _said(
        self,
        carried: Carried,
        trace_id: str,
        session_id: str,
        request: Mapping[str, Any],
        prompt: Prompt,
        said: Mapping[int, Said],
    ) -> None:
        carried.messages = [one.message for _, one in sorted(said.items())]
        packed = array("i", prompt.token_ids).tobytes()
        for one in said.values():
            if one.token_ids and one.finish_reason in ("stop", "length", "tool_calls"):
                self.turns.add(session_id, _turn(trace_id, request, packed, one))


def _turn(trace_id: str, request: Mapping[str, Any], prompt: bytes, said: Said) -> Turn:
    history = history_of(request, said.message)
    return Turn(
        trace_id,
        history.digests[-1],
        history.thoughts,
        prompt,
        array("i", said.token_ids).tobytes(),
        end_of_turn(
            said.token_ids[-1],
            said.finish_reason,
            said.stop_reason,
            calls=bool(said.message.get("tool_calls")),
        ),
    )


def _asked(request: dict[str, Any], prompt: Prompt, model: str | None) -> Asked:
    rendered = prompt.rendered
    return Asked(
        request=request,
        prompt=prompt.token_ids,
        parsed=is_parsed(request, rendered),
        calls=must_call(request),
        thinks=rendered.parses_reasoning and rendered.fields.get("reasoning_ended") is not True,
        shows_marks=rendered.shows_marks,
        alternatives=top_logprobs(request),
        returns_ids=request.get("return_token_ids") is True,
        model=model,
    )


def _rejection(error: GatewayError) -> BadRequest | UpstreamError:
    words = f"this session requires token-in/token-out (tito): {error}"
    return BadRequest(words) if isinstance(error, Refused) else UpstreamError(words)

"""The hooks of all plugins, frozen into tuples at start-up and run in order.

pluggy declares and checks the hooks but does not call them: its own multicall costs about twenty
times as much, and treats a coroutine as a result.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from gateway.calls.call import Call
from gateway.calls.observers import UNOBSERVED, Observers
from gateway.calls.records import Answer, Attempt, Outcome, Principal
from gateway.errors import CallError, ChooseAgain, HookFailed, Unauthorized
from gateway.fleet.worker import Worker

log = logging.getLogger("gateway.plugins")

HOOK_ERRORS = (Exception, asyncio.CancelledError)
"""Exceptions that a hook may raise; CancelledError if something that it awaited was cancelled."""


class Hook(NamedTuple):
    """One plugin's implementation of one hook: bound, takes all arguments of the hook in order."""

    plugin: str
    run: Callable[..., Any]


class Failures:
    """Counts failures of isolated hooks in `counts`, by plugin and hook; logs the first of each."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def note(
        self,
        plugin: str,
        hook: str,
        outcome: Outcome,
        error: BaseException,
        call_id: str | None = None,
    ) -> None:
        if not self.counts[plugin, hook]:
            what = "plugin %s broke in %s; further failures of it are only counted"
            log.error(what, plugin, hook, exc_info=error, extra={"call_id": call_id})
        self.counts[plugin, hook] += 1
        if plugin not in outcome.failures:
            outcome.failures.append(plugin)


class Chains(msgspec.Struct, frozen=True):
    """One tuple for each hook of a call, in the order of the configuration file."""

    failures: Failures
    authenticate: tuple[Hook, ...] = ()
    admit: tuple[Hook, ...] = ()
    prepare: tuple[Hook, ...] = ()
    handle: tuple[Hook, ...] = ()
    filter_workers: tuple[Hook, ...] = ()
    pick_worker: tuple[Hook, ...] = ()
    attempt_finished: tuple[Hook, ...] = ()
    observe: tuple[Hook, ...] = ()
    call_finished: tuple[Hook, ...] = ()

    async def identify(self, call: Call) -> None:
        """Run `authenticate`. Raises Unauthorized if no plugin knows the caller."""
        call.principal = await self._first_principal(call)

    async def run_admit(self, call: Call) -> None:
        """Raises CallError if a hook rejects the call or fails."""
        await self._decide("admit", self.admit, call)

    async def run_prepare(self, call: Call) -> None:
        """Raises CallError if a hook rejects the call or fails."""
        await self._decide("prepare", self.prepare, call)

    async def _decide(self, name: str, hooks: tuple[Hook, ...], call: Call) -> None:
        for hook in hooks:
            try:
                await hook.run(call)
            except HOOK_ERRORS as error:
                _reject(call, hook, name, error)

    async def _first_principal(self, call: Call) -> Principal:
        for hook in self.authenticate:
            try:
                principal: Principal | None = await hook.run(call)
            except HOOK_ERRORS as error:
                _reject(call, hook, "authenticate", error)
            if principal is not None:
                return principal
        raise Unauthorized(
            "no valid API key was given", headers=((b"www-authenticate", b"Bearer"),)
        )

    async def first_answer(self, call: Call) -> Answer | None:
        for hook in self.handle:
            try:
                answer: Answer | None = await hook.run(call)
            except HOOK_ERRORS as error:
                _reject(call, hook, "handle", error)
            if answer is not None:
                return answer
        return None

    async def filtered_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        for hook in self.filter_workers:
            try:
                workers = await hook.run(call, workers)
            except HOOK_ERRORS as error:
                _reject(call, hook, "filter_workers", error)
        return workers

    async def picked_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        for hook in self.pick_worker:
            try:
                worker: Worker | None = await hook.run(call, workers)
            except HOOK_ERRORS as error:
                _reject(call, hook, "pick_worker", error)
            if worker is not None:
                return worker
        return None

    def observers(self, call: Call, *own: object) -> Observers:
        """Return the observers of the plugins; the core's `own` come before them."""
        if not (self.observe or call.counts_tokens or own):
            return UNOBSERVED
        found: list[tuple[str, object]] = [("gateway", one) for one in own]
        for hook in self.observe:
            try:
                observer = hook.run(call)
                if observer is not None:
                    found.append((hook.plugin, observer))
            except Exception as error:  # noqa: BLE001  this hook is isolated
                self.failures.note(hook.plugin, "observe", call.outcome, error, call.id)
        if not (found or call.counts_tokens):
            return UNOBSERVED
        return Observers(
            found,
            self.failures.note,
            call.outcome,
            call.id,
            counts_tokens=call.counts_tokens,
        )

    async def run_attempt_finished(self, call: Call, attempt: Attempt) -> None:
        for hook in self.attempt_finished:
            try:
                await hook.run(call, attempt)
            except HOOK_ERRORS as error:
                self._isolate(call, hook, "attempt_finished", error)

    async def run_call_finished(self, call: Call) -> None:
        for hook in self.call_finished:
            try:
                await hook.run(call, call.outcome)
            except HOOK_ERRORS as error:
                self._isolate(call, hook, "call_finished", error)

    def _isolate(self, call: Call, hook: Hook, name: str, error: BaseException) -> None:
        if _ends_the_call(error):
            raise error
        self.failures.note(hook.plugin, name, call.outcome, error, call.id)


def _reject(call: Call, hook: Hook, name: str, error: BaseException) -> NoReturn:
    """Raise the error that ends the call after a deciding hook raised `error`."""
    if isinstance(error, CallError | ChooseAgain) or _ends_the_call(error):
        raise error
    what = "plugin %s broke in %s; the call is refused"
    log.error(what, hook.plugin, name, exc_info=error, extra={"call_id": call.id})
    raise HookFailed(f"the plugin {hook.plugin!r} failed while deciding on this call") from error


def _ends_the_call(error: BaseException) -> bool:
    """Whether the call's own task was cancelled, rather than something that the hook awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0

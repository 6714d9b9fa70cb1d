"""The hooks of all plugins, frozen into tuples at start-up and run in order.

pluggy declares and checks the hooks but does not call them: its own multicall costs about twenty
times as much, and treats a coroutine as a result.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import CoroutineType, NoneType
from typing import Any, NamedTuple, NoReturn

import msgspec

from gateway.calls.call import Call
from gateway.calls.cancel import NoWait
from gateway.calls.observers import UNOBSERVED, LogExtra, Observers
from gateway.calls.records import Answer, Answered, Attempt, Outcome, Principal
from gateway.errors import CallError, ChooseAgain, HookFailed, Unauthorized
from gateway.fleet.worker import Worker
from gateway.kernel import Kernel, active
from gateway.telemetry.trace_context import TraceContext, follows
from gateway.wire.translation.translation import Translation

log = logging.getLogger("gateway.plugins")

HOOK_ERRORS = (Exception, asyncio.CancelledError)
"""Exceptions that a hook may raise; CancelledError if something that it awaited was cancelled."""

CHOICES = (CallError, ChooseAgain)
"""Exceptions by which a hook that chooses among workers decides: they are no failure of it."""

DECISIONS = {"admit": (CallError, Answered), "filter_workers": CHOICES, "pick_worker": CHOICES}
"""The same by hook; all other deciding hooks have CallError alone."""

RESULTS = frozenset({NoneType, NoWait, Principal, Answer, Translation, Worker, list, tuple})
"""Classes of the usual results. Whatever else a hook returns may have to be awaited."""

Later = Coroutine[Any, Any, None] | None
"""The rest of a chain, if a hook has to wait: it must be awaited. None: all hooks have run."""


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
        log_extra: LogExtra = dict,
    ) -> None:
        if not self.counts[plugin, hook]:
            what = "plugin %s broke in %s; further failures of it are only counted"
            log.error(what, plugin, hook, exc_info=error, extra=log_extra())
        self.counts[plugin, hook] += 1
        if plugin not in outcome.failures:
            outcome.failures.append(plugin)


class Chains(msgspec.Struct, frozen=True):
    """One tuple for each hook of a call, in the order of the configuration file.

    And the `kernel` that carries what passes through them. `traced`: plugins may take part in
    traces. `bound` is that of the greatest `trace_ratio`, None if no plugin has that hook.
    `unrecorded` is what a call has whose spans nobody records, None if only `sample_trace` can say.
    """

    failures: Failures
    authenticate: tuple[Hook, ...] = ()
    admit: tuple[Hook, ...] = ()
    translate: tuple[Hook, ...] = ()
    prepare: tuple[Hook, ...] = ()
    handle: tuple[Hook, ...] = ()
    filter_workers: tuple[Hook, ...] = ()
    pick_worker: tuple[Hook, ...] = ()
    attempt_finished: tuple[Hook, ...] = ()
    observe: tuple[Hook, ...] = ()
    call_finished: tuple[Hook, ...] = ()
    sample_trace: tuple[Hook, ...] = ()
    kernel: Kernel = msgspec.field(default_factory=active)
    traced: bool = False
    bound: str | None = None
    unrecorded: "Chains | None" = None

    def identify(self, call: Call) -> Later:
        """Run `authenticate`. Raises Unauthorized if no plugin knows the caller."""
        principal = _first("authenticate", self.authenticate, call)
        if type(principal) is CoroutineType:
            return _identify_later(call, principal)
        if principal is None:
            raise _unknown()
        call.principal = principal
        return None

    def run_admit(self, call: Call) -> Later:
        """Raises CallError if a hook rejects the call or fails."""
        return _all("admit", self.admit, _reject, call)

    def run_prepare(self, call: Call) -> Later:
        """Raises CallError if a hook rejects the call or fails."""
        return _all("prepare", self.prepare, _reject, call)

    def run_translate(self, call: Call, carry: "Carry") -> Later:
        """Call `carry` with each translation. Raises CallError if a hook rejects or fails."""
        hooks = self.translate
        for place, hook in enumerate(hooks):
            try:
                found = hook.run(call)
            except HOOK_ERRORS as error:
                _reject(call, hook, "translate", error)
            if found is not None:
                return _translated_later(hooks, place, found, call, carry)
        return None

    def samples(self, call: Call, context: TraceContext) -> bool | None:
        """Return whether a plugin records the spans of the call; None if none takes part."""
        found = None if self.bound is None else follows(context, self.bound)
        for hook in self.sample_trace:
            try:
                decided = hook.run(call, context)
            except Exception as error:  # noqa: BLE001  this hook is isolated
                self.failures.note(hook.plugin, "sample_trace", call.outcome, error, call.log_extra)
                continue
            if decided is not None:
                found = bool(decided or found)
        return found

    def first_answer(self, call: Call) -> "Answer | CoroutineType[Any, Any, Answer | None] | None":
        """Return the answer of a hook, or a coroutine if a hook has to wait."""
        return _first("handle", self.handle, call)  # type: ignore[no-any-return]

    def filtered_workers(
        self, call: Call, workers: Sequence[Worker]
    ) -> "Sequence[Worker] | CoroutineType[Any, Any, Sequence[Worker]]":
        """Return the workers that all hooks leave, or a coroutine if a hook has to wait."""
        for place, hook in enumerate(self.filter_workers):
            try:
                left = hook.run(call, workers)
            except HOOK_ERRORS as error:
                _reject(call, hook, "filter_workers", error)
            if left.__class__ not in RESULTS and _waits(left):
                later: Any = _filtered_later(self.filter_workers[place:], left, call, workers)
                return later  # type: ignore[no-any-return]
            workers = left
        return workers

    def picked_worker(
        self, call: Call, workers: Sequence[Worker]
    ) -> "Worker | CoroutineType[Any, Any, Worker | None] | None":
        """Return the worker that a hook picks, or a coroutine if a hook has to wait."""
        for place, hook in enumerate(self.pick_worker):
            try:
                picked = hook.run(call, workers)
            except HOOK_ERRORS as error:
                _reject(call, hook, "pick_worker", error)
            if picked is not None:
                if picked.__class__ not in RESULTS and _waits(picked):
                    hooks = self.pick_worker[place:]
                    picked = _first_later("pick_worker", hooks, picked, call, workers)
                return picked  # type: ignore[no-any-return]
        return None

    def observers(self, call: Call, *own: object) -> Observers:
        """Return the observers of the plugins; the core's `own` come before them."""
        if not (self.observe or call.counts_tokens or own):
            return UNOBSERVED
        found: list[tuple[str, object]] = [("gateway", one) for one in own] if own else []
        for hook in self.observe:
            try:
                observer = hook.run(call)
                if observer is not None:
                    found.append((hook.plugin, observer))
            except Exception as error:  # noqa: BLE001  this hook is isolated
                self.failures.note(hook.plugin, "observe", call.outcome, error, call.log_extra)
        if not (found or call.counts_tokens):
            return UNOBSERVED
        return Observers(
            found,
            self.failures.note,
            call.outcome,
            call.log_extra,
            counts_tokens=call.counts_tokens,
            functions=self.kernel.functions,
        )

    def run_attempt_finished(self, call: Call, attempt: Attempt) -> Later:
        return _all_of("attempt_finished", self.attempt_finished, self._isolate, call, attempt)

    def run_call_finished(self, call: Call) -> Later:
        return _all_of("call_finished", self.call_finished, self._isolate, call, call.outcome)

    def _isolate(self, call: Call, hook: Hook, name: str, error: BaseException) -> None:
        if _ends_the_call(error):
            raise error
        self.failures.note(hook.plugin, name, call.outcome, error, call.log_extra)


# The runners of hooks. A hook that returns its result at once costs no coroutine. From the first
# one on that has to wait, the hooks run in a coroutine, which the runner returns: it gets the hooks
# from that one on, and what that one has returned already (`begun`).


def _waits(result: object) -> bool:
    return result.__class__ is CoroutineType or isinstance(result, Awaitable)


Failed = Callable[[Call, Hook, str, BaseException], None]
"""Raises what ends the call, or returns so that the next hook runs."""


def _all(name: str, hooks: tuple[Hook, ...], failed: Failed, call: Call) -> Later:
    for place, hook in enumerate(hooks):
        try:
            result = hook.run(call)
        except HOOK_ERRORS as error:
            failed(call, hook, name, error)
            continue
        if result is not None and result.__class__ not in RESULTS and _waits(result):
            return _all_later(name, hooks[place:], result, failed, call)
    return None


def _all_of(name: str, hooks: tuple[Hook, ...], failed: Failed, call: Call, end: object) -> Later:
    """Run hooks of a call and of its `end`; a frame with `*more` would cost twice as much."""
    for place, hook in enumerate(hooks):
        try:
            result = hook.run(call, end)
        except HOOK_ERRORS as error:
            failed(call, hook, name, error)
            continue
        if result is not None and result.__class__ not in RESULTS and _waits(result):
            return _all_later(name, hooks[place:], result, failed, call, end)
    return None


async def _all_later(
    name: str, hooks: tuple[Hook, ...], begun: Any, failed: Failed, call: Call, *more: object
) -> None:
    for hook in hooks:
        try:
            result = hook.run(call, *more) if begun is None else begun
            begun = None
            if result.__class__ not in RESULTS and _waits(result):
                await result
        except HOOK_ERRORS as error:
            failed(call, hook, name, error)


def _first(name: str, hooks: tuple[Hook, ...], call: Call) -> Any:
    """Return the first result that is not None, or a coroutine of it."""
    for place, hook in enumerate(hooks):
        try:
            result = hook.run(call)
        except HOOK_ERRORS as error:
            _reject(call, hook, name, error)
        if result is not None:
            if result.__class__ not in RESULTS and _waits(result):
                return _first_later(name, hooks[place:], result, call)
            return result
    return None


async def _first_later(
    name: str, hooks: tuple[Hook, ...], begun: Any, call: Call, *more: object
) -> Any:
    for hook in hooks:
        try:
            result = hook.run(call, *more) if begun is None else begun
            begun = None
            if result.__class__ not in RESULTS and _waits(result):
                result = await result
        except HOOK_ERRORS as error:
            _reject(call, hook, name, error)
        if result is not None:
            return result
    return None


Carry = Callable[[Translation], None]


async def _translated_later(
    hooks: tuple[Hook, ...], place: int, begun: Any, call: Call, carry: Carry
) -> None:
    """Run the hooks from `place` on; after a translation all others again, in their order."""
    while place < len(hooks):
        hook = hooks[place]
        try:
            found = hook.run(call) if begun is None else begun
            begun = None
            if found.__class__ not in RESULTS and _waits(found):
                found = await found
        except HOOK_ERRORS as error:
            _reject(call, hook, "translate", error)
        place += 1
        if found is not None:
            carry(found)
            hooks, place = tuple(other for other in hooks if other is not hook), 0


async def _identify_later(call: Call, principal: Awaitable[Principal | None]) -> None:
    call.principal = known = await principal
    if known is None:
        raise _unknown()


def _unknown() -> Unauthorized:
    challenge = (b"www-authenticate", b"Bearer")
    return Unauthorized("no valid API key was given", headers=(challenge,))


async def _filtered_later(
    hooks: tuple[Hook, ...], begun: Any, call: Call, workers: Sequence[Worker]
) -> Sequence[Worker]:
    for hook in hooks:
        try:
            left = hook.run(call, workers) if begun is None else begun
            begun = None
            if left.__class__ not in RESULTS and _waits(left):
                left = await left
        except CHOICES:
            raise
        except HOOK_ERRORS as error:
            _reject(call, hook, "filter_workers", error)
        workers = left
    return workers


def _reject(call: Call, hook: Hook, name: str, error: BaseException) -> NoReturn:
    """Raise the error that ends the call after a deciding hook raised `error`."""
    if isinstance(error, DECISIONS.get(name, CallError)) or _ends_the_call(error):
        raise error
    what = "plugin %s broke in %s; the call is refused"
    log.error(what, hook.plugin, name, exc_info=error, extra=call.log_extra())
    why = f"the plugin {hook.plugin!r} failed while deciding on this call"
    raise HookFailed(why + _misplaced(name, error)) from error


def _misplaced(name: str, error: BaseException) -> str:
    """Say where a hook may raise `error`, if `error` is a decision of other hooks."""
    for decision in (Answered, ChooseAgain):
        if isinstance(error, decision):
            hooks = " and ".join(one for one, may in DECISIONS.items() if decision in may)
            return f": {name} raised {decision.__name__}, which only {hooks} may raise"
    return ""


def _ends_the_call(error: BaseException) -> bool:
    """Whether the call's own task was cancelled, rather than something that the hook awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0

"""Carries calls of other APIs as chat, so that they are captured exactly, and reach any worker.

`options.py` has the options, `deciding.py` says which calls are translated, `habits.py` asks the
engines what they do, and `checking.py` whether they make the same prompt.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from gateway import (
    PLAIN_CHAT,
    Answer,
    BadRequest,
    Call,
    Habits,
    Host,
    NotFound,
    Outcome,
    Sample,
    StateKey,
    Translation,
    UnknownHabit,
    Untranslatable,
    Worker,
    hookimpl,
    messages_as_chat,
    messages_as_count,
    own_responses,
    responses_as_chat,
)
from gateway_plugins.translate.checking import CHECK, FOUND, PromptChecks
from gateway_plugins.translate.deciding import is_checked, is_needed, is_wanted, speaks
from gateway_plugins.translate.habits import EngineHabits, count_tokens
from gateway_plugins.translate.options import Options

AsChat = Callable[[bytes, Habits], Translation]


def _responses(body: bytes, habits: Habits) -> Translation:
    return responses_as_chat(body)


TRANSLATED: Mapping[str, AsChat] = {"messages": messages_as_chat, "responses": _responses}
"""What makes chat of the requests of each API."""

COUNTING = "count_tokens"
"""The API that counts the tokens of Messages."""

OWN = (
    "own_responses: an engine's own Responses have no logprobs of all tokens, and do not tell an "
    "abort from an end"
)
"""Why the trace of a response that is not carried as chat is never COMPLETE."""

REASON = StateKey[str]("translate")
"""Why a call is not translated although no worker speaks its API."""


class Translate:
    """The plugin `translate`."""

    after = ("sessions", "stored_responses")

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._gateway: Host | None = None
        self._habits = EngineHabits()
        self._checks = PromptChecks()
        self._counts: Counter[tuple[str, str]] = Counter()

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._options = config

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._gateway = gateway
        yield

    @hookimpl
    def translate(self, call: Call) -> Awaitable[Translation | None] | None:
        api, gateway = call.api, self._gateway
        if api is None or api.name not in TRANSLATED or call.method != "POST" or gateway is None:
            return None
        when = getattr(self._options, api.name)
        needed = is_needed(call, api.name, gateway.workers)
        if when == "never" or not (needed or is_wanted(call, when, self._options)):
            return None
        return self._translate(call, api.name, needed, _workers(call, gateway))

    async def _translate(
        self, call: Call, api: str, needed: bool, workers: Sequence[Worker]
    ) -> Translation | None:
        asked = await call.body.read()
        try:
            made = await self._made(call, api, asked, needed, workers)
        except Untranslatable as error:
            self._counts[api, "not_translated"] += 1
            call.note("not_translated", error.reason)
            if error.code is not None:
                raise BadRequest(error.reason, code=error.code) from None
            if needed:  # another plugin may still answer it
                call.state[REASON] = error.reason
            return None
        self._counts[api, "translated"] += 1
        as_chat = made.path != call.path
        if not needed and as_chat and workers and is_checked(call, self._options):
            self._checks.begin(call, api, workers[0], asked, made.body)
        return made

    async def _made(
        self, call: Call, api: str, asked: bytes, needed: bool, workers: Sequence[Worker]
    ) -> Translation:
        """Translate the request; ask the engine about a habit if it depends on that."""
        if api == "responses" and self._options.own_responses and not needed:
            made = own_responses(asked)
            call.note("logprobs_missing", OWN)
            return made
        if needed:
            habits = msgspec.structs.replace(PLAIN_CHAT, extensions=self._options.extensions)
            return TRANSLATED[api](asked, habits)
        model = call.model or ""
        try:
            return TRANSLATED[api](asked, self._habits.known(workers, model))
        except UnknownHabit:
            return TRANSLATED[api](asked, await self._habits.ask(workers, model))

    @hookimpl
    def handle(self, call: Call) -> Awaitable[Answer] | None:
        api, gateway = call.api, self._gateway
        if api is None or api.name != COUNTING or call.method != "POST" or gateway is None:
            return None
        if self._options.messages == "never" or not is_needed(call, "messages", gateway.workers):
            return None
        return self._counted(call, _workers(call, gateway))

    async def _counted(self, call: Call, workers: Sequence[Worker]) -> Answer:
        """Count the tokens of a prompt before workers that do not speak Messages."""
        try:
            body = messages_as_count(await call.body.read(), PLAIN_CHAT)
        except Untranslatable as error:
            raise BadRequest(f"this request cannot be carried as chat: {error}") from None
        for worker in workers:
            count = await count_tokens(worker, body)
            if count is not None:
                return _answer({"input_tokens": count})
        raise NotFound("no worker of this model can count tokens: none has /tokenize")

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        api = call.api
        if api is None or not (api.name in TRANSLATED or api.name == COUNTING):
            return workers
        if (reason := call.state.get(REASON)) is not None:
            raise BadRequest(f"no worker takes this request: {reason}")
        name = "messages" if api.name == COUNTING else api.name
        return [worker for worker in workers if speaks(worker, name)]

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> Awaitable[None] | None:
        check = call.state.get(CHECK)
        return None if check is None else self._checks.end(check)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls that were to be carried as chat, by what became of that."
        for api in TRANSLATED:
            for result in ("translated", "not_translated"):
                count, labels = self._counts[api, result], {"api": api, "result": result}
                yield Sample("gateway_translations_total", "counter", count, help_, labels)
        help_ = "Checks whether the engine makes the same prompt of a request and its translation."
        for found in FOUND:
            count, labels = self._checks.counts[found], {"result": found}
            yield Sample("gateway_prompt_checks_total", "counter", count, help_, labels)


def _workers(call: Call, gateway: Host) -> Sequence[Worker]:
    """Return the workers of the call's model: those that are fit, else all."""
    workers = gateway.workers
    serving = workers.serving(call.model if workers.mixed else None)
    return serving.fit or serving.all


def _answer(value: object) -> Answer:
    body = msgspec.json.encode(value)
    length = (b"content-length", b"%d" % len(body))
    return Answer(200, [(b"content-type", b"application/json"), length], body)

"""Which models there are: `GET /v1/models` and `/v1/models/{id}`, of all workers together.

Without this plugin such a call goes to one worker, which knows only its own models. The cards are
passed on as the engines write them; each caller sees those of the models that it may use.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from gateway import Answer, Call, CallError, Gateway, NotFound, NoWorker, Worker, Workers, hookimpl

PATH = "/v1/models"

LOCAL = "local"
"""The `url` of a function in the gateway's own process, and the one name that it goes by."""

LARGEST = 1 << 20
"""Bytes of a worker's answer."""

MOST_MODELS = 1_000
LONGEST_NAME = 1_000
"""A worker that says more, or names longer than so many characters, is not believed."""

MOST_VIEWS = 32
"""Lists that are at hand, for callers with different rights."""

Cards = Mapping[str, bytes]
"""What is said of each model, in JSON, by its name and in the order in which it was said."""


def merged(several: Iterable[Cards]) -> Cards:
    """Of several cards with one name the first counts."""
    found: dict[str, bytes] = {}
    for cards in several:
        for name, card in cards.items():
            found.setdefault(name, card)
    return found


class View(NamedTuple):
    """Whose models are seen: those `models` of those `workers`, by name and id; None: all."""

    models: frozenset[str] | None
    workers: frozenset[str] | None

    def cards(self, said: Sequence[tuple[Worker, Cards | None]]) -> Cards:
        """The first worker that has a model says what it is.

        Raises NoWorker where nobody has said anything.
        """
        asked = [cards for worker, cards in said if self._allows(worker)]
        if not asked:
            raise NoWorker("no worker can take this call now")
        seen = [cards for cards in asked if cards is not None]
        if not seen:
            raise NoWorker("no worker says now which models it serves")
        found = merged(seen)
        if self.models is None:
            return found
        return {name: card for name, card in found.items() if name in self.models}

    def _allows(self, worker: Worker) -> bool:
        return self.workers is None or worker.id in self.workers


class Listing(NamedTuple):
    """What a caller is told: of each model, and of all."""

    cards: Cards
    body: bytes


class Round:
    """What the workers, those fit at the time, said when they were asked together.

    `listings` are made as they are asked for.
    """

    def __init__(
        self, workers: tuple[Worker, ...], said: Sequence[tuple[Worker, Cards | None]]
    ) -> None:
        self._workers = workers
        self._said = said
        self._ended = time.monotonic()
        self.listings: dict[View, Listing] = {}

    def holds(self, workers: tuple[Worker, ...], keep: float) -> bool:
        """Whether it is still what `workers` say: nothing about any of them has changed since."""
        return workers is self._workers and time.monotonic() - self._ended < keep

    def listing(self, view: View) -> Listing:
        """Raises NoWorker."""
        found = self.listings.get(view)
        if found is None:
            if len(self.listings) >= MOST_VIEWS:
                self.listings.clear()
            found = self.listings[view] = _listing(view.cards(self._said))
        return found


def _listing(cards: Cards) -> Listing:
    return Listing(cards, b'{"object":"list","data":[' + b",".join(cards.values()) + b"]}")


class OpenaiModels:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """For `keep` seconds what the workers said holds, if none of them comes, goes or changes.

        One that does not answer within `patience` seconds said what it said last.
        """

        keep: Annotated[float, Meta(ge=0, le=3600)] = 2.0
        patience: Annotated[float, Meta(gt=0, le=60)] = 2.0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._created = int(time.time())
        self._gateway: Gateway | None = None
        self._asking: asyncio.Task[Round] | None = None
        self._last: dict[Worker, tuple[str, Cards]] = {}

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        """What the workers said is kept."""
        self._config = config

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        self._gateway = gateway
        try:
            yield
        finally:
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait([self._asking])

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        if call.method != "GET" or self._gateway is None:
            return None
        path = unquote(call.path)
        if path != PATH and not path.startswith(PATH + "/"):
            return None
        found = await self._latest(self._gateway.workers)
        listing = found.listing(_view(call, self._gateway))
        return _answer(listing.body if path == PATH else _card(listing, path[len(PATH) + 1 :]))

    async def _latest(self, workers: Workers) -> Round:
        """However many callers wait for it, the workers are asked once."""
        task = self._asking
        if task is None or (task.done() and not self._holds(task, workers)):
            task = self._asking = asyncio.create_task(self._ask_all(workers))
        return await asyncio.shield(task)

    def _holds(self, task: "asyncio.Task[Round]", workers: Workers) -> bool:
        if task.cancelled() or task.exception() is not None:
            return False
        return task.result().holds(workers.serving().fit, self._config.keep)

    async def _ask_all(self, workers: Workers) -> Round:
        fit = workers.serving().fit
        self._last = {one: said for one, said in self._last.items() if one in workers.all}
        async with asyncio.TaskGroup() as asked:
            tasks = [asked.create_task(self._ask(worker)) for worker in fit]
        return Round(fit, [(one, task.result()) for one, task in zip(fit, tasks, strict=True)])

    async def _ask(self, worker: Worker) -> Cards | None:
        """The models of one worker; None: neither it nor its settings have said anything yet."""
        if worker.url == LOCAL:
            return self._bare([LOCAL])
        url = worker.url  # it may be moved meanwhile
        told = await self._told(worker)
        if told is not None:
            self._last[worker] = url, told
        elif worker in self._last and self._last[worker][0] == url:
            told = self._last[worker][1]
        return self._named(worker, told)

    async def _told(self, worker: Worker) -> Cards | None:
        try:
            answer = await worker.ask("GET", PATH, patience=self._config.patience)
        except CallError:
            return None
        return read_cards(answer.body) if answer.status == 200 else None

    def _named(self, worker: Worker, told: Cards | None) -> Cards | None:
        """Where its settings say what it serves, that alone; where it was never heard, its names.

        Names without a card have one that says no more than the name.
        """
        if worker.names_models:
            settings = worker.settings
            own = [settings.model_name] if settings.model_name is not None else []
            bare = self._bare([*own, *settings.models])
            return {name: (told or bare).get(name, card) for name, card in bare.items()}
        if told is None and worker.models is not None:
            return self._bare(sorted(worker.models))
        return told

    def _bare(self, names: Sequence[str]) -> Cards:
        said = {"object": "model", "created": self._created, "owned_by": "gateway"}
        return {name: msgspec.json.encode({"id": name, **said}) for name in names}


def _view(call: Call, gateway: Gateway) -> View:
    """What the caller may use; where one model is sent in place of all others, that alone."""
    principal, only = call.principal, gateway.config.model
    models = None if principal is None else principal.models
    if only is not None:
        models = frozenset({only}) if models is None else models & {only}
    return View(models, None if principal is None else principal.workers)


def _card(listing: Listing, name: str) -> bytes:
    """Raises NotFound, as vLLM says it."""
    card = listing.cards.get(name)
    if card is None:
        message = f"The model `{name[:200]}` does not exist."
        raise NotFound(message, param="model", code="model_not_found")
    return card


def _answer(body: bytes) -> Answer:
    length = b"%d" % len(body)
    return Answer(200, [(b"content-type", b"application/json"), (b"content-length", length)], body)


class _Card(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


def read_cards(body: bytes) -> Cards | None:
    """The cards of an answer of `/v1/models`, byte for byte; None: it is none, or too large."""
    if len(body) > LARGEST:
        return None
    try:
        body.decode()  # msgspec passes over strings that it does not give back
        cards = msgspec.json.decode(body, type=_List).data
        if len(cards) > MOST_MODELS:
            return None
        named = [(msgspec.json.decode(card, type=_Card).id, bytes(card)) for card in cards]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if any(len(name) > LONGEST_NAME for name, _ in named):
        return None
    return merged([{name: card} for name, card in named])

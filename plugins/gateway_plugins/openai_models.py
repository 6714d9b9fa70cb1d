"""Lists the models of all workers together: `GET /v1/models` and `/v1/models/{id}`.

Without this plugin such a call goes to one worker, which knows only its own models. The cards (JSON
objects of models) are forwarded as the engines write them; each caller sees those of the models
that it may use.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, NamedTuple
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from gateway import Answer, Call, CallError, Host, NotFound, NoWorker, Worker, Workers, hookimpl

PATH = "/v1/models"

LOCAL = "local"
"""The `url` of a function in the gateway's own process, and the name of its only model."""

MAX_BODY = 1 << 20
"""Maximum bytes of a worker's response."""

MAX_MODELS = 1_000
MAX_NAME_LENGTH = 1_000
"""A response with more models, or with a name of more characters, is ignored."""

MAX_VIEWS = 32
"""Maximum number of cached lists, for callers with different rights."""

Cards = Mapping[str, bytes]
"""The JSON card of each model by its name, in the order of the response."""


def merged(several: Iterable[Cards]) -> Cards:
    """Merge the cards of several sources; the first card of a name wins."""
    found: dict[str, bytes] = {}
    for cards in several:
        for name, card in cards.items():
            found.setdefault(name, card)
    return found


class View(NamedTuple):
    """The models that a caller sees: `models` by name, of `workers` by id; None: all."""

    models: frozenset[str] | None
    workers: frozenset[str] | None

    def cards(self, said: Sequence[tuple[Worker, Cards | None]], loadable: Cards) -> Cards:
        """Return the visible cards; the first worker that has a model provides its card.

        Raises NoWorker if no worker of the view has reported its models, and none can be loaded.
        """
        asked = [cards for worker, cards in said if self._allows(worker)]
        if self.workers is None and loadable:
            asked.append(loadable)
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
    """The card of each model, and the body of the response that lists all of them."""

    cards: Cards
    body: bytes


class Round:
    """The cards of all workers that were fit, fetched together, and of models to be loaded.

    `listings` are built on first use.
    """

    def __init__(
        self,
        workers: tuple[Worker, ...],
        said: Sequence[tuple[Worker, Cards | None]],
        loadable: Cards,
    ) -> None:
        self._workers = workers
        self._said = said
        self._loadable = loadable
        self._ended = time.monotonic()
        self.listings: dict[View, Listing] = {}

    def holds(self, workers: tuple[Worker, ...], keep: float) -> bool:
        """Return whether the cards are younger than `keep` seconds, and no worker has changed."""
        return workers is self._workers and time.monotonic() - self._ended < keep

    def listing(self, view: View) -> Listing:
        """Return the list for a view. Raises NoWorker."""
        found = self.listings.get(view)
        if found is None:
            if len(self.listings) >= MAX_VIEWS:
                self.listings.clear()
            found = self.listings[view] = _listing(view.cards(self._said, self._loadable))
        return found


def _listing(cards: Cards) -> Listing:
    return Listing(cards, b'{"object":"list","data":[' + b",".join(cards.values()) + b"]}")


class OpenaiModels:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Workers' models are cached for `max_age` seconds, unless a worker comes, goes or changes.

        If a worker does not respond within `timeout` seconds, its last response is used.
        """

        renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
            "0.2": {"keep": "max_age", "patience": "timeout"}
        }

        max_age: Annotated[float, Meta(ge=0, le=3600)] = 2.0
        timeout: Annotated[float, Meta(gt=0, le=60)] = 2.0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._created = int(time.time())
        self._gateway: Host | None = None
        self._asking: asyncio.Task[Round] | None = None
        self._last: dict[Worker, tuple[str, Cards]] = {}

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        """Apply the options; the models of the workers are kept."""
        self._config = config

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
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
        """Return the latest round; all callers that wait share the same requests."""
        task = self._asking
        if task is None or (task.done() and not self._holds(task, workers)):
            task = self._asking = asyncio.create_task(self._ask_all(workers))
        return await asyncio.shield(task)

    def _holds(self, task: "asyncio.Task[Round]", workers: Workers) -> bool:
        if task.cancelled() or task.exception() is not None:
            return False
        return task.result().holds(workers.serving().fit, self._config.max_age)

    async def _ask_all(self, workers: Workers) -> Round:
        fit = workers.serving().fit
        self._last = {one: said for one, said in self._last.items() if one in workers.all}
        async with asyncio.TaskGroup() as asked:
            tasks = [asked.create_task(self._ask(worker)) for worker in fit]
        said = [(one, task.result()) for one, task in zip(fit, tasks, strict=True)]
        return Round(fit, said, self._bare(sorted(workers.loadable)))

    async def _ask(self, worker: Worker) -> Cards | None:
        """Fetch the models of one worker; None if neither it nor its settings report any."""
        if worker.url == LOCAL:
            return self._bare([LOCAL])
        url = worker.url  # the worker may be moved during the request
        told = await self._told(worker)
        if told is not None:
            self._last[worker] = url, told
        elif worker in self._last and self._last[worker][0] == url:
            told = self._last[worker][1]
        return self._named(worker, told)

    async def _told(self, worker: Worker) -> Cards | None:
        try:
            answer = await worker.request("GET", PATH, timeout=self._config.timeout)
        except CallError:
            return None
        return read_cards(answer.body) if answer.status == 200 else None

    def _named(self, worker: Worker, told: Cards | None) -> Cards | None:
        """Return the cards of a worker.

        If its settings name models, only those; if it never responded, the names that are known of
        it. A name without a card gets a card that has no more than the name.
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


def _view(call: Call, gateway: Host) -> View:
    """Return what the caller may see; if the configuration sets one model for all, only that."""
    principal, only = call.principal, gateway.config.model
    models = None if principal is None else principal.models
    if only is not None:
        models = frozenset({only}) if models is None else models & {only}
    return View(models, None if principal is None else principal.workers)


def _card(listing: Listing, name: str) -> bytes:
    """Return the card of one model. Raises NotFound, in vLLM's words."""
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
    """Return the cards in a response of `/v1/models`, byte for byte.

    None if it cannot be read, or is too large.
    """
    if len(body) > MAX_BODY:
        return None
    try:
        body.decode()  # msgspec does not check the UTF-8 of strings that it skips
        cards = msgspec.json.decode(body, type=_List).data
        if len(cards) > MAX_MODELS:
            return None
        named = [(msgspec.json.decode(card, type=_Card).id, bytes(card)) for card in cards]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if any(len(name) > MAX_NAME_LENGTH for name, _ in named):
        return None
    return merged([{name: card} for name, card in named])

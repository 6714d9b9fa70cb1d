"""What an API is to the gateway, and what its responses are read into.

An `Api` is what the gateway knows of an API: its paths, the scope they require, what a worker does
for a call, and which fields of a request bound the response. A `Dialect` is an Api with responses
that the gateway can read, and with requests that it can inject fields into.

Token ids are the only true record of what was sampled. Text does not give them back: a token that
ends inside a character has an id and a logprob but no text of its own, a stop string hides tokens
that were sampled, and the end-of-sequence token has no text at all.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import msgspec

from gateway.errors import GatewayError
from gateway.kernel.interface import Fields
from gateway.wire.reported.usage import Usage
from gateway.wire.request import ONE_PROMPT, Prompts, read_bounds, read_prompts
from gateway.wire.stripping.places import OPENAI, Places

Work = Literal["generates", "reads", "converts", "manages", "unknown"]
"""What a worker does for a call: it samples tokens; it reads a prompt and samples none; it converts
between text and token ids, without the model; it keeps objects or ends other calls; or the gateway
does not know."""

TokenField = Literal["max_tokens", "max_completion_tokens", "max_output_tokens"]

TOKEN_FIELDS: tuple[TokenField, ...] = get_args(TokenField)

Engine = Literal["sglang"]
"""An engine that has to be asked for what it tells in a way of its own."""

RequestChange = Callable[[Mapping[str, object]], dict[str, object]]
"""Returns the keys to set in a request for one injection; none if it must not be injected."""


Refusal = Callable[[int, bytes, str], bytes]
"""Returns the body of an error; arguments: the status, OpenAI's envelope, the id of the call."""


class Unreadable(GatewayError):
    """A worker's response is not in the format of this dialect."""


class ChoiceDelta(msgspec.Struct, frozen=True, gc=False):
    """The part of one choice in one event of a stream, or in a plain response.

    `index` is prompt * n + i if a call has several prompts. `token_ids` are the sampled tokens,
    with or without text, end of sequence included; `logprobs` has one value for each, in natural
    logarithms, None if the engine sent null (its -9999.0 for minus infinity stays). Each is empty
    if the engine omitted it. `prompt_token_ids` comes once per choice: in its plain response, or on
    its first event. Streams of generate have it once, on the first event of all.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Content of one event of a stream, or of a plain response.

    `usage` comes at the end or not at all; if the caller requested `continuous_usage_stats`, each
    event has its own, counting up. `error` is the message of an error sent in place of a response;
    a stream may still end as usual (`done`) after it.
    """

    choices: list[ChoiceDelta] = []
    usage: Usage | None = None
    id: str = ""
    model: str = ""
    error: str | None = None
    done: bool = False


class Requested(msgspec.Struct, frozen=True, gc=False):
    """How much the caller allows a worker to run, at most.

    `max_tokens` are those of one choice, None if the request sets no maximum. `choices` are those
    that are sampled for each prompt. `prompt_ids` are the token ids of the prompts, 0 if they are
    text.
    """

    max_tokens: int | None
    choices: int
    prompts: int = 1
    prompt_ids: int = 0


class Api(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the gateway knows of one API.

    `paths` are its paths as a worker reads them. If `below` is set, every path below that one
    belongs to the API too: it names one of its objects, such as a file. `scope` is the scope that a
    principal needs in place of that of model calls. `max_tokens` are the request fields that bound
    the tokens of one choice; it is empty if nothing is generated, or if the gateway does not know
    the fields. `several`: `n` in a request is its number of choices. `prompts` is the field that
    can hold several prompts. `nested`: the bounds are in `sampling_params`. `labelled`: metrics
    have labels for its paths. `tells_end`: its streams say how they ended, see reported.ending.
    `refusal` makes the API's own envelope for an error of the gateway, None: OpenAI's is sent.
    """

    name: str
    paths: tuple[str, ...] = ()
    below: str = ""
    work: Work = "unknown"
    scope: str | None = None
    max_tokens: tuple[TokenField, ...] = ()
    several: bool = False
    prompts: str = ""
    nested: bool = False
    labelled: bool = True
    tells_end: bool = False
    refusal: Refusal | None = None

    @property
    def generates(self) -> bool:
        """Whether a worker samples tokens."""
        return self.work == "generates"

    @property
    def samples_nothing(self) -> bool:
        """Whether it is known that a worker samples no tokens."""
        return self.work not in ("generates", "unknown")

    @property
    def repeatable(self) -> bool:
        """Whether a second worker may run a POST: it gives the same response at the same cost."""
        return self.work in ("reads", "converts")

    def requested(self, body: bytes, fields: Fields | None = None) -> Requested:
        """Return how much the request `body` allows a worker to run. Never raises.

        `fields` are those of `body`, if they are known: `call.body.fields`.
        An upper bound: engines differ in which field they prefer, and some read a negative maximum
        as none.
        """
        bounds = read_bounds(body, fields, nested=self.nested)
        most: int | None = None
        told = (bounds.max_tokens, bounds.max_completion_tokens, bounds.max_output_tokens)
        for name, limit in zip(TOKEN_FIELDS, told, strict=True):
            if limit is None or limit < 0 or name not in self.max_tokens:
                continue
            if most is None or limit > most:
                most = limit
        choices = 1
        if self.several and not (bounds.n is None and bounds.best_of is None):
            choices = max(bounds.n or 1, bounds.best_of or 1, 1)
        found = self.prompts_of(body, fields) if self.prompts else ONE_PROMPT
        return Requested(most, choices, found.count, found.token_ids)

    def prompts_of(self, body: bytes, fields: Fields | None = None) -> Prompts:
        """Return the prompts of the request `body`: at least one. Never raises."""
        return read_prompts(body, self.prompts, fields) if self.prompts else ONE_PROMPT

    def label(self, path: str) -> str | None:
        """Return the label of `path` in metrics: without the id of an object below `below`.

        None if `path` has no label of its own.
        """
        if path in self.paths:
            return path if self.labelled else None
        parent, _, id_ = path.rpartition("/")
        known = self.labelled and self.below and parent == self.below and id_
        return self.below + "/{id}" if known else None


class Dialect(Api, frozen=True, kw_only=True, eq=False):
    """An API whose responses the gateway reads, and whose requests it injects fields into.

    `read_event` decodes the data of one event of a stream, `read_answer` a whole plain response.
    They raise Unreadable and nothing else, for any bytes. `request_changes` has a function for each
    injection that a request may get, `other_changes` those that an engine needs in place of some;
    `injection.Stripper` removes their effect from the response, at its `places`. `id_prefix`,
    `object` and `event_object` are how ids begin, and what `object` is in a plain response and in
    an event, for responses that the gateway makes itself; empty if it makes none.
    """

    read_event: Callable[[bytes], Delta]
    read_answer: Callable[[bytes], Delta]
    request_changes: Mapping[str, RequestChange]
    other_changes: Mapping[Engine, Mapping[str, RequestChange]] = {}
    places: Places = OPENAI
    id_prefix: str = ""
    object: str = ""
    event_object: str = ""

"""What a caller may ask for: the request that creates a batch."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway import BadRequest, Host, api_of
from gateway_plugins.batch.options import MAX_PRIORITY, MIN_PRIORITY

MAX_PAIRS, MAX_NAME, MAX_VALUE = 16, 64, 512
"""Pairs of metadata, and characters of a name and of a value."""

MAX_HOURS = 168

PRIORITY = "priority"
"""The name in the metadata that is the priority of the batch's items."""

DEFAULT_PRIORITY = 1

MAX_SHOWN = 100
"""Characters of a caller's own text that a message repeats."""

MODELS = "/v1/models"

ALSO = frozenset(("/v1/images/edits", "/v1/videos"))
"""Endpoints of OpenAI's batches that the gateway forwards without knowing their API."""

_WINDOW = re.compile(r"([1-9][0-9]{0,2})h")
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


class ExpiresAfter(msgspec.Struct, frozen=True):
    """How long the files of results are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3_600, le=2_592_000)]


class NewBatch(msgspec.Struct, frozen=True):
    """The body of POST /v1/batches. Members that are not named here are ignored."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def hours(self) -> int:
        """The completion window. Raises BadRequest."""
        found = _WINDOW.fullmatch(self.completion_window)
        if found is None or int(found[1]) > MAX_HOURS:
            shown = self.completion_window[:MAX_SHOWN]
            message = f"completion_window must be 1h to {MAX_HOURS}h, not {shown!r}"
            raise BadRequest(message, param="completion_window")
        return int(found[1])

    @property
    def priority(self) -> int:
        """The priority of the items, within the bounds. Raises BadRequest."""
        text = (self.metadata or {}).get(PRIORITY)
        if text is None:
            return DEFAULT_PRIORITY
        if _NUMBER.fullmatch(text) is None:
            message = f"the priority must be a whole number, not {text[:MAX_SHOWN]!r}"
            raise BadRequest(message, param=f"metadata.{PRIORITY}")
        return min(max(int(text), MIN_PRIORITY), MAX_PRIORITY)

    def check_metadata(self) -> None:
        """Raise BadRequest if there is too much of it."""
        pairs = self.metadata or {}
        if len(pairs) > MAX_PAIRS:
            message = f"metadata has {len(pairs)} pairs, and may have {MAX_PAIRS}"
            raise BadRequest(message, param="metadata")
        for name, value in pairs.items():
            if len(name) > MAX_NAME:
                message = f"the name {name[:MAX_SHOWN]!r}… is longer than {MAX_NAME} characters"
                raise BadRequest(message, param="metadata")
            if len(value) > MAX_VALUE:
                message = f"the value of {name!r} is longer than {MAX_VALUE} characters"
                raise BadRequest(message, param=f"metadata.{name}")


def check_endpoint(gateway: Host, endpoint: str) -> None:
    """Raise BadRequest if the lines of a batch cannot be sent there.

    They can to the paths of calls of models, and to those that the configuration adds.
    """
    api = api_of(endpoint)
    is_known = api is not None and endpoint in api.paths and api.scope is None
    is_call = (is_known and endpoint != MODELS) or endpoint in ALSO
    if not (is_call or endpoint in gateway.config.extra_paths) or not gateway.carries(endpoint):
        message = (
            f"a batch cannot be sent to {endpoint[:MAX_SHOWN]!r}: endpoint must be the path of a "
            "model's API, such as /v1/chat/completions, or one of the option extra_paths"
        )
        raise BadRequest(message, param="endpoint")

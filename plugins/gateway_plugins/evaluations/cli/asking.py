"""Requests of the commands to a running gateway."""

import os
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Raw

from gateway import NOT_JSON, ConfigError, error_message

T = TypeVar("T")

KEY = "GATEWAY_API_KEY"
"""The variable that has the key."""

PATIENCE = 90.0
"""Seconds for an answer; a request to wait for the end of a job takes up to a minute."""


class Status(msgspec.Struct):
    """The state of one evaluation."""

    status: str
    total: int | None = None
    completed: int = 0
    failed: int = 0
    results: dict[str, Any] | None = None
    error: str | None = None
    file: str | None = None

    @property
    def done(self) -> int:
        return self.completed + self.failed


class Record(msgspec.Struct):
    """A job."""

    job_id: str
    model: str
    status: str
    created_at: str
    eval_status: dict[str, Status]
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "canceled")


class Brief(msgspec.Struct):
    """A job in a list."""

    job_id: str
    model: str
    status: str
    created_at: str
    eval_status: dict[str, str]


class Jobs(msgspec.Struct):
    evaluations: list[Brief]


class Known(msgspec.Struct):
    """An evaluation of the repository."""

    name: str
    default: bool
    arguments: list[str] | None


class Evaluations(msgspec.Struct):
    evals: list[Known]


class Submitted(msgspec.Struct):
    job_id: str


class Rescored(msgspec.Struct):
    job_id: str
    errors: dict[str, str]
    metrics: dict[str, dict[str, Any]]


class _Refusal(msgspec.Struct):
    error: Any = None


class Asking:
    """Asks the gateway at `url`, with the key of the environment. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        key = os.environ.get(KEY)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE)
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"--url {url}: {error}") from None

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, type_: type[T], **query: str | int) -> T:
        """Return what is at a path. Raises ConfigError, which says what the gateway said."""
        return self._asked("GET", path, type_, params=query)

    def post(self, path: str, body: object, type_: type[T], timeout: float | None = PATIENCE) -> T:
        """Return the answer to a JSON body. Raises ConfigError."""
        content = msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        return self._asked("POST", path, type_, content=content, headers=headers, timeout=timeout)

    def delete(self, path: str, type_: type[T]) -> T:
        """Return the answer to a DELETE. Raises ConfigError."""
        return self._asked("DELETE", path, type_)

    def _asked(self, method: str, path: str, type_: type[T], **more: Any) -> T:
        place = f"{self._client.base_url}{path.removeprefix('/')}"
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise ConfigError(f"{place}: {error or type(error).__name__}") from None
        if answer.status_code >= 400:
            raise ConfigError(f"{place}: {answer.status_code}: {_said(answer.content)}")
        try:
            return msgspec.json.decode(answer.content, type=type_)
        except NOT_JSON as error:
            raise ConfigError(f"{place}: the answer is not that of a gateway: {error}") from None


def _said(content: bytes) -> str:
    try:
        found = msgspec.json.decode(content, type=_Refusal).error
    except NOT_JSON:
        found = None
    return error_message(found) or content[:200].decode("utf-8", "replace") or "no reason"


def as_json(text: str) -> Raw:
    """Return an argument as JSON: itself if it is JSON, else as a string."""
    try:
        msgspec.json.decode(text)
    except NOT_JSON:
        return Raw(msgspec.json.encode(text))
    return Raw(text.encode())

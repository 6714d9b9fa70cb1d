"""Requests of the protocol: an upload is created, continued after every cut, and waited for."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec

from gateway import NOT_JSON
from gateway_plugins.uploads.cli.progress import Bar
from gateway_plugins.uploads.cli.remembered import Remembered

TUS = {"tus-resumable": "1.0.0"}
PIECE = 1024 * 1024
WAIT = 30
LONGEST_PAUSE = 10.0
OVER = frozenset(("completed", "failed", "expired"))
AGAIN = frozenset((408, 409, 423, 429))
"""Statuses after which the upload may go on; so it may after all from 500 on."""


class Rejected(Exception):
    """The gateway does not take the upload, or cannot be reached."""


class State(msgspec.Struct, frozen=True):
    """What GET tells of an upload."""

    status: str
    error: str | None = None
    progress: float = 0.0


class _Failure(msgspec.Struct, frozen=True):
    error: dict[str, msgspec.Raw] = {}


class Sending:
    """Sends a file of `size` bytes. `retries`: in a row, without a byte that was taken."""

    def __init__(self, client: httpx.Client, file: Path, size: int, bar: Bar, retries: int) -> None:
        self._client = client
        self._file = file
        self._size = size
        self._bar = bar
        self._retries = retries

    def send(self, model: str, digest: str, remembered: Remembered, *, overwrite: bool) -> str:
        """Send what the gateway does not have; return the path of the upload. Raises Rejected."""
        path = remembered.path()
        offset = None if path is None else self._offset(path)
        if path is None or offset is None:
            path, offset = self._create(model, digest, overwrite=overwrite), 0
            remembered.remember(path)
        failures, pause = 0, 0.1
        while offset < self._size:
            found = self._send_from(path, offset)
            if found is None:  # nobody knows
                found = self._offset(path)
            if found is None:
                raise Rejected("the upload is gone; the next try begins a new one")
            failures, pause = (0, 0.1) if found > offset else (failures + 1, pause * 2)
            if failures > self._retries:
                raise Rejected(f"no byte was taken in {failures} tries")
            if failures:
                time.sleep(min(pause, LONGEST_PAUSE))
            offset = found
        return path

    def _create(self, model: str, digest: str, *, overwrite: bool) -> str:
        pairs = {"model_name": model, "sha256": digest, "filename": self._file.name}
        texts = [
            f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items()
        ]
        header = ",".join([*texts, "overwrite"] if overwrite else texts)
        given = {**TUS, "upload-length": str(self._size), "upload-metadata": header}
        answer = self._asked("POST", "/upload", given)
        if answer.status_code != 201 or "location" not in answer.headers:
            raise Rejected(text_of(answer))
        return urlsplit(urljoin(str(answer.url), answer.headers["location"])).path

    def _asked(self, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
        """Return the answer to a request that may be sent again. Raises Rejected."""
        pause = 0.1
        for _ in range(self._retries + 1):
            try:
                answer = self._client.request(method, path, headers=headers)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            except httpx.InvalidURL as error:
                raise Rejected(str(error)) from None
            else:
                if answer.status_code < 500 and answer.status_code not in AGAIN - {409, 429}:
                    return answer
                reason = text_of(answer)
            time.sleep(min(pause, LONGEST_PAUSE))
            pause *= 2
        raise Rejected(f"{self._client.base_url}: {reason}")

    def _offset(self, path: str) -> int | None:
        """Return how many bytes the gateway has; None if the upload is not there any more."""
        answer = self._asked("HEAD", path, TUS)
        if answer.status_code in (404, 410):
            return None
        if answer.status_code != 200:
            raise Rejected(f"the gateway answers {answer.status_code}")
        return int(answer.headers.get("upload-offset", "0"))

    def _send_from(self, path: str, offset: int) -> int | None:
        """Send all bytes from an offset on; return how many the gateway has then, if it says so."""
        headers = {
            **TUS,
            "content-type": "application/offset+octet-stream",
            "upload-offset": str(offset),
            "content-length": str(self._size - offset),
        }
        try:
            answer = self._client.patch(path, headers=headers, content=self._content(offset))
        except httpx.TransportError:
            return None
        if answer.status_code == 204:
            return int(answer.headers["upload-offset"])
        if answer.status_code in AGAIN | {404, 410} or answer.status_code >= 500:
            return None
        raise Rejected(text_of(answer))

    def _content(self, offset: int) -> Iterator[bytes]:
        with self._file.open("rb") as content:
            content.seek(offset)
            while data := content.read(PIECE):
                yield data
                offset += len(data)
                self._bar.show("upload", offset)

    def wait(self, path: str) -> State:
        """Return the state of the upload once it is over. Raises Rejected."""
        while True:
            answer = self._asked("GET", f"{path}?wait={WAIT if self._bar.is_quiet else 1}", {})
            try:
                found = msgspec.json.decode(answer.content, type=State)
            except NOT_JSON:
                raise Rejected(text_of(answer)) from None
            if found.status in OVER:
                return found
            self._bar.show(found.status, int(found.progress * self._size))


def text_of(answer: httpx.Response) -> str:
    """Return what an answer that is no success says."""
    try:
        error = msgspec.json.decode(answer.content, type=_Failure).error
        return msgspec.json.decode(error["message"], type=str)
    except (*NOT_JSON, KeyError):
        return f"the gateway answers {answer.status_code}"

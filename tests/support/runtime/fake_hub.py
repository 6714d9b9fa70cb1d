"""A hub of models that speaks what the hub's own library asks, on a real socket."""

import contextlib
import functools
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SMALL: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "pytorch_model.bin": b"the same in another format" * 1000,
    "original/consolidated.00.pth": b"and in another" * 1000,
}
"""A repository; the last two of its files are not needed."""

NEEDED = sum(len(SMALL[name]) for name in ("config.json", "tokenizer.json", "model.safetensors"))


class FakeHub:
    """Repositories of files by their names; `url` is the hub's.

    `token`: the one that opens those in `gated`. While `open` is not set, the second half of
    `gate` waits. `status`: of each response from now on, if it is set. `requests` counts methods
    and paths, and `tokens` has the tokens that came.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Mapping[str, bytes]] = {}
        self.gated: set[str] = set()
        self.token = "hf_secret"
        self.status: int | None = None
        self.gate = "model.safetensors"
        self.open = threading.Event()
        self.open.set()
        self.requests: Counter[str] = Counter()
        self.tokens: set[str] = set()
        self.url = ""

    def commit(self, name: str) -> str:
        files = sorted((file, _blob(data)) for file, data in self.repositories[name].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()

    def fetched(self, file: str) -> int:
        """How often a file of this name was sent."""
        return sum(
            count
            for asked, count in self.requests.items()
            if asked.startswith("GET") and asked.endswith(f"/{file}")
        )

    @property
    def listed(self) -> int:
        """How often the list of a repository's files was asked for, with their sizes."""
        return sum(count for asked, count in self.requests.items() if asked.endswith("?blobs=True"))


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        of = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.open.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: FakeHub

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def _respond(self) -> None:
        hub, asked = self.of, urlsplit(self.path)
        query = "?blobs=True" if "blobs=" in asked.query else ""
        hub.requests[f"{self.command} {unquote(asked.path)}{query}"] += 1
        hub.tokens.add(self.headers.get("authorization", "").removeprefix("Bearer "))
        path = unquote(asked.path).removeprefix("/api/models").removeprefix("/")
        name = "/".join(path.split("/")[:2])
        rest = path.removeprefix(name).removeprefix("/")
        if hub.status is not None:
            self._send(hub.status, b"{}", {})
        elif name not in hub.repositories:
            self._send(404, b"{}", {"x-error-code": "RepoNotFound"})
        elif name in hub.gated and self.headers.get("authorization") != f"Bearer {hub.token}":
            self._send(403, b"{}", {"x-error-code": "GatedRepo"})
        elif rest.startswith("resolve/"):
            self._file(name, *rest.split("/", 2)[1:])
        elif rest.startswith("revision/") and rest != "revision/main":
            self._send(404, b"{}", {"x-error-code": "RevisionNotFound"})
        else:
            listed = self._tree(name) if rest.startswith("tree/") else self._info(name)
            self._send(200, json.dumps(listed).encode(), {"content-type": "application/json"})

    def _info(self, name: str) -> Any:
        files = self.of.repositories[name]
        siblings = [
            {"rfilename": file, "size": len(data), "blobId": _blob(data)}
            for file, data in files.items()
        ]
        return {"id": name, "sha": self.of.commit(name), "siblings": siblings}

    def _tree(self, name: str) -> Any:
        files = self.of.repositories[name]
        return [
            {"type": "file", "path": file, "size": len(data), "oid": _blob(data)}
            for file, data in files.items()
        ]

    def _file(self, name: str, revision: str, file: str) -> None:
        data = self.of.repositories[name].get(file)
        if data is None:
            self._send(404, b"", {"x-error-code": "EntryNotFound"})
            return
        headers = {"etag": f'"{_blob(data)}"', "x-repo-commit": self.of.commit(name)}
        start = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        if int(start):
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if int(start) else 200, data[int(start) :], headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: len(body) // 2])
            if "etag" in headers and self.path.endswith(self.of.gate):
                self.of.open.wait()
            self.wfile.write(body[len(body) // 2 :])


@functools.cache
def _blob(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()

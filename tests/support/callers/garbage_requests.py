"""Requests of garbage for the gateway's own routes: every part of one may be wrong."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from hypothesis import strategies as st

JSON = b"content-type: application/json"


def written(method: bytes, target: bytes, headers: Sequence[bytes], body: bytes) -> bytes:
    lines = (b"host: gateway.test", *headers, b"content-length: %d" % len(body))
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, target, b"\r\n".join(lines), body)


METHODS = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"BREW"]
FIELDS = [
    *("session_id", "session_ids", "metadata", "sampling_params", "since", "until", "limit"),
    *("cursor", "verdict", "model", "value", "source", "trace_id", "weight_version", "version"),
    *("url", "weight", "api_path", "headers", "worker_id", "models", "mode", "path", "key", "kind"),
    *("session", "header", "prompt", "messages", "stream", "max_tokens", "n", "stream_options"),
    *("name", "dtype", "shape", "names", "update_info", "init_info", "new_version", "bucket"),
]
ODD = [
    *("", "a", "1", "-1", "0,a", "nan", "inf", "1e400", "9" * 400, "null", "true", "[]", "{}"),
    *("COMPLETE", "http://h:1/v1", "http://[", "sim", "wait", "20260101", "a\x00b", "é", "😀"),
    *("..", "../admin", "v1", "/v1/x", "x" * 5000, "\ud800"),
]
NAMES = [
    *(b"a", b"victim", b"..", b"%2e%2e", b"%2F", b"a/b", b"//", b"%00", b"%ff", b"%", b"%zz"),
    *(b"\xc3\xa9", b"\xff", b"v1", b"x/v1/y", b"x" * 5000, b"%F0%9F%98%80", b"%ED%A0%80", b"{x}"),
    *(b"traces", b"batch_delete", b"'--", b"a%3Fb%23c"),
]
HEADERS = [
    JSON,
    *(b"content-type: text/plain", b"content-type: \xff", b"accept: text/event-stream"),
    *(b"accept: application/openmetrics-text; version=x", b"accept: ;;,=\xff,q=;q=nan"),
    *(b"x-request-id: \xff", b"x-request-id: " + b"x" * 300, b"x-session-id: \xe9"),
    *(b"x-session-id: " + b"s" * 400, b"x-priority: 99999", b"x-priority: -", b"expect: x"),
    *(b"sec-fetch-site: cross-site", b"sec-fetch-site: \xff", b"content-encoding: gzip"),
    *(b"range: bytes=-", b"accept-encoding: \xff", b"cookie: " + b"c" * 3000, b"x-: "),
]
BROKEN = [
    *(b"", b"{", b"[" * 5_000, b'{"a":' * 3_000, b"\xff\xfe", b"NaN", b"1" * 5_000, b"null"),
    *(b'{"limit": 1' + b"0" * 400 + b"}", b'{"session_id": "\\ud800"}', b'{"value": 1e999}'),
    *(b'{"value": NaN}', b'{"a": 1} {"a": 2}', b"\xef\xbb\xbf{}", b'"\x00"', b"\x1f\x8b\x08"),
]

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(ODD) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD), inner),
    max_leaves=4,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
bodies = st.sampled_from(BROKEN) | st.binary(max_size=20) | objects.map(json.dumps).map(str.encode)
odd_words = st.sampled_from(ODD) | st.text(max_size=5)
pairs = st.tuples(st.sampled_from(FIELDS), odd_words)
queries = st.lists(pairs, max_size=3).map(
    lambda some: "&".join(f"{name}={quote(word, errors='replace')}" for name, word in some).encode()
) | st.sampled_from([b"%", b"&&&=", b"limit=%ff&limit=\xff", b"=;" * 100, b"?" * 10, b"limit"])


class Garbage(msgspec.Struct, frozen=True):
    """What is sent to routes. None as a method: those that each has.

    `name` is what stands in each place of a path that holds any. `places` are the routes, out of
    however many there are.
    """

    places: list[int]
    method: bytes | None
    name: bytes
    query: bytes
    headers: list[bytes]
    body: bytes

    def to(self, path: str, methods: Sequence[str], key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of a method and the whole request, with `key` among its header lines."""
        path = path.replace("/sessions/{rest:path}", "/sessions/{id}/v1/chat/completions")
        parts = re.split(r"\{[^}]*\}", path)
        target = self.name.join(part.encode() for part in parts)
        own = [method.encode() for method in methods] or [b"POST"]
        for method in own if self.method is None else [self.method]:
            full = written(method, target + b"?" + self.query, [key, *self.headers], self.body)
            yield method, full


garbage = st.builds(
    Garbage,
    st.lists(st.integers(0, 99), min_size=15, max_size=15, unique=True),
    st.none() | st.sampled_from(METHODS),
    st.sampled_from(NAMES),
    queries | st.just(b""),
    st.lists(st.sampled_from(HEADERS), max_size=3),
    bodies,
)

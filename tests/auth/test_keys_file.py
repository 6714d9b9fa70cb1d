"""The file of keys: what may stand in it, and how a mistake is told."""

import contextlib
import hashlib
import json
from typing import Any

import pytest
from gateway_plugins.auth.keys import Entry, Keys, parse
from gateway_plugins.auth.times import duration, to_iso, to_unix
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateways.with_keys import TOKEN, key

from gateway import ConfigError

DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def keys_of(*entries: Any, **more: Any) -> Keys:
    return Keys(json.dumps({"keys": entries, **more}).encode())


def problem(*entries: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        keys_of(*entries, **more)
    said = str(refused.value)
    assert TOKEN not in said
    return said


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"token": TOKEN}, "keys[1]: id: missing; expected text with a length of at least 1"),
        ({"id": "a"}, "expected one of `token`, `token_sha256`"),
        ({"id": "a", "token": TOKEN, "token_sha256": DIGEST}, "expected one of"),
        (key(""), "token: expected printable ASCII"),
        (key(f"{TOKEN} "), "token: expected printable ASCII"),
        (key("kéy"), "token: expected printable ASCII"),
        (key("x" * 5000), "4096"),
        (key(id=""), "keys[1]: id: expected text with a length of at least 1"),
        (key(id="a" * 201), "keys[1]: id: expected text with a length of at least 1"),
        (key(id="a\nb"), "id: expected printable characters"),
        (key(labels={"a": "b\x1b"}), "labels: expected printable characters"),
        (key(scopes="realtime"), "keys[1]: scopes: expected a list or null"),
        (key(scopes=[1]), "keys[1]: scopes[0]: expected text with a length"),
        (key(expires="soon"), "expires: expected ISO 8601"),
        (key(expires=True), "keys[1]: expires: expected text or a number or null"),
        (key(expires=1_700_000_000_000), "expires: expected ISO 8601"),
        (key(expires=-1), "expires: expected ISO 8601"),
        (key(expires="0001-01-01T00:00:00+23:59"), "expires: expected ISO 8601"),
        (key(revoked="yes"), "keys[1]: revoked: expected true or false"),
        (key(labels={TOKEN: 1}), "keys[1]: labels[...]: expected text with a length"),
        (key(expiry=1), "keys[1]: expiry: unknown field"),
        ({**key("b"), TOKEN: 1}, "has an unknown field (not shown)"),
        ({**key("b"), f"`{TOKEN}`\n": 1}, "has an unknown field (not shown)"),
        ({"id": "a", "token_sha256": DIGEST[:-1]}, "token_sha256: expected 64"),
        ({"id": "a", "token_sha256": DIGEST[:-2] + "  "}, "token_sha256: expected 64"),
        ({"id": "a", "token_sha256": "z" * 64}, "token_sha256: expected 64"),
        ({"id": "a", "token_sha256": DIGEST.upper()}, "its token stands in an entry above"),
        (key(), "its token stands in an entry above"),
        (TOKEN, "keys[1]: expected a mapping"),
        (None, "keys[1]: expected a mapping"),
    ],
)
def test_keys_file_error_names_the_entry_without_its_token(entry: Any, words: str) -> None:
    assert problem(key(), entry).startswith("keys[1]: ")
    assert words in problem(key(), entry)


def test_a_name_of_a_certificate_stands_in_for_a_token() -> None:
    keys = keys_of(key(), {"id": "b", "certificate": "b.example"})
    found = keys.of_certificate(["a.example", "b.example"])
    assert found is not None
    assert found.principal.id == "b"
    assert keys.of_certificate(["a.example"]) is None
    assert keys.find(b"b.example") is None
    assert Keys(keys.encode()).of_certificate(["b.example"]) == found
    [_, read] = parse(keys.encode())
    assert (read.certificate, read.token_sha256) == ("b.example", None)
    words = problem(*[{"id": "b", "certificate": "b.example"}] * 2)
    assert words == "keys[1]: its certificate stands in an entry above; write it once"
    assert "certificate: expected printable" in problem({"id": "b", "certificate": "b\x1b"})
    both = {"id": "b", "certificate": "b.example", "token": TOKEN}
    assert "expected one of" in problem(both)


def test_keys_file_rejects_unknown_top_level_fields() -> None:
    assert problem(version=1) == "version: unknown field"
    assert problem(**{TOKEN: {}}) == "has an unknown field (not shown)"
    assert len(Keys(b'\xef\xbb\xbf{"keys": []}')) == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff", "is not valid JSON"),
        (b'{"keys": [\n{"id": "a",}]}', "is not valid JSON, from line 2, column"),
        (b'{"keys": ' + b"[" * 5000, "is nested more than 32 levels deep"),
        (b'{"keys": [{"id": ' + b"[" * 5000, "is nested more than 32 levels deep"),
        (b'{"keys": [{"id": ' + b"[" * 40 + b"]" * 40 + b"}]}", "keys[0]: is nested more than 32"),
        (b'{"keys": [{"id": "' + b"[" * 40 + b'", "x": 1}]}', "keys[0]: x: unknown field"),
    ],
)
def test_what_is_no_json_or_nested(data: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Keys(data)
    assert str(refused.value).startswith(words)


def test_key_is_valid_until_its_expiry() -> None:
    keys = keys_of(key(expires="2030-01-01T00:00:00Z"), key("b"), key("c", revoked=True))
    expiring, lasting, revoked = (keys.find(token) for token in (TOKEN.encode(), b"b", b"c"))
    assert expiring is not None
    assert lasting is not None
    assert revoked is not None
    at = 1_893_456_000.0
    assert (expiring.fault(at - 0.001), expiring.fault(at)) == (None, "expired")
    assert (lasting.fault(1e12), revoked.fault(0)) == (None, "revoked")
    assert keys.find(b"d") is None


def test_keys_reuse_only_unchanged_entries() -> None:
    before = keys_of(key("a"), key("b"), key("c"))
    entries = [key("c"), key("b", revoked=True), key("d")]
    now = Keys(json.dumps({"keys": entries}).encode(), before)
    assert now.find(b"c") is before.find(b"c") is not None
    assert (now.find(b"a"), len(now)) == (None, 3)
    changed, new = now.find(b"b"), now.find(b"d")
    assert changed is not None
    assert new is not None
    assert (changed.fault(0), new.fault(0)) == ("revoked", None)


@pytest.mark.parametrize(
    "text",
    ["2030-01-01", "2030-01-01T00:00", "2030-01-01T01:00+01:00", 1_893_456_000, 1_893_456_000.0],
)
def test_time_without_an_offset_is_utc(text: str | float) -> None:
    assert to_iso(to_unix(text)) == "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "text", ["", "d", "5", "-1d", "1e3d", "nand", "²d", "9" * 400 + "d", "99999999w", ".d"]
)
def test_duration_rejects_invalid_text(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90d"):
        duration(text)


def test_entry_repr_hides_its_token() -> None:
    assert TOKEN not in repr([Entry("a", TOKEN)])


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("a") | junk,
        "token": st.text(st.characters(codec="ascii"), max_size=5) | junk,
        "token_sha256": st.text("0123456789abcdef", min_size=64, max_size=64) | junk,
        "scopes": st.lists(st.text()) | junk,
        "expires": st.floats() | st.text() | st.datetimes().map(str) | junk,
        "models": junk,
        "labels": st.dictionaries(st.text(), st.text()) | junk,
        "revoked": junk,
    },
)


@settings(max_examples=25)
@given(st.binary() | st.lists(nearly | junk, max_size=3).map(lambda keys: _json({"keys": keys})))
def test_keys_file_parses_or_raises_a_config_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert len(parse(data)) == len(Keys(data))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()

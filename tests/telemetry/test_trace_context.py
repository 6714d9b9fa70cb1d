"""The context of a distributed trace, held to the cases of the W3C's own test suite."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import TraceContext
from gateway.telemetry.trace_context import (
    MAX_BAGGAGE,
    MAX_STATES,
    NAMES,
    begun,
    bound_of,
    decide,
    follows,
    new_span_id,
    new_trace_id,
    read_context,
    traced_headers,
)

NEW = "01a234f57023c568c718ac00e7450f0c"
TRACE, PARENT = "12345678901234567890123456789012", "1234567890123456"
VALID = f"00-{TRACE}-{PARENT}-01"

Lines = Sequence[tuple[str, str]]


def read(*lines: tuple[str, str]) -> TraceContext:
    return read_context([(name.encode(), value.encode("latin-1")) for name, value in lines], NEW)


def of_parent(value: str, *more: tuple[str, str]) -> TraceContext:
    return read(("traceparent", value), *more)


def state_of(*values: str) -> str:
    return of_parent(VALID, *[("tracestate", value) for value in values]).tracestate


@pytest.mark.parametrize(
    ("value", "sampled", "random"),
    [
        (VALID, True, False),
        (f"00-{TRACE}-{PARENT}-00", False, False),
        (f"00-{TRACE}-{PARENT}-02", False, True),
        (f"00-{TRACE}-{PARENT}-ff", True, True),
        (f"cc-{TRACE}-{PARENT}-01", True, False),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True, False),
        (f" \t{VALID} \t", True, False),
    ],
)
def test_valid_traceparent_is_joined(value: str, sampled: bool, random: bool) -> None:
    context = of_parent(value)
    assert (context.trace_id, context.parent_id) == (TRACE, PARENT)
    assert (context.sampled, context.random) == (sampled, random)
    assert context.span_id != PARENT


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"{VALID}.",
        f"{VALID}-what-the-future-will-be-like",
        f"cc-{TRACE}-{PARENT}-01.what-the-future-will-be-like",
        f"ff-{TRACE}-{PARENT}-01",
        f".0-{TRACE}-{PARENT}-01",
        f"0.-{TRACE}-{PARENT}-01",
        f"000-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-.{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}3-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{'AB' * 16}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT[1:]}.-01",
        f"00-{TRACE}-{PARENT}7-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE}-{'AB' * 8}-01",
        f"00-{TRACE}-{PARENT}-.0",
        f"00-{TRACE}-{PARENT}-001",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0A",
        f"cc-{TRACE}-{PARENT}-01-{'a' * 512}",
        f"{VALID},{VALID}",
    ],
)
def test_invalid_traceparent_begins_a_new_trace(value: str) -> None:
    context = of_parent(value, ("tracestate", "a=1"))
    assert (context.trace_id, context.parent_id, context.tracestate) == (NEW, None, "")
    assert context.span_id == NEW[16:]
    assert (context.sampled, context.random) == (False, True)


def test_several_traceparents_are_none_even_if_they_are_equal() -> None:
    assert of_parent(VALID, ("traceparent", VALID)).parent_id is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1", "baz=3"], "foo=1,bar=2,rojo=1,baz=3"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1", ""], "foo=1"),
        ([",foo=1,, ,"], "foo=1"),
        ([""], ""),
        (["foo=1,foo=2"], "foo=1,foo=2"),
        (["foo= 1 "], "foo= 1"),
        (["foo@=1,a@@b=2,0a-_*/@=3"], "foo@=1,a@@b=2,0a-_*/@=3"),
        ([f"{'k' * 256}={'v' * 256}"], f"{'k' * 256}={'v' * 256}"),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
        (["foo =1"], ""),
        (["FOO=1"], ""),
        (["foo.bar=1"], ""),
        (["@foo=1,bar=2"], ""),
        (["foo=bar=baz"], ""),
        (["foo=,bar=3"], ""),
        (["foo"], ""),
        ([f"{'k' * 257}=1"], ""),
        ([f"k={'v' * 257}"], ""),
        (["k=\xe9"], ""),
        (["k=a\tb"], ""),
    ],
)
def test_tracestate(values: list[str], state: str) -> None:
    assert state_of(*values) == state
    assert of_parent(VALID, *[("tracestate", value) for value in values]).trace_id == TRACE


def test_baggage_comes_with_or_without_a_traceparent() -> None:
    assert read(("baggage", "a=1;p"), ("baggage", " b=2 ")).baggage == "a=1;p, b=2"
    assert of_parent("ff", ("baggage", "a=1")).baggage == "a=1"
    assert read(("baggage", "a=\xe9")).baggage == ""


def test_baggage_beyond_the_limit_loses_whole_members_only() -> None:
    members = [f"key{number:04}={'v' * 50}" for number in range(200)]
    kept = read(("baggage", ",".join(members))).baggage
    assert len(kept) <= MAX_BAGGAGE < len(kept) + 60
    assert kept.split(",") == members[: len(kept.split(","))]
    assert read(("baggage", "k=" + "v" * MAX_BAGGAGE)).baggage == ""


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.binary(max_size=700)), max_size=5))
def test_whatever_callers_send_the_worker_gets_a_valid_context(
    lines: list[tuple[bytes, bytes]],
) -> None:
    context = decide(read_context(lines, new_trace_id(1.7e9)), True)
    sent = traced_headers([(b"accept", b"*/*"), *lines], context, new_span_id())
    names = [name for name, _ in sent]
    assert names[:2] == [b"accept", b"traceparent"]
    assert len(names) == len(set(names))
    again = read_context(sent, NEW)
    assert (again.trace_id, again.tracestate) == (context.trace_id, context.tracestate)
    assert (again.sampled, again.random, again.baggage) == (True, context.random, context.baggage)
    assert len(context.tracestate.split(",")) <= MAX_STATES


@given(
    st.floats(0, 1),
    st.lists(st.tuples(st.sampled_from([b"accept", *sorted(NAMES)]), st.just(b"x")), max_size=2),
)
def test_call_that_begins_a_trace_gets_what_the_long_way_gives(
    ratio: float, lines: list[tuple[bytes, bytes]]
) -> None:
    trace_id, bound = new_trace_id(1.7e9), bound_of(ratio)
    context = read_context(lines, trace_id)
    decided = decide(context, follows(context, bound))
    found = begun(lines, trace_id, bound)
    if any(name in NAMES for name, _ in lines):
        assert found is None
    elif decided.sampled:
        assert found == decided
    else:
        assert [*lines, found] == traced_headers(lines, decided, decided.span_id)


_MEMBER = st.from_regex(r"[a-z0-9][a-z0-9_\-*/@]{0,20}=[!-+\--<>-~]{1,20}", fullmatch=True)
_SPACES = st.text(" \t", max_size=2)


@given(
    st.from_regex(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{31}1-[0-9a-f]{15}1-[0-9a-f]{2}", fullmatch=True),
    st.lists(st.tuples(_SPACES, _MEMBER, _SPACES), max_size=MAX_STATES),
)
def test_every_valid_context_is_joined(parent: str, members: list[tuple[str, str, str]]) -> None:
    context = of_parent(parent, *[("tracestate", "".join(member)) for member in members])
    assert parent[3:].startswith(f"{context.trace_id}-{context.parent_id}")
    assert context.sampled == bool(int(parent[-2:], 16) & 1)
    assert context.tracestate == ",".join(member for _, member, _ in members)


def test_new_ids_have_the_form_and_the_random_bits_of_the_recommendation() -> None:
    traces = [new_trace_id(1.7e9) for _ in range(1_000)]
    spans = [new_span_id() for _ in range(1_000)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in traces)
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in spans)
    for ids, places in ((traces, range(18, 32)), (spans, range(16))):
        for place in places:
            assert {one[place] for one in ids} == set("0123456789abcdef")

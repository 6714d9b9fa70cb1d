"""The simulator's tokenizer, model and tool parser, for all inputs."""

import json
import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.api.toolcalls import Fragment, Started, ToolParser, written
from gateway.simulator.engine.model import GRAMMAR, Context
from gateway.simulator.engine.tokens import (
    EOS,
    SIZE,
    TOKENS,
    Detokenizer,
    decode,
    encode,
    piece_texts,
)
from gateway.simulator.input.schema import instance

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.lists(st.integers(0, SIZE - 1))


def test_tokenizer_has_a_fixed_vocabulary() -> None:
    assert SIZE == 1000
    assert len(set(TOKENS)) == SIZE
    assert decode([EOS]) == "<|im_end|>"


@given(TEXTS)
def test_tokenizer_decodes_what_it_encodes(text: str) -> None:
    assert decode(encode(text)) == text


@given(TEXTS)
def test_tokenizer_never_encodes_text_as_a_special_token(text: str) -> None:
    assert EOS not in encode(text + "<|im_end|>")


@given(st.text(), st.integers(0, 20))
def test_tokenizer_limit_cuts_the_ids_and_changes_nothing_else(text: str, limit: int) -> None:
    assert encode(text, limit) == encode(text)[:limit]


@given(IDS)
def test_detokenizer_shows_a_prefix_of_the_decoded_text(ids: list[int]) -> None:
    detokenizer = Detokenizer()
    shown = "".join(map(detokenizer.add, ids))
    plain = b"".join(TOKENS[number] for number in ids if number > EOS)
    assert plain.decode(errors="replace").startswith(shown)
    assert len(piece_texts(ids)) == len(ids)


@given(TEXTS)
def test_detokenizer_shows_all_of_a_complete_text(text: str) -> None:
    ids = encode(text)
    assert "".join(piece_texts(ids)) == text
    detokenizer = Detokenizer()
    shown = "".join(map(detokenizer.add, ids))
    # A text that ends in U+FFFD looks like one that is not complete.
    assert text.rstrip("\ufffd") == shown.rstrip("\ufffd")


@given(IDS)
def test_model_probabilities_add_up_to_one(ids: list[int]) -> None:
    context = Context()
    for number in ids:
        context.read(number)
    distribution = context.next()
    everything = math.fsum(math.exp(distribution.logprob(number)) for number in range(SIZE))
    assert math.isclose(everything, 1.0)
    ranked = distribution.top(SIZE)
    assert [distribution.rank(number) for number, _ in ranked] == list(range(1, SIZE + 1))


def test_grammar_edges_lead_to_known_states_by_distinct_words() -> None:
    edges = [edge for edges in GRAMMAR.values() for edge in edges]
    assert {edge.leads_to for edge in edges} <= set(GRAMMAR)
    for state, edges_of in GRAMMAR.items():
        words = [word for edge in edges_of for word in edge.words]
        assert len(words) == len(set(words)), state


ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=2), max_size=3)
CALLS = st.lists(st.tuples(st.text("abc_", min_size=1), ARGUMENTS), max_size=3)


@given(st.text("abc <tool", max_size=12), CALLS, st.data())
def test_tool_parser_finds_the_same_calls_however_the_text_is_cut(
    before: str, calls: list[tuple[str, dict[str, object]]], data: st.DataObject
) -> None:
    text = before + "\n".join(written(name, json.dumps(args)) for name, args in calls)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    parser, content = ToolParser(), ""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        said, events = parser.feed(text[begin:end], last=end == len(text) and begin == end)
        content += said
        for event in events:
            match event:
                case Started(index, name):
                    names[index] = name
                case Fragment(index, fragment):
                    arguments[index] = arguments.get(index, "") + fragment
    content += parser.feed("", last=True)[0]
    assert content == before
    assert parser.whole == bool(calls)
    assert [names[index] for index in sorted(names)] == [name for name, _ in calls]
    assert [json.loads(arguments[index]) for index in sorted(arguments)] == [
        args for _, args in calls
    ]


SCHEMAS = st.recursive(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(
        lambda kind: {"type": kind}
    ),
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items})
        | st.dictionaries(st.text("ab", min_size=1), inner, min_size=1, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties}
        )
    ),
    max_leaves=6,
)


@given(SCHEMAS, st.integers(0, 9))
def test_schema_instance_fits_its_schema(schema: dict[str, object], seed: int) -> None:
    assert fits(json.loads(instance(schema, Random(seed))), schema)


def fits(value: object, schema: dict[str, object]) -> bool:
    kinds: dict[str, type] = {
        "string": str,
        "integer": int,
        "number": float,
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
    }
    if type(value) is not kinds[str(schema["type"])]:
        return False
    items, properties = schema.get("items"), schema.get("properties")
    if isinstance(value, list) and isinstance(items, dict):
        return all(fits(item, items) for item in value)
    if isinstance(value, dict) and isinstance(properties, dict):
        return list(value) == list(properties) and all(
            fits(value[name], properties[name]) for name in value
        )
    return True


def test_schema_instance_of_a_recursive_schema_is_finite() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "leaf": {"type": "string"}}}
    assert instance(tree, Random(1)).count("leaf") < 20

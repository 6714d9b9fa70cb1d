"""The tree of prompts: bounded, exact, and followed unless a worker has too much to do."""

import json
from collections import OrderedDict
from collections.abc import Sequence

import pytest
from gateway_plugins.prefix_tree import PrefixTreePolicy
from gateway_plugins.prefix_tree.choice import Choice, Options
from gateway_plugins.prefix_tree.prompts import path_in, path_of
from gateway_plugins.prefix_tree.tree import PrefixTree
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import Workers, config
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry

NAMES = ("a", "b", "c")
texts = st.text("xy", max_size=8)
sent = st.lists(st.tuples(st.sampled_from(NAMES), texts), max_size=30)


def path(text: str) -> Sequence[int]:
    return path_in(text.encode(), 0, 1, 100)


def common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@given(sent, texts)
def test_tree_finds_the_longest_prefix_that_each_worker_was_sent(
    sent: list[tuple[str, str]], wanted: str
) -> None:
    tree = PrefixTree(10_000)
    for worker, text in sent:
        tree.add(worker, path(text))
    assert tree.matches(NAMES, path(wanted)) == {
        name: max((common(text, wanted) for worker, text in sent if worker == name), default=0)
        for name in NAMES
    }


@settings(max_examples=60)
@given(st.integers(1, 12), sent)
def test_tree_is_bounded_and_drops_what_was_used_longest_ago(
    most: int, sent: list[tuple[str, str]]
) -> None:
    tree = PrefixTree(most)
    used: dict[str, OrderedDict[str, None]] = {name: OrderedDict() for name in NAMES}
    for worker, text in sent:
        tree.add(worker, path(text))
        begins = used[worker]
        for end in range(min(len(text), most), 0, -1):
            begins[text[:end]] = None
            begins.move_to_end(text[:end])
        while len(begins) > most:
            begins.popitem(last=False)
        for name in NAMES:
            assert tree.size(name) == len(used[name]) <= most
        for begin in begins:
            assert tree.matches([worker], path(begin))[worker] == len(begin), "from its root on"
    tree.keep(["a"])
    assert len(tree) == tree.size("a")
    tree.forget("a")
    assert len(tree) == 0


def registry(count: int) -> Workers:
    return Workers(
        config.Config(
            workers=tuple(
                config.Worker(url=f"http://w{place}", worker_id=f"w{place}")
                for place in range(count)
            )
        )
    )


def test_prompt_goes_where_its_prefix_is_unless_that_worker_has_too_much_to_do() -> None:
    workers = registry(3).all
    choice = Choice(Options(balance_abs=2, balance_rel=1.5, min_match=0.5))
    home = choice.pick(workers, path("a long story"))
    assert {choice.pick(workers, path("a long story" + "!" * n)) for n in range(5)} == {home}
    assert choice.pick(workers, path("a short one")) is not None
    assert choice.counts.short == 2, "the first one, and one with too little in common"
    for _ in range(3):
        assert home.begin()
    other = choice.pick(workers, path("a long story"))
    assert other is not home
    assert home.begin()
    home.end()
    assert other.begin()
    assert choice.pick(workers, path("a long story")) is other, "it has the prefix now, too"


MESSAGES = [{"role": "user", "content": "Once upon a time" * 20}]
CHAT: dict[str, object] = {
    "model": "sim",
    "tools": [],
    "messages": MESSAGES,
}
PATHS: list[dict[str, object]] = [
    CHAT,
    {"prompt": "Once upon a time" * 20},
    {"prompt": list(range(200))},
    {"input": "short"},
    {"input": "with \\u0000 \\n and ü" * 30, "instructions": "be brief"},
    {"messages": 3},
    {},
]


@pytest.mark.parametrize("body", PATHS, ids=str)
def test_path_of_a_request_is_that_of_its_text(body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    found = path_of(data, None, "sim", 64, 1_000)
    text = next((body[name] for name in ("messages", "prompt", "input") if name in body), "")
    assert len(found) == len(json.dumps(text)) // 64
    assert path_of(data, None, "other", 64, 1_000)[:1] != found[:1] or not found
    assert len(path_of(data, None, "sim", 64, 2)) <= 2


def test_path_grows_with_a_conversation() -> None:
    more = {**CHAT, "messages": [*MESSAGES, {"role": "assistant", "content": "Yes?"}]}
    other = {**CHAT, "tools": [{"type": "function"}]}
    first, next_, apart = (
        path_of(json.dumps(one).encode(), None, "sim", 64, 99) for one in (CHAT, more, other)
    )
    assert next_[: len(first)] == first
    assert not set(apart) & set(first)


@given(st.binary(max_size=200))
def test_path_of_any_bytes_is_found(data: bytes) -> None:
    assert len(path_of(data, None, None, 64, 3)) <= 3


async def at(live: Live, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    body = {"model": "sim", "messages": messages, "max_tokens": 2}
    answer = await live.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    return answer.headers["x-gateway-worker"]


async def test_calls_follow_their_prefixes_to_the_workers_that_had_them(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    workers = [config.Worker(url=simulator.url, worker_id=f"gpu-{n}") for n in range(3)]
    tree = entry(PrefixTreePolicy, block_bytes=64)
    live = await gateway_for(tree, "metrics", workers=workers)
    stories = [f"{name} went to the sea. " * 30 for name in ("Ada", "Bea", "Cleo")]
    homes = {story: await at(live, story) for story in stories}
    assert set(homes.values()) == {"gpu-0", "gpu-1", "gpu-2"}
    for story, home in homes.items():
        assert await at(live, f"{story} And then? ") == home
    shown = (await live.client.get("/metrics")).text
    assert 'gateway_prefix_tree_choices_total{reason="prefix"} 3.0' in shown
    live.gateway.workers.remove("gpu-0")
    assert {await at(live, story) for story in stories} == {"gpu-1", "gpu-2"}

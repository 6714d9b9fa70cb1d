"""Trajectories claimed over HTTP: each sampled token is taught once, and none is lost."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from gateway_plugins.trace_capture import TraceCapture
from gateway_plugins.trace_capture.handover import claiming, reading
from support.gateways.capturing import call, capturing
from support.paths import SUPPORT
from trace_capture.sessions.test_session_owners import ByName, named

from gateway.testing import GatewayFor, Live

NOW: dict[str, Any] = {"idle_seconds": 0}
"""A filter for which every session is over."""


async def ask(live: Live, what: str, **body: Any) -> Any:
    answer = await live.client.post(f"/trajectories/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def claim(live: Live, n: int = 100, **body: Any) -> list[Any]:
    claims: list[Any] = (await ask(live, "claim", **{"n": n, "filter": NOW, **body}))["claims"]
    for one in claims:
        length = len(one["token_ids"])
        assert [length] * 3 == [len(one[k]) for k in ("loss_mask", "logprobs", "weight_versions")]
        assert [one is not None for one in one["logprobs"]] == [bool(m) for m in one["loss_mask"]]
    return claims


async def settle(live: Live, what: str, claims: list[Any], **body: Any) -> list[str]:
    """Return the codes of the failures."""
    receipts = [one["receipt"] for one in claims]
    done = await ask(live, what, receipts=receipts, **body)
    assert {*done["successful"], *(one["receipt"] for one in done["failed"])} == {*receipts}
    return [one["code"] for one in done["failed"]]


async def turn(live: Live, session_id: str, messages: list[Any], **fields: Any) -> Any:
    """Make a call that goes on with a conversation."""
    body = {"model": "sim", "messages": messages, "max_tokens": 3, **fields}
    path = f"/sessions/{session_id}/v1/chat/completions"
    answer = await live.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def error_of(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_a_trajectory_is_handed_out_once(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    await live.client.post("/sessions", json={"session_id": "a", "metadata": {"task": 7}})
    await call(live, "a")
    [one] = await claim(live)
    whole = (await live.client.get("/sessions/a/trajectories")).json()["trajectories"][0]
    assert {name: one[name] for name in whole} == whole
    assert sum(one["loss_mask"]) == 3
    assert (one["session_id"], one["session_metadata"]) == ("a", {"task": 7})
    assert one["deliveries"] == 1
    assert 290 < one["lease_until"] - time.time() <= 300
    assert await claim(live) == []
    assert await settle(live, "ack", [one]) == []
    assert await settle(live, "ack", [one]) == [], "it may be acknowledged again"
    assert await claim(live) == []
    assert await settle(live, "release", [one]) == ["claim_acknowledged"]
    assert await settle(live, "extend", [one]) == ["claim_acknowledged"]


async def test_a_released_trajectory_is_handed_out_again(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    [one] = await claim(live)
    assert await settle(live, "release", [one]) == []
    assert await settle(live, "release", [one]) == [], "it may be released again"
    [again] = await claim(live)
    assert again["deliveries"] == 2
    assert again["receipt"] != one["receipt"]
    fresh = {"receipt", "deliveries", "lease_until"}
    assert {k: v for k, v in one.items() if k not in fresh} == {
        k: v for k, v in again.items() if k not in fresh
    }
    assert await settle(live, "ack", [one]) == ["claim_released"]
    assert await settle(live, "ack", [again, {"receipt": "none"}]) == ["claim_unknown"]


async def test_an_expired_claim_counts_until_another_has_its_tokens(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    await call(live, "b")
    late = await claim(live, lease=1e-6)
    assert len(late) == 2
    [taken] = await claim(live, n=1)
    left = next(one for one in late if one["session_id"] != taken["session_id"])
    gone = next(one for one in late if one["session_id"] == taken["session_id"])
    assert await settle(live, "ack", late) == ["claim_taken"]
    assert await settle(live, "extend", [gone]) == ["claim_taken"]
    assert await settle(live, "ack", [left, taken]) == []
    assert await claim(live) == []
    plugin = live.plugin(TraceCapture)
    counts = {
        sample.labels["event"]: sample.value
        for sample in plugin.samples()
        if sample.name == "gateway_trajectory_claims_total"
    }
    assert counts == {
        "claimed": 3,
        "acknowledged": 2,
        "expired": 2,
        "refused": 2,
        "released": 0,
        "extended": 0,
        "stale": 0,
        "unreadable": 0,
    }


async def test_an_extended_claim_holds_longer(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    [one] = await claim(live, lease=1e-6)
    assert await settle(live, "extend", [one], lease=60) == []
    assert await claim(live) == []
    assert await settle(live, "extend", [one], lease=1e-6) == []
    [other] = await claim(live)
    assert await settle(live, "release", [other]) == []
    assert await claim(live, filter={}) == [], "nobody looked yet whether the session is over"
    assert await settle(live, "extend", [one], lease=60) == [], "nobody has it now"
    assert await claim(live) == []


async def test_what_a_session_grows_is_taught_once_in_the_next_claim(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    messages.append(await turn(live, "a", messages))
    [first] = await claim(live)
    messages.append({"role": "user", "content": "More"})
    await turn(live, "a", messages)
    [second] = await claim(live)
    whole = (await live.client.get("/sessions/a/trajectories")).json()["trajectories"][0]
    assert second["token_ids"] == whole["token_ids"]
    assert len(second["trace_ids"]) == 2
    length = len(first["token_ids"])
    assert second["loss_mask"][:length] == [0] * length
    both = first["loss_mask"] + second["loss_mask"][length:]
    assert both == whole["loss_mask"]
    assert await settle(live, "release", [first, second]) == []
    [at_once] = await claim(live)
    assert at_once["loss_mask"] == whole["loss_mask"]


async def test_choices_of_one_call_are_claimed_apart(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a", n=3, seed=5)
    found = await claim(live, n=2) + await claim(live)
    assert sorted(one["choices"][0] for one in found) == [0, 1, 2]
    kinds = {"idle_seconds": 0, "fork_kind": ["none"]}
    assert await settle(live, "release", found) == []
    [one] = await claim(live, filter=kinds)
    assert (one["index"], one["fork_kind"]) == (0, None)
    samples = await claim(live, filter={"idle_seconds": 0, "fork_kind": ["sample"]})
    assert [one["fork_kind"] for one in samples] == ["sample", "sample"]
    wrong = {"filter": {"fork_kind": ["rewound"]}}
    refused = await live.client.post("/trajectories/claim", json=wrong)
    assert refused.status_code == 400
    assert "fork_kind" in refused.text


async def test_a_session_is_over_when_it_has_a_reward_or_is_idle(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name in ("a", "b"):
        await call(live, name)
    assert await claim(live, filter={}) == []
    await live.client.post("/sessions/a/rewards", json={"value": 0.5})
    assert await claim(live, filter={"ready": "idle"}) == []
    assert await claim(live, filter={"min_reward": 0.6}) == []
    [one] = await claim(live, filter={"min_reward": 0.5})
    assert one["session_id"] == "a"
    assert [reward["value"] for reward in one["session_rewards"]] == [0.5]
    assert await claim(live, filter={"ready": "rewarded", "idle_seconds": 0}) == []
    [one] = await claim(live)
    assert one["session_id"] == "b"


async def test_claims_are_filtered(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    for name, metadata in (("run/1", {"run": "x", "step": 1}), ("run/2", {"run": "x", "ok": True})):
        body = {"session_id": name, "metadata": metadata}
        assert (await live.client.post("/sessions", json=body)).status_code == 200
        await call(live, name.replace("/", "%2F"))
    started = time.time()
    await live.client.post(
        "/sessions/other/v1/chat/completions",
        json={"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
        headers={"user-agent": "OpenAI/Python 1.2"},
    )
    for filter_, wanted in (
        ({"session_prefix": "run/"}, ["run/1", "run/2"]),
        ({"metadata": {"run": "x"}}, ["run/1", "run/2"]),
        ({"metadata": {"run": "x", "step": 1}}, ["run/1"]),
        ({"metadata": {"ok": True}}, ["run/2"]),
        ({"metadata": {"run": "y"}}, []),
        ({"model": "sim"}, ["other", "run/1", "run/2"]),
        ({"model": "none"}, []),
        ({"harness": "OpenAI/Python"}, ["other"]),
        ({"since": started}, ["other"]),
        ({"principal": "nobody"}, []),
    ):
        found = await claim(live, filter={**NOW, **filter_})
        assert sorted(one["session_id"] for one in found) == wanted, filter_
        assert await settle(live, "release", found) == []


async def test_incomplete_trajectories_are_claimed_only_on_demand(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a", ignore_eos=True, max_tokens=8, stop=["zzz"], best_of=2, n=1)
    await call(live, "b")
    assert {one["session_id"] for one in await claim(live)} == {"b"}
    [one] = await claim(live, filter={**NOW, "allow_incomplete": True})
    assert (one["session_id"], one["verdict"]) == ("a", "INCOMPLETE")


async def test_a_claimed_trajectory_comes_back_though_it_grew_incomplete(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    messages.append(await turn(live, "a", messages))
    [one] = await claim(live)
    messages.append({"role": "user", "content": "More"})
    await turn(live, "a", messages, best_of=2)
    assert await claim(live) == []
    assert await settle(live, "release", [one]) == []
    [again] = await claim(live)
    assert again["token_ids"] == one["token_ids"]
    [rest] = await claim(live, filter={**NOW, "allow_incomplete": True})
    assert rest["loss_mask"][: len(one["loss_mask"])] == [0] * len(one["loss_mask"])
    assert sum(rest["loss_mask"]) == 3


async def test_stale_trajectories_are_not_handed_out(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "unknown")
    answer = await live.client.post(
        "/trajectories/claim", json={"filter": {**NOW, "max_staleness": 1}}
    )
    assert error_of(answer) == (400, "invalid_request", "filter.max_staleness")
    for version in (1, 2, 3):
        await live.client.post("/admin/weight_version", json={"weight_version": version})
        await call(live, f"v{version}")
    newest = await claim(live, filter=NOW, order="version", n=1)
    assert [one["session_id"] for one in newest] == ["v3"]
    assert await settle(live, "release", newest) == []
    found = await ask(live, "claim", n=9, filter={**NOW, "max_staleness": 1})
    assert [one["session_id"] for one in found["claims"]] == ["v2", "v3"]
    assert (found["weight_version"], found["dropped"], found["more"]) == (3, 0, False)
    assert await claim(live, filter={**NOW, "min_weight_version": 2}) == []
    found = await ask(live, "claim", filter={**NOW, "min_weight_version": 2}, drop_stale=True)
    assert (found["claims"], found["dropped"]) == ([], 1)
    assert [one["session_id"] for one in await claim(live)] == ["unknown"]
    answer = await live.client.post("/trajectories/claim", json={"drop_stale": True})
    assert error_of(answer) == (400, "invalid_request", "drop_stale")


async def test_a_key_claims_what_its_own_sessions_have(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, ByName)
    for name in ("maker", "other"):
        await call(named(live, name), f"of-{name}")
    [mine] = await claim(live)
    assert mine["session_id"] == "of-other"
    named(live, "maker")
    answer = await live.client.post("/trajectories/claim", json={"filter": {"principal": "other"}})
    assert error_of(answer) == (403, "permission_denied", "filter.principal")
    for what in ("ack", "release", "extend"):
        assert await settle(live, what, [mine]) == ["claim_unknown"]
    named(live, "auditor")
    assert await claim(live, filter={**NOW, "principal": "other"}) == []
    [other] = await claim(live, filter={**NOW, "principal": "maker"})
    assert other["session_id"] == "of-maker"
    assert await settle(live, "ack", [mine, other]) == []


async def test_a_deleted_session_takes_its_claims_along(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    [one] = await claim(live)
    await live.client.delete("/sessions/a")
    assert await settle(live, "ack", [one]) == ["claim_unknown"]
    await call(live, "a")
    [again] = await claim(live)
    assert again["trace_ids"] != one["trace_ids"]
    assert await settle(live, "ack", [again]) == []


async def test_gateways_that_share_a_file_hand_each_trajectory_out_once(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    gateways = [await capturing(gateway_for, tmp_path) for _ in range(2)]
    for number in range(12):
        await call(gateways[number % 2], f"s{number}")
    found = await asyncio.gather(*(claim(gateways[turn % 2], n=3) for turn in range(6)))
    got = [one["session_id"] for claims in found for one in claims]
    got += [one["session_id"] for one in await claim(gateways[0])]
    assert sorted(got) == sorted(f"s{number}" for number in range(12))
    for place, claims in enumerate(found):
        assert await settle(gateways[place // 3], "ack", claims) == []


async def test_older_file_hands_over_what_it_has(gateway_for: GatewayFor, tmp_path: Path) -> None:
    (tmp_path / "traces.db").write_bytes((SUPPORT / "data" / "database-5e2878d.db").read_bytes())
    live = await capturing(gateway_for, tmp_path)
    there = (await live.client.get("/sessions")).json()
    found = await claim(live, filter={**NOW, "allow_incomplete": True})
    for one in there:
        path = f"/sessions/{quote(one['session_id'], safe='')}/trajectories"
        branches = (await live.client.get(path)).json()["trajectories"]
        mine = [one_ for one_ in found if one_["session_id"] == one["session_id"]]
        assert [one_["token_ids"] for one_ in sorted(mine, key=index_of)] == [
            branch["token_ids"] for branch in branches
        ]
    assert len(found) > 0


def index_of(one: Any) -> int:
    return int(one["index"])


@pytest.mark.parametrize(
    ("module", "name", "most"), [(reading, "MAX_BYTES", 2_000), (claiming, "MAX_TOKENS", 30)]
)
async def test_responses_are_bounded(
    gateway_for: GatewayFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    most: int,
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for number in range(4):
        body = {"session_id": f"s{number}", "metadata": {"note": "x" * 500}}
        await live.client.post("/sessions", json=body)
        await call(live, f"s{number}")
    monkeypatch.setattr(module, name, most)
    found = await ask(live, "claim", n=9, filter=NOW)
    assert found["more"]
    assert 1 <= len(found["claims"]) < 4
    monkeypatch.setattr(module, name, 1)
    [one] = (await ask(live, "claim", n=9, filter=NOW))["claims"]
    monkeypatch.undo()
    rest = (await ask(live, "claim", n=9, filter=NOW))["claims"]
    got = [one["session_id"] for one in [*found["claims"], one, *rest]]
    assert sorted(got) == ["s0", "s1", "s2", "s3"]


async def test_leases_are_bounded(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    for body, param in (
        ({"lease": 3601}, "lease"),
        ({"lease": 0}, "lease"),
        ({"n": 0}, "n"),
        ({"n": 1001}, "n"),
        ({"order": "size"}, "order"),
        ({"filter": {"models": "x"}}, "filter.models"),
        ({"filter": {"metadata": {"step": 1 << 70}}}, "filter.metadata[...]"),
    ):
        answer = await live.client.post("/trajectories/claim", json=body)
        assert error_of(answer)[::2] == (400, param), answer.text
    answer = await live.client.post("/trajectories/extend", json={"receipts": [], "lease": 4000})
    assert error_of(answer)[::2] == (400, "lease")

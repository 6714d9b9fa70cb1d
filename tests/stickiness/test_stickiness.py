"""Which worker gets a call: by session, while workers come, go, fail and are busy."""

from collections import Counter
from collections.abc import Sequence
from types import CoroutineType
from urllib.parse import quote

import pytest
from gateway_plugins.stickiness import Stickiness
from support.plugins.hook_probes import Keys

from gateway import ConfigError, Gateway, Worker, config
from gateway.config import Failover
from gateway.plugins.loader import Plugins
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry, make_call

FLEET = tuple(config.Worker(url=f"http://gpu-{number}:8000") for number in range(6))
SESSIONS = [f"agent/{number}" for number in range(60)]
POLICIES = ["consistent_hash", "least_loaded", "power_of_two", "round_robin"]


async def pick(
    live: Live, session_id: str | None, among: Sequence[Worker] | None = None, **body: object
) -> Worker | None:
    """As the core would ask; the workers are those that are fit."""
    call = make_call(body, session_id=session_id)
    workers = live.gateway.workers
    given = workers.serving(call.model if workers.mixed else None).fit if among is None else among
    picked = live.gateway.chains.picked_worker(call, given)
    return await picked if isinstance(picked, CoroutineType) else picked


def named_at(worker_id: str, url: str) -> config.Worker:
    """Of that id whatever the port, so that the ring is the same in each run."""
    return config.Worker(url=url, worker_id=worker_id)


async def homes(live: Live) -> dict[str, str]:
    """The worker of each session."""
    found = {}
    for session_id in SESSIONS:
        worker = await pick(live, session_id)
        assert worker is not None
        found[session_id] = worker.id
    return found


def named(live: Live, worker_id: str) -> Worker:
    worker = live.gateway.workers.find(worker_id)
    assert worker is not None
    return worker


def fill(live: Live, count: int) -> None:
    """So many attempts in flight at each worker."""
    for worker in live.gateway.workers.all:
        for _ in range(count - worker.in_flight):
            worker.begin()


# over real sockets


async def test_stickiness_sends_all_calls_of_a_session_to_one_worker(
    gateway_for: GatewayFor,
) -> None:
    async with Simulator() as one, Simulator() as other:
        workers = [named_at("one", one.url), named_at("other", other.url)]
        live = await gateway_for("sessions", "stickiness", workers=workers)
        turns = []
        for _ in range(2):
            ids = [quote(session_id, safe="") for session_id in SESSIONS[:8]]
            paths = [f"/sessions/{session_id}/v1/chat/completions" for session_id in ids]
            answers = [await live.client.post(path) for path in paths]
            turns.append([answer.headers["x-gateway-worker"] for answer in answers])
        assert turns[0] == turns[1]
        assert len(set(turns[0])) == 2


async def test_fault_5_stickiness_moves_a_dead_worker_s_session_along_the_ring(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with Simulator() as other:
        workers = [
            named_at("dead", "http://127.0.0.1:1"),
            named_at("one", simulator.url),
            named_at("other", other.url),
        ]
        live = await gateway_for("stickiness", workers=workers, failover=Failover(max_workers=2))
        heirs = set()
        for session_id in SESSIONS[:30]:
            answer = await live.client.get("/v1/models", headers={"x-session-id": session_id})
            route = await live.client.get("/admin/route", params={"header": session_id})
            first, second = [one["worker_id"] for one in route.json()["candidates"]][:2]
            served = answer.headers["x-gateway-worker"]
            assert served == (second if first == "dead" else first)
            heirs |= {served} if first == "dead" else set()
        assert len(heirs) == 2, "its sessions go to all the others"


@pytest.mark.parametrize("policy", POLICIES)
async def test_stickiness_picks_a_worker_for_a_body_that_is_no_json(
    gateway_for: GatewayFor, policy: str
) -> None:
    live = await gateway_for(entry("stickiness", policy=policy))
    answer = await live.client.post("/v1/chat/completions", content=b"no json")
    assert answer.status_code == 400
    assert answer.headers["x-gateway-worker"], "it is the worker's own refusal"


# workers that come and go


@pytest.mark.parametrize("policy", ["consistent_hash", "least_loaded"])
async def test_stickiness_moves_only_the_sessions_of_an_unfit_worker(
    gateway_for: GatewayFor, policy: str
) -> None:
    live = await gateway_for(entry("stickiness", policy=policy), workers=FLEET)
    before = await homes(live)
    assert await homes(live) == before
    unfit = before[SESSIONS[0]]
    named(live, unfit).mark("test", "down", "for the test")
    during = await homes(live)
    assert unfit not in during.values()
    moved = {session_id for session_id in SESSIONS if before[session_id] != during[session_id]}
    assert moved == {session_id for session_id in SESSIONS if before[session_id] == unfit}
    named(live, unfit).clear("test")
    comes_back = policy == "consistent_hash"  # a pinned session stays with its new cache
    assert await homes(live) == (before if comes_back else during)


async def test_stickiness_restores_sessions_to_a_worker_added_again(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("stickiness", workers=FLEET)
    before = await homes(live)
    gone = FLEET[2]
    live.gateway.workers.remove(gone.worker_id)
    assert gone.worker_id not in (await homes(live)).values()
    live.gateway.workers.add(gone)
    assert await homes(live) == before, "the order in which they came does not matter"


async def test_stickiness_moves_a_session_in_the_order_of_the_candidates(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("stickiness", workers=FLEET)
    left = list(live.gateway.workers.all)
    route = (await live.client.get("/admin/route?session=a")).json()
    order = [one["worker_id"] for one in route["candidates"]]
    picked = []
    while left:
        worker = await pick(live, "a", left)
        assert worker is not None
        left.remove(worker)
        picked.append(worker.id)
    assert picked == order


@pytest.mark.parametrize("policy", POLICIES)
async def test_stickiness_picks_only_among_the_given_workers(
    gateway_for: GatewayFor, policy: str
) -> None:
    live = await gateway_for(entry("stickiness", policy=policy), workers=FLEET)
    given = list(live.gateway.workers.all[1:3])
    assert {await pick(live, session_id, given) for session_id in SESSIONS} == set(given)


@pytest.mark.parametrize("policy", ["consistent_hash", "least_loaded", "round_robin"])
async def test_stickiness_picks_only_workers_of_the_call_s_model(
    gateway_for: GatewayFor, policy: str
) -> None:
    workers = [
        config.Worker(url=f"http://{model}{number}", models=(model,))
        for model in "ab"
        for number in range(3)
    ]
    live = await gateway_for(entry("stickiness", policy=policy), workers=workers)
    for model in "ab":
        picked = [await pick(live, session_id, model=model) for session_id in SESSIONS]
        assert {worker.url[:-1] for worker in picked if worker} == {f"http://{model}"}


# busy workers


async def test_stickiness_spills_from_a_busy_worker_to_the_next_and_back(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("stickiness", spill_above=3), workers=FLEET)
    home = await pick(live, "a")
    assert home is not None
    for _ in range(3):
        assert await pick(live, "a") is home
        home.begin()
    following = await pick(live, "a")
    assert following is not home
    assert {await pick(live, "a") for _ in range(5)} == {following}, "to one other, not to all"
    home.end()
    assert await pick(live, "a") is home


async def test_stickiness_keeps_a_hot_key_within_each_worker_s_bound(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("stickiness", spill_above=0), workers=FLEET)
    for total in range(300):
        worker = await pick(live, "hot")
        assert worker is not None
        worker.begin()
        most = max(one.in_flight for one in live.gateway.workers.all)
        assert most < 1.25 * (total + 1) / 6 + 1
    busy = [worker for worker in live.gateway.workers.all if worker.in_flight]
    assert len(busy) == 5, "no more than it takes: five bounds are 1.04 times all"


async def test_stickiness_bound_is_proportional_to_the_worker_s_weight(
    gateway_for: GatewayFor,
) -> None:
    workers = [config.Worker(url=f"http://w{weight}", weight=weight) for weight in (100.0, 300.0)]
    live = await gateway_for("stickiness", workers=workers)
    route = (await live.client.get("/admin/route?session=a")).json()
    bounds = {one["worker_id"]: one["bound"] for one in route["candidates"]}
    assert bounds == {"w100.0:80": 4.0, "w300.0:80": 12.0}


async def test_stickiness_keeps_a_session_at_home_if_no_worker_is_below_its_bound(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("stickiness", workers=FLEET)
    home = await pick(live, "a")
    others = [worker for worker in live.gateway.workers.all if worker is not home]
    fill(live, 40)
    assert home is not None
    for _ in range(40):
        home.begin()
    assert await pick(live, "a") is not home
    assert await pick(live, "a", [home]) is home, "a call is never kept waiting by it"
    for worker in others:
        worker.mark("test", "down", "for the test")
    assert await pick(live, "a") is home


async def test_stickiness_never_spills_without_a_load_factor(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("stickiness", load_factor=None), workers=FLEET)
    home = await pick(live, "a")
    assert home is not None
    for _ in range(100):
        home.begin()
    assert await pick(live, "a") is home
    route = (await live.client.get("/admin/route?session=a")).json()
    assert (route["chosen"], route["candidates"][0]["bound"]) == (home.id, None)


async def test_least_loaded_sends_new_sessions_to_the_least_loaded_worker(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("stickiness", policy="least_loaded"), workers=FLEET)
    await pick(live, "old")
    fill(live, 3)
    idle = live.gateway.workers.all[4]
    idle.end()
    assert {await pick(live, session_id) for session_id in SESSIONS} == {idle}
    assert await pick(live, None) is None, "what has no key is left to the core"


@pytest.mark.parametrize("policy", POLICIES)
async def test_stickiness_takes_the_only_worker_and_remembers_it_as_any_other(
    gateway_for: GatewayFor, policy: str
) -> None:
    live = await gateway_for(entry("stickiness", policy=policy), workers=FLEET)
    chosen = live.gateway.workers.all[3]
    for session_id in SESSIONS:
        assert await pick(live, session_id, [chosen]) is chosen
    stay = {await pick(live, session_id) for session_id in SESSIONS} == {chosen}
    assert stay == (policy == "least_loaded")


async def test_power_of_two_picks_the_less_loaded_of_two_workers(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("stickiness", policy="power_of_two"), workers=FLEET)
    for number, worker in enumerate(live.gateway.workers.all):
        for _ in range(number):
            worker.begin()
    picked = Counter([await pick(live, "a") for _ in range(600)])
    counts = [picked[worker] for worker in live.gateway.workers.all]
    assert counts[5] == 0, "one is less loaded than it, whichever"
    assert counts[0] > counts[4] > 0
    busy_and_idle = live.gateway.workers.all[1::-1]
    picked = Counter([await pick(live, "a", busy_and_idle) for _ in range(50)])
    assert picked == {busy_and_idle[1]: 50}


# GET /admin/route


async def test_admin_route_explains_the_choice_of_a_worker(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("stickiness", spill_above=1), workers=FLEET)
    before = (await live.client.get("/admin/route?session=a")).json()
    first, second, third, *_ = [one["worker_id"] for one in before["candidates"]]
    assert before["chosen"] == first
    named(live, first).mark("test", "draining", "for the test")
    named(live, second).begin()
    named(live, second).begin()
    after = (await live.client.get("/admin/route?session=a")).json()
    worker = await pick(live, "a")
    assert worker is not None
    assert after["chosen"] == third == worker.id
    assert (after["policy"], after["kind"], after["key"]) == ("consistent_hash", "session", "a")
    assert int(after["hash"], 16) == int(before["hash"], 16)
    assert after["candidates"][:3] == [
        {
            "worker_id": first,
            "fit": False,
            "state": "draining",
            "in_flight": 0,
            "bound": 1.0,
            "skipped": "it is not fit",
        },
        {
            "worker_id": second,
            "fit": True,
            "state": "up",
            "in_flight": 2,
            "bound": 1.0,
            "skipped": "it has as many in flight as its bound allows",
        },
        {
            "worker_id": third,
            "fit": True,
            "state": "up",
            "in_flight": 0,
            "bound": 1.0,
            "skipped": None,
        },
    ]


async def test_admin_route_accepts_every_kind_of_key(gateway_for: GatewayFor) -> None:
    live = await gateway_for("stickiness", workers=FLEET)
    for asked, kind, key in [
        ("session=a", "session", "a"),
        ("key=a", "session", "a"),
        ("key=a&kind=field:user", "field:user", "a"),
        ("header=a", "header", "a"),
        ("prompt=%20Once+upon", "prefix", "once upon"),
    ]:
        route = (await live.client.get(f"/admin/route?{asked}")).json()
        assert (route["kind"], route["key"]) == (kind, key)
    user = (await live.client.get("/admin/route?key=a&kind=field:user")).json()
    worker = await pick(live, None, user="a")
    assert worker is not None
    assert user["chosen"] == worker.id


@pytest.mark.parametrize("asked", ["", "key=", "session=a&header=b", "kind=session", "prompt=+"])
async def test_admin_route_rejects_a_request_without_exactly_one_key(
    gateway_for: GatewayFor, asked: str
) -> None:
    live = await gateway_for("stickiness")
    refused = await live.client.get(f"/admin/route?{asked}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "key")


async def test_admin_route_returns_404_for_a_model_without_workers(gateway_for: GatewayFor) -> None:
    workers = [config.Worker(url=f"http://{model}", models=(model,)) for model in "ab"]
    live = await gateway_for("stickiness", workers=workers)
    assert (await live.client.get("/admin/route?key=x&model=c")).status_code == 404
    route = (await live.client.get("/admin/route?key=x&model=b")).json()
    assert [one["worker_id"] for one in route["candidates"]] == ["b:80"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_admin_route_does_not_change_the_choice_of_a_worker(
    gateway_for: GatewayFor, policy: str
) -> None:
    live = await gateway_for(entry("stickiness", policy=policy), workers=FLEET)
    asked = [(await live.client.get("/admin/route?session=a")).json() for _ in range(2)]
    assert asked[0] == asked[1]
    assert asked[0]["policy"] == policy
    await pick(live, "a")
    for worker in live.gateway.workers.all:
        worker.mark("test", "down", "for the test")
    route = (await live.client.get("/admin/route?session=a")).json()
    assert (route["chosen"], route["why"]) == (None, "no worker is fit")


async def test_admin_route_explains_the_choice_for_a_pinned_session(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(entry("stickiness", policy="least_loaded"), workers=FLEET)
    pinned = await pick(live, "a")
    assert pinned is not None
    for _ in range(5):
        pinned.begin()
    route = (await live.client.get("/admin/route?session=a")).json()
    assert (route["chosen"], route["why"]) == (pinned.id, "the one that it is pinned to")
    assert route["candidates"][0]["worker_id"] == pinned.id
    pinned.mark("test", "ejected", "for the test")
    route = (await live.client.get("/admin/route?session=a")).json()
    worker = await pick(live, "a")
    assert worker is not None
    assert route["chosen"] != pinned.id
    assert route["candidates"][0]["skipped"] == "it is not fit"


async def test_admin_route_requires_an_admin_key(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry(Keys, key="a"), "stickiness")
    assert (await live.client.get("/admin/route?session=a")).status_code == 401


# options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("policy", "random"),
        ("load_factor", 1),
        ("spill_above", -1),
        ("prefix_chars", -1),
        ("max_sessions", 0),
        ("ttl", 0),
        ("header", "x y"),
        ("fields", [""]),
        ("filds", []),
    ],
)
def test_stickiness_config_error_names_the_wrong_option(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"stickiness.{option}"):
        Plugins([entry("stickiness", **{option: value})])


async def test_stickiness_unsubscribes_from_worker_changes_at_shutdown() -> None:
    gateway = Gateway(config.Config(plugins=(entry("stickiness"),)))
    before = list(gateway.workers.changed)
    async with gateway:
        assert len(gateway.workers.changed) > len(before)
    assert gateway.workers.changed == before


async def test_stickiness_keeps_its_pins_if_options_change(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("stickiness", policy="least_loaded"), workers=FLEET)
    before = await homes(live)
    plugin = live.plugin(Stickiness)
    plugin.reconfigure(Stickiness.Config(policy="consistent_hash", header="x-agent"))
    plugin.reconfigure(Stickiness.Config(policy="least_loaded", header="x-agent"))
    assert await homes(live) == before

"""Calls about an object that one worker keeps go to that worker."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from gateway import Call, Principal, Worker, hookimpl
from gateway.fleet.keepers import Kept
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of, sse


class Server:
    """Makes objects and keeps them, as an engine with a store does; knows no others."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.busy = self.hangs = False

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            method, target = head.decode().split(" ")[:2]
            self.asked[f"{method} {target}"] += 1
            if self.hangs:
                await asyncio.Event().wait()
            await connection.write(self._answer(method, target, body))

    def _answer(self, method: str, target: str, body: bytes) -> bytes:
        if self.busy:
            return answer_of(b"busy", status="503 Service Unavailable")
        parts = target.partition("?")[0].split("/")
        collection, id_ = "/".join(parts[:3]), parts[3:4]
        read = json.loads(body) if body.startswith(b"{") else {}
        named = [*id_, *map(read.get, ("previous_response_id", "input_file_id", "conversation"))]
        if any(one is not None and one not in self.kept for one in named):
            return answer_of(b'{"error": {"message": "not found"}}', status="404 Not Found")
        if id_ or method != "POST":
            return answer_of(json.dumps({"at": self.name}).encode())
        made = f"{collection[4:]}_{self.name}{len(self.kept)}"
        self.kept.add(made)
        told = {"object": "x", "output": [{"id": "msg_1"}], "id": made, "at": self.name}
        if not read.get("stream"):
            return answer_of(json.dumps(told).encode())
        first = {"type": "response.created", "response": {"id": made, "at": self.name}}
        return answer_of(sse(first), content_type="text/event-stream")


class ByName:
    """A caller's key is the principal's id."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name = (call.header("authorization") or "").removeprefix("Bearer ")
        return Principal(name, frozenset({"realtime", "upload", "batch"})) if name else None


class Fleet(msgspec.Struct, frozen=True):
    live: Live
    servers: Sequence[Server]

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.live.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def at(self, path: str) -> str:
        """The worker that answers a GET."""
        answer = await self.live.client.get(path)
        assert answer.status_code == 200, answer.text
        at: str = answer.json()["at"]
        return at

    def forget(self) -> None:
        """As after a restart."""
        self.live.gateway.workers.keepers._known.clear()


@asynccontextmanager
async def fleet(
    gateway_for: GatewayFor, *plugins: str | type, count: int = 3
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        servers = [Server("abcdef"[place]) for place in range(count)]
        urls = [(await stack.enter_async_context(ScriptedWorker(one))).url for one in servers]
        yield Fleet(await gateway_for(*plugins, workers=urls), servers)


@pytest.mark.parametrize("plugins", [(), ("sessions", "trace_capture", "stickiness")])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_response_goes_on_at_the_worker_that_made_it(
    gateway_for: GatewayFor, plugins: tuple[str, ...], forgotten: bool
) -> None:
    async with fleet(gateway_for, *plugins) as found:
        for _ in range(6):
            made = await found.post("/v1/responses", input="hi")
            if forgotten:
                found.forget()
            more = await found.post("/v1/responses", previous_response_id=made["id"])
            assert more["at"] == made["at"]
            path = f"/v1/responses/{made['id']}"
            for part in ("", "/input_items", "?stream=true"):
                assert await found.at(path + part) == made["at"]
            assert (await found.live.client.post(f"{path}/cancel")).json()["at"] == made["at"]
            assert (await found.live.client.delete(path)).json()["at"] == made["at"]


async def test_other_objects_stay_at_the_worker_that_made_them(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for) as found:
        for _ in range(4):
            file = await found.post("/v1/files")
            assert await found.at(f"/v1/files/{file['id']}/content") == file["at"]
            batch = await found.post("/v1/batches", input_file_id=file["id"])
            assert batch["at"] == file["at"]
            assert await found.at(f"/v1/batches/{batch['id']}") == file["at"]
            video = await found.post("/v1/videos")
            assert await found.at(f"/v1/videos/{video['id']}/content") == video["at"]
            talk = await found.post("/v1/conversations")
            said = await found.post("/v1/responses", conversation=talk["id"])
            assert said["at"] == talk["at"]


async def test_streamed_response_is_known_by_its_first_event(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for) as found:
        for _ in range(4):
            answer = await found.live.client.post("/v1/responses", json={"stream": True})
            made = json.loads(answer.text.partition("data: ")[2])["response"]
            before = sum(server.asked.total() for server in found.servers)
            more = await found.post("/v1/responses", previous_response_id=made["id"])
            assert more["at"] == made["at"]
            assert sum(server.asked.total() for server in found.servers) == before + 1


async def test_object_is_found_though_another_worker_does_not_answer(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for) as found:
        made = await found.post("/v1/responses", input="hi")
        found.forget()
        for server in found.servers:
            server.hangs = server.name != made["at"]
        async with asyncio.timeout(3):
            assert await found.at(f"/v1/responses/{made['id']}") == made["at"]


async def test_object_that_nobody_keeps_is_the_workers_to_deny(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for) as found:
        answer = await found.live.client.post(
            "/v1/responses", json={"previous_response_id": "resp_none"}
        )
        assert answer.status_code == 404
        asked = [server.asked["GET /v1/responses/resp_none"] for server in found.servers]
        assert asked == [1, 1, 1]


async def test_calls_about_no_object_are_asked_of_nobody_beforehand(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for) as found:
        await found.post("/v1/responses", input="hi", previous_response_id=None)
        await found.live.client.post("/v1/responses/render", json={})
        await found.live.client.get("/v1/files")
        await found.live.client.post("/v1/embeddings", json={"previous_response_id": "resp_1"})
        assert sum(server.asked.total() for server in found.servers) == 4


async def test_call_waits_for_no_other_worker_if_its_keeper_is_unfit(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for) as found:
        made = await found.post("/v1/responses", input="hi")
        [keeper] = [one for one in found.live.gateway.workers.all if _is(found, one, made["at"])]
        await found.live.client.post(f"/admin/workers/{keeper.id}/drain")
        assert keeper.absence.since is not None
        keeper.absence.since -= 7.5
        answer = await found.live.client.get(f"/v1/responses/{made['id']}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
        assert answer.headers["retry-after"] == "8"
        await found.live.client.delete(f"/admin/workers/{keeper.id}")
        answer = await found.live.client.get(f"/v1/responses/{made['id']}")
        assert answer.status_code == 404  # a worker's


async def test_refusal_of_the_keeper_is_the_answer_and_nobody_else_is_asked(
    gateway_for: GatewayFor,
) -> None:
    async with fleet(gateway_for, "backpressure") as found:
        made = await found.post("/v1/responses", input="hi")
        [keeper] = [server for server in found.servers if server.name == made["at"]]
        keeper.busy = True
        asked = sum(server.asked.total() for server in found.servers)
        answer = await found.live.client.get(f"/v1/responses/{made['id']}")
        assert (answer.status_code, answer.text) == (503, "busy")
        assert sum(server.asked.total() for server in found.servers) == asked + 1


def _is(found: Fleet, worker: Worker, name: str) -> bool:
    return found.live.gateway.workers.all["abc".index(name)] is worker


async def test_object_of_one_key_does_not_exist_for_another(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for, ByName) as found:
        client = found.live.client
        client.headers["authorization"] = "Bearer maker"
        made = await found.post("/v1/responses", input="hi")
        client.headers["authorization"] = "Bearer other"
        for answer in (
            await client.get(f"/v1/responses/{made['id']}"),
            await client.post("/v1/responses", json={"previous_response_id": made["id"]}),
        ):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"
        client.headers["authorization"] = "Bearer maker"
        assert await found.at(f"/v1/responses/{made['id']}") == made["at"]


async def test_single_worker_is_asked_as_without_a_gateway(gateway_for: GatewayFor) -> None:
    async with fleet(gateway_for, count=1) as found:
        await found.live.client.get("/v1/responses/resp_none")
        assert found.servers[0].asked == {"GET /v1/responses/resp_none": 1}


async def test_keepers_remember_a_bounded_number_of_objects(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.keepers.MAX_KEPT", 2)
    async with fleet(gateway_for) as found:
        keepers = found.live.gateway.workers.keepers
        for name in ("/v1/files/1", "/v1/files/2"):
            keepers.put(name, Kept("a"))
        assert await keepers.find("/v1/files/1", ()) == Kept("a")
        keepers.put("/v1/files/3", Kept("b"))
        known = [await keepers.find(f"/v1/files/{number}", ()) for number in (1, 2, 3)]
        assert known == [Kept("a"), None, Kept("b")]

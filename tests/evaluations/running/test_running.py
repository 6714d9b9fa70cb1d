"""Jobs that run: what reaches the engine and `score`, and what becomes of each evaluation."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.evaluations import Evaluations
from support.evaluations.repositories import PLAIN, Folder, ended, started, submit
from support.gateways.batch_doors import Badges, badge
from support.plugins.recording_plugin import until

from gateway import LINKED, Call, Principal, hookimpl
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

AS_WRITTEN = """
REQUESTS = [
    {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "_dataset": {"a": [1, None]},
     "response_format": {"type": "text"}, "frequency_penalty": 0.5, "tools": [], "seed": 1},
    {"prompt": [1, 2, 3], "max_tokens": 0, "echo": True, "logprobs": 1, "_ruler": "x"},
]

def prepare_requests(model_name):
    return {"requests": REQUESTS, "metadata": {"kept": [1.5]}}

def score_results(requests, responses, metadata):
    same = requests == REQUESTS and metadata == {"kept": [1.5]}
    return {"metrics": {"same": int(same), "n": len(responses)}, "details": {}}
"""


class Engine:
    """A worker that keeps the bodies of what it gets; those that contain `bad` are refused."""

    def __init__(self, bad: bytes = b"\\0") -> None:
        self.bodies: list[Any] = []
        self.most = 0
        self.now = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._bad = bad

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if not request:
                return
            body = request.partition(b"\r\n\r\n")[2]
            if not body:  # how busy it is, which it does not tell
                await connection.write(answer_of(b"", status="404 Not Found"))
                continue
            self.bodies.append(json.loads(body))
            self.now += 1
            self.most = max(self.most, self.now)
            await self.gate.wait()
            self.now -= 1
            if self._bad in body:
                await connection.write(
                    answer_of(b'{"error": {"message": "bad"}}', status="400 Bad Request")
                )
            else:
                answer = {"id": "x", "choices": [], "of": self.bodies[-1].get("prompt")}
                await connection.write(answer_of(json.dumps(answer).encode()))


async def test_fault_11_8_requests_reach_the_engine_and_score_as_written(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await started(
            gateway_for, Folder(tmp_path).add("one", AS_WRITTEN), workers=[worker.url]
        )
        record = await ended(live, await submit(live, "one"))
    assert record["eval_status"]["one"]["results"] == {"same": 1, "n": 2}
    chat = {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 3,
        "response_format": {"type": "text"},
        "frequency_penalty": 0.5,
        "tools": [],
        "seed": 1,
        "model": "sim",
    }
    likelihood = {"prompt": [1, 2, 3], "max_tokens": 0, "echo": True, "logprobs": 1, "model": "sim"}
    assert sorted(engine.bodies, key=len) == sorted([chat, likelihood], key=len)


async def test_fault_11_9_reasoning_raises_tokens_of_generations_only(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        folder = Folder(tmp_path).add("one", AS_WRITTEN)
        live = await started(
            gateway_for, folder, workers=[worker.url], models=str(tmp_path / "hub")
        )
        first = await ended(live, await submit(live, "one", reasoning=True))
        snapshot = tmp_path / "hub/models--sim/snapshots/main"
        snapshot.mkdir(parents=True)
        (snapshot / "chat_template.jinja").write_text("{{ '<think>' }}")
        (snapshot / "config.json").write_text("{}")
        second = await ended(live, await submit(live, "one"))
    told = [one["metadata"]["reasoning_model"] for one in (first, second)]
    assert told == [True, True]
    tokens = [(body["max_tokens"], "echo" in body) for body in engine.bodies]
    assert sorted(tokens) == [(0, True)] * 2 + [(8192, False)] * 2
    assert all(body["logprobs"] == 1 for body in engine.bodies if "echo" in body)
    assert all(one["eval_status"]["one"]["results"]["same"] == 1 for one in (first, second))


async def test_fault_11_10_concurrency_is_that_of_the_metadata(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    engine.gate.clear()
    folder = Folder(tmp_path).add("one", eval_toml="[eval]\nmax_concurrency = 2\n")
    async with ScriptedWorker(engine) as worker:
        live = await started(gateway_for, folder, workers=[worker.url])
        job_id = await submit(live, "one", prepare_args={"max_prompts": 7})
        await until(lambda: engine.now == 2)
        page = (await live.client.get(f"/eval/{job_id}/items?state=waiting")).json()
        assert [one["index"] for one in page["items"]] == [2, 3, 4, 5, 6]
        engine.gate.set()
        record = await ended(live, job_id)
    assert record["eval_status"]["one"]["progress"] == "7/7"
    assert engine.most == 2


BROKEN = "raise RuntimeError('no such data')"


async def test_fault_11_6_each_evaluation_has_a_status_and_its_reason(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path).add("good").add("broken", BROKEN)
    folder.add("empty", PLAIN.replace("max_prompts=4", "max_prompts=0"))
    live = await started(gateway_for, folder)
    record = await ended(live, await submit(live, "broken", "good", "empty"))
    assert record["status"] == "completed"
    assert record["error"] == "2 of 3 evaluations failed: broken, empty"
    told = {name: one["status"] for name, one in record["eval_status"].items()}
    assert told == {"broken": "failed", "good": "completed", "empty": "failed"}
    assert "RuntimeError: no such data" in record["eval_status"]["broken"]["error"]
    assert "there are 0 requests" in record["eval_status"]["empty"]["error"]
    alone = await ended(live, await submit(live, "broken"))
    assert (alone["status"], alone["error"]) == ("failed", "1 of 1 evaluations failed: broken")


async def test_fault_11_5_nothing_of_evaluations_that_end_together_is_lost(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    names = [f"e{number}" for number in range(3)]
    folder = Folder(tmp_path / "repository")
    for name in names:
        folder.add(name)
    live = await started(gateway_for, folder, folder=str(tmp_path / "files"))
    record = await ended(live, await submit(live, *names))
    told = {name: one["results"] for name, one in record["eval_status"].items()}
    assert told == {name: {"share": 1.0} for name in names}
    lines = (tmp_path / "files/results/sim/results.jsonl").read_text().splitlines()
    assert sorted(json.loads(one)["eval_name"] for one in lines) == names


async def test_fault_11_11_jobs_of_one_second_have_folders_of_their_own(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "repository").add("one")
    live = await started(gateway_for, folder, folder=str(tmp_path / "files"))
    ids = [await submit(live, "one") for _ in range(2)]
    folders = [Path((await ended(live, one))["results_folder"]) for one in ids]
    assert len(set(folders)) == 2
    for job_id, place in zip(ids, folders, strict=True):
        assert json.loads((place / "one_results.json").read_text())["job_id"] == job_id


async def test_fault_11_12_nothing_is_written_outside_the_folder(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    folder = Folder(tmp_path / "repository").add("one")
    live = await started(gateway_for, folder, folder=str(tmp_path / "files"))
    await ended(live, await submit(live, "one"))
    left = [one for one in (tmp_path / "tmp").iterdir() if not one.name.startswith("gateway-")]
    assert left == []  # the database is one of "gateway-"


ODD = PLAIN.replace('"Say {n}"', '"Say {n}" + ("bad" if n % 3 == 1 else "")').replace(
    '"details": {}',
    '"details": {"errors": [r.get("error") for r in responses],'
    ' "ofs": [r.get("of") for r in responses], "nan": float("nan"), "inf": 1e999}',
)


@pytest.mark.slow
async def test_responses_keep_the_places_of_their_requests(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine(b"bad")
    async with ScriptedWorker(engine) as worker:
        live = await started(gateway_for, Folder(tmp_path).add("one", ODD), workers=[worker.url])
        job_id = await submit(live, "one", prepare_args={"max_prompts": 5})
        status = (await ended(live, job_id))["eval_status"]["one"]
        items = (await live.client.get(f"/eval/{job_id}/items?eval=one&limit=2")).json()
    assert status["results"] == {"share": 0.6}
    assert (status["progress"], status["failed"]) == ("5/5", 2)
    details = status["details"]
    assert details["errors"] == [None, "bad", None, None, "bad"]
    assert details["ofs"] == ["Say 0", None, "Say 2", "Say 3", None]
    assert (details["nan"], details["inf"]) == (None, None)
    errors = details["http_errors"]
    assert (errors["total_errors"], errors["by_code"], errors["by_type"]) == (
        2,
        {"400": 2},
        {"400": 2},
    )
    assert errors["examples"][0] == {
        "index": 1,
        "error": "bad",
        "error_code": 400,
        "error_type": "400",
    }
    assert [(one["state"], one["status"]) for one in items["items"]] == [
        ("completed", 200),
        ("failed", 400),
    ]
    assert items["after"] == 1


async def test_evaluation_without_any_response_fails(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine(b"Say")
    async with ScriptedWorker(engine) as worker:
        live = await started(gateway_for, Folder(tmp_path).add("one"), workers=[worker.url])
        job_id = await submit(live, "one")
        record = await ended(live, job_id)
        assert record["status"] == "failed"
        assert "none of 4 items has a response: bad" in record["eval_status"]["one"]["error"]
        engine._bad = b"\\0"
        resumed = await live.client.post(f"/eval/{job_id}/resume")
        assert resumed.json()["status"] == "running"
        again = await ended(live, job_id)
        assert again["eval_status"]["one"]["results"] == {"share": 1.0}
        assert (await live.client.post(f"/eval/{job_id}/resume")).status_code == 409


async def test_fault_11_15_rescore_keeps_places_and_former_files(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "repository").add("one", ODD).add("other", BROKEN)
    engine = Engine(b"bad")
    async with ScriptedWorker(engine) as worker:
        live = await started(
            gateway_for, folder, folder=str(tmp_path / "files"), workers=[worker.url]
        )
        job_id = await submit(live, "one", "other")
        first = await ended(live, job_id)
    place = Path(first["results_folder"])
    talk = (place / "one_interactions.txt").read_text()
    await live.gateway.storage.write(
        lambda db: db.execute("DELETE FROM eval_answers WHERE place = 2")
    )
    code = tmp_path / "repository/evals/one/eval.py"
    code.write_text(code.read_text().replace('"share"', '"part"'))
    answer = await live.client.post("/eval/rescore", json={"model": "sim"})
    told = answer.json()
    assert told["job_id"] == job_id
    assert (told["rescored"], told["metrics"]) == (["one"], {"one": {"part": 0.5}})
    assert told["errors"].keys() == {"other"}
    again = json.loads((place / "one_results.json").read_text())
    assert again["details"]["errors"] == [None, "bad", "missing", None]
    former = json.loads((place / "one_results.1.json").read_text())
    assert former["metrics"] == {"share": 0.75}
    assert len((place / "one_interactions.txt").read_text()) >= len(talk) / 2
    record = (await live.client.get(f"/eval/{job_id}")).json()
    assert record["eval_status"]["one"]["results"] == {"part": 0.5}


class Sources:
    """Notes whom calls are counted for, as what, and the request that caused them."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str, str | None]] = set()

    @hookimpl
    def call_finished(self, call: Call) -> None:
        principal = call.principal or Principal("nobody")
        self.seen.add((principal.id, call.source, call.state.get(LINKED)))


@pytest.mark.parametrize(
    "scopes", ["eval", pytest.param("realtime batch eval", marks=pytest.mark.slow)]
)
async def test_items_are_the_keys_own_and_counted_as_evaluation(
    gateway_for: GatewayFor, tmp_path: Path, scopes: str
) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one"), Badges, Sources)
    headers, parent = badge(f"ada {scopes}"), f"00-{'ab' * 16}-{'cd' * 8}-01"
    job_id = await submit(live, "one", headers={**headers, "traceparent": parent})
    await ended(live, job_id, **headers)
    assert live.plugin(Sources).seen == {("ada", "eval", parent)}


async def test_canceled_job_takes_its_items_out_of_the_queue(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    engine.gate.clear()
    async with ScriptedWorker(engine) as worker:
        live = await started(gateway_for, Folder(tmp_path).add("one"), workers=[worker.url])
        job_id = await submit(live, "one")
        await until(lambda: engine.now > 0)
        assert (await live.client.delete(f"/eval/{job_id}")).json()["status"] == "canceled"
        while (await counted(live, job_id))["canceled"] < 4:
            pass
        queue = (await live.client.get("/v1/batch")).json()["data"]
        assert {one["status"] for one in queue} == {"canceled"}
        engine.gate.set()
        assert (await live.client.post(f"/eval/{job_id}/resume")).status_code == 200
        assert (await ended(live, job_id))["status"] == "completed"


async def counted(live: Live, job_id: str) -> dict[str, int]:
    page = (await live.client.get(f"/eval/{job_id}/items")).json()
    states = [one["state"] for one in page["items"]]
    return {state: states.count(state) for state in ("queued", "completed", "canceled")}


async def test_matrix_has_the_newest_scores_of_each_model(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path).add("one").add("two")
    live = await started(gateway_for, folder)
    ids = [await submit(live, "one"), await submit(live, "one", "two")]
    for job_id in ids:
        await ended(live, job_id)
    await live.gateway.storage.write(
        lambda db: db.execute("UPDATE eval_jobs SET model = 'other' WHERE number = 1")
    )
    found = (await live.client.get("/eval/matrix")).json()
    assert (found["models"], found["evals"]) == (["other", "sim"], ["one", "two"])
    assert found["metrics"] == {"one": ["share"], "two": ["share"]}
    cells = {
        model: {name: one["job_id"] for name, one in cell.items()}
        for model, cell in found["cells"].items()
    }
    assert cells == {"other": {"one": ids[0]}, "sim": {"one": ids[1], "two": ids[1]}}
    assert found["cells"]["sim"]["one"]["metrics"] == {"share": 1.0}
    await live.gateway.storage.write(
        lambda db: db.execute("UPDATE eval_jobs SET model = 'sim' WHERE number = 1")
    )
    found = (await live.client.get("/eval/matrix")).json()
    assert found["cells"]["sim"]["one"]["job_id"] == ids[1]


RUBBISH = """
def prepare_requests(model_name):
    return {RESULT}

def score_results(requests, responses, metadata):
    return {"metrics": {}}
"""


MISTAKES = {
    "none": ("None", "no object with a list `requests`"),
    "object": ("{'requests': {}}", "no object with a list `requests`"),
    "number": ("{'requests': [5]}", "request 0 is no object"),
    "bare": ("{'requests': [{}]}", "request 0 has neither `messages` nor `prompt`"),
    "long": ("{'requests': [{'prompt': 'x' * 2000}]}", "more than 1000 bytes"),
    "many": ("{'requests': [{'prompt': 'x'}] * 60}", "there are 60 requests"),
    "most": (
        "{'requests': [{'prompt': ''}], 'metadata': {'max_concurrency': 0}}",
        "is 0, and must",
    ),
    "silent": ("__import__('os')._exit(0)", "no JSON object"),
    "leaving": ("__import__('sys').exit(3)", "status 3"),
}


async def test_results_that_cannot_be_used_fail_with_the_reason(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    for name, (result, _) in MISTAKES.items():
        folder.add(name, RUBBISH.replace("{RESULT}", result))
    live = await started(gateway_for, folder, max_body_bytes=1000, max_items=50)
    record = await ended(live, await submit(live, *MISTAKES))
    assert record["status"] == "failed"
    found = {name: one["error"] for name, one in record["eval_status"].items()}
    assert [name for name, (_, reason) in MISTAKES.items() if reason not in found[name]] == []


FOREIGN = """
import json, os, sys
assert "EVAL_RESULT_FILE" in os.environ
name = sys.argv[1]
print("loading...")
if name == "list":
    print(json.dumps({"evals": ["one"]}))
elif name == "prepare":
    assert sys.argv[2:] == ["--max-prompts", "2", "--", "one", "sim"], sys.argv
    print(json.dumps({"requests": [{"prompt": "a"}, {"prompt": "b"}], "metadata": {}}))
    print("bye")
else:
    given = json.load(sys.stdin)
    print('{"metrics": {"n": %d, "bad": NaN}, "details": {}}' % len(given["responses"]))
"""


async def test_fault_11_3_program_of_others_is_called_unchanged_and_its_prints_are_no_result(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path).add("one").add("two")
    (tmp_path / "run_eval.py").write_text(FOREIGN)
    live = await started(gateway_for, folder)
    listed = (await live.client.get("/eval/evals")).json()["evals"]
    assert [(one["name"], one["default"]) for one in listed] == [("one", True), ("two", False)]
    body = {"model": "sim", "prepare_args": {"shots": 1}}
    refused: httpx.Response = await live.client.post("/eval/submit", json=body)
    assert refused.status_code == 400
    record = await ended(live, await submit(live, prepare_args={"max_prompts": 2}))
    assert record["eval_status"]["one"]["results"] == {"n": 2, "bad": None}


async def test_files_of_a_job_go_when_it_is_not_kept_any_more(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "repository").add("one")
    live = await started(gateway_for, folder, folder=str(tmp_path / "files"), keep_items=0.001)
    job_id = await submit(live, "one")
    record = await ended(live, job_id)
    conductor = live.plugin(Evaluations).engine
    assert conductor is not None
    conductor.conductor._clean_at = 0.0
    conductor.conductor.wake()
    work = tmp_path / "files/work" / job_id
    await until(lambda: not (work / "0").exists())
    later = (await live.client.get(f"/eval/{job_id}")).json()
    assert later["eval_status"]["one"]["progress"] == record["eval_status"]["one"]["progress"]
    assert later["completion_ids"] == []
    again = await live.client.post("/eval/rescore", json={"job_id": job_id})
    assert "not kept any more" in again.json()["errors"]["one"]

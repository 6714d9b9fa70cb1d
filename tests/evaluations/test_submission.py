"""POST /eval/submit: what is refused, whom jobs belong to, and what the routes answer."""

from pathlib import Path

import pytest
from support.evaluations.repositories import (
    PLAIN,
    SHIPPED,
    Folder,
    asked,
    ended,
    evaluations,
    started,
    submit,
)
from support.gateways.batch_doors import Badges, badge, code

from gateway import ConfigError
from gateway.testing import GatewayFor

ADA, BOB, EVE = badge("ada eval"), badge("bob eval"), badge("eve admin")

ROUTES = [
    ("POST", "/eval/submit"),
    ("POST", "/eval/rescore"),
    ("GET", "/eval/"),
    ("GET", "/eval"),
    ("GET", "/eval/evals"),
    ("GET", "/eval/matrix"),
    ("GET", "/eval/x"),
    ("DELETE", "/eval/x"),
    ("GET", "/eval/x/items"),
    ("POST", "/eval/x/resume"),
]


async def test_shipped_example_runs_from_its_submission_to_its_files(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, SHIPPED, folder=str(tmp_path))
    answer = await live.client.post(
        "/eval/submit", json={"model": "sim", "prepare_args": {"max_prompts": 5}}
    )
    submitted = answer.json()
    assert submitted == {
        "job_id": submitted["job_id"],
        "model": "sim",
        "status": "submitted",
        "message": "1 evaluation of sim will run",
        "requested_evals": None,
        "prepare_args": {"max_prompts": 5},
        "is_base_model": None,
    }
    assert submitted["job_id"].startswith("eval_")
    assert len(submitted["job_id"]) == len("eval_") + 12
    record = await ended(live, submitted["job_id"])
    assert (record["status"], record["error"]) == ("completed", None)
    status = record["eval_status"]["example"]
    assert (status["status"], status["progress"]) == ("completed", "5/5")
    assert status["results"] == {"accuracy": 0.0}
    assert status["details"]["http_errors"]["total_errors"] == 0
    assert record["eval_groups"] == {"example": record["completion_ids"]}
    assert len(record["completion_ids"]) == 5
    assert record["metadata"]["total_requests"] == 5
    [folder] = [one for one in (tmp_path / "results/sim").iterdir() if one.name[0] == "2"]
    assert (tmp_path / "results/sim/latest").resolve() == folder == Path(record["results_folder"])
    assert sorted(file.name for file in folder.iterdir()) == [
        "example_analysis.jsonl",
        "example_debug.jsonl",
        "example_interactions.txt",
        "example_prepare.log",
        "example_results.json",
    ]


NAMES = ("../../x", "evals/one", "/etc", "one\0", "-x")


async def test_fault_11_1_only_listed_names_are_run(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "eval.py").write_text("raise SystemExit")
    live = await started(gateway_for, Folder(tmp_path / "here").add("one"))
    for name in NAMES:
        body = {"model": "sim", "evals": ["one", name]}
        answer = await live.client.post("/eval/submit", json=body)
        assert code(answer) == (400, "evals", "invalid_request")
        assert repr(name) in answer.json()["error"]["message"]
        again = await live.client.post("/eval/rescore", json={"job_id": name})
        assert again.status_code == 404
    assert (await live.client.get("/eval/")).json()["total"] == 0


MODELS = ("../x", "a/../b", "/etc/passwd", "--help", "-m", "a/b/c", "a--b", ".a", "a b", "", "ä")


async def test_fault_11_1_name_of_a_model_is_checked(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one"), workers=())
    for model in MODELS:
        answer = await live.client.post("/eval/submit", json={"model": model, "evals": ["one"]})
        assert code(answer) == (400, "model", "invalid_request")
    fine = await live.client.post("/eval/submit", json={"model": "a-b/c.d:e_f", "evals": ["one"]})
    assert fine.status_code == 200


REFUSED: tuple[tuple[dict[str, object], str], ...] = (
    ({"shots": 3}, "`prepare_args.shots` is not accepted by one, which accepts: max_prompts"),
    ({"max_prompts": 0}, "must be an integer from 1 on"),
    ({"max_prompts": "5"}, "must be an integer from 1 on"),
    ({"use_english": 1}, "must be true or false"),
    ({"max-prompts": 5}, "is no argument"),
)


async def test_fault_11_4_argument_that_an_evaluation_does_not_accept_is_an_error(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one"))
    for arguments, problem in REFUSED:
        body = {"model": "sim", "evals": ["one"], "prepare_args": arguments}
        answer = await live.client.post("/eval/submit", json=body)
        assert code(answer) == (400, f"prepare_args.{next(iter(arguments))}", "invalid_request")
        assert problem in answer.json()["error"]["message"]


async def test_fault_11_4_all_arguments_reach_prepare(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    code = """
    def prepare_requests(model_name, *, shots, labels, use_english=False, max_prompts=9):
        assert use_english is True and max_prompts == 2
        return {"requests": [{"prompt": f"{shots} {labels['a']}"}] * max_prompts}

    def score_results(requests, responses, metadata):
        return {"metrics": {"n": len(requests)}, "details": {"first": requests[0]["prompt"]}}
    """
    live = await started(gateway_for, Folder(tmp_path).add("one", code))
    arguments = {"shots": 3, "labels": {"a": "x=1"}, "use_english": True, "max_prompts": 2}
    record = await ended(live, await submit(live, "one", prepare_args=arguments))
    assert record["prepare_args"] == arguments
    assert record["eval_status"]["one"]["results"] == {"n": 2}
    assert record["eval_status"]["one"]["details"]["first"] == "3 x=1"


async def test_key_is_asked_for_and_then_its_scope(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, Folder(tmp_path), Badges)
    headers = badge("ada realtime batch upload monitor")
    for method, path in ROUTES:
        unknown = await live.client.request(method, path)
        assert code(unknown) == (401, None, "invalid_api_key")
        found = await live.client.request(method, path, headers=headers)
        assert code(found) == (403, None, "missing_scope")


async def test_jobs_of_other_keys_are_not_there(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one"), Badges)
    job_id = await submit(live, "one", headers=ADA)
    record = await ended(live, job_id, **ADA)
    assert record["key_id"] == "ada"
    one = f"/eval/{job_id}"
    absent = (await live.client.get("/eval/eval_none", headers=BOB)).json()
    for method, path in [("GET", one), ("DELETE", one), ("GET", f"{one}/items")]:
        answer = await live.client.request(method, path, headers=BOB)
        assert (answer.status_code, answer.json()) == (404, absent)
    for body in ({"job_id": job_id}, {"model": "sim"}):
        assert (await live.client.post("/eval/rescore", json=body, headers=BOB)).status_code == 404
    assert (await live.client.get("/eval/", headers=BOB)).json()["evaluations"] == []
    assert (await live.client.get("/eval/matrix", headers=BOB)).json()["models"] == []
    for headers in (ADA, EVE):
        page = (await live.client.get("/eval/?model=sim&limit=5", headers=headers)).json()
        assert [one["job_id"] for one in page["evaluations"]] == [job_id]
        assert (page["total"], page["model_filter"], page["limit"]) == (1, "sim", 5)
        assert await asked(live, job_id, "", **headers) == record


async def test_model_has_to_be_allowed_and_served(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one"), Badges)
    body = {"model": "sim", "evals": ["one"]}
    headers = badge("ada eval models=other")
    answer = await live.client.post("/eval/submit", json=body, headers=headers)
    assert code(answer) == (403, "model", "model_not_allowed")


async def test_key_may_not_have_any_number_of_jobs(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(
        gateway_for, Folder(tmp_path).add("one", WAITING), max_unfinished_per_key=1
    )
    job_id = await submit(live, "one")
    answer = await live.client.post("/eval/submit", json={"model": "sim", "evals": ["one"]})
    assert code(answer) == (429, None, "rate_limit_exceeded")
    canceled = await live.client.delete(f"/eval/{job_id}")
    assert canceled.json()["eval_status"] == {"one": {"status": "canceled"}}
    assert (await live.client.delete(f"/eval/{job_id}")).status_code == 409
    await submit(live, "one")


WAITING = f"import time{PLAIN}".replace("    return {", "    time.sleep(600)\n    return {", 1)


WRONG: tuple[object, ...] = (
    {},
    {"model": 5},
    {"model": "sim", "evals": "one"},
    {"model": "sim", "evals": []},
    {"model": "sim", "evals": [1]},
    {"model": "sim", "prepare_args": []},
    {"model": "sim", "is_base_model": "yes"},
    {"model": "sim", "priority": 1_000},
    {"model": "sim", "prepare_args": {f"a{number}": 1 for number in range(51)}},
    [],
)


async def test_wrong_types_are_400(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, Folder(tmp_path).add("one").defaults("one"))
    for body in WRONG:
        answer = await live.client.post("/eval/submit", json=body)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]
    raw = b'{"model": "sim", "prepare_args": {"max_prompts": "\xff"}}'
    answer = await live.client.post("/eval/submit", content=raw)
    assert "is not UTF-8" in answer.json()["error"]["message"]


async def test_list_of_evaluations_says_what_each_accepts(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    folder = Folder(tmp_path).add("one").add("two", PLAIN.replace("=4", "=4, **more"))
    folder.add("chat", eval_toml="[eval]\nrequires_instruction_model = true\n").defaults("chat")
    (tmp_path / "evals" / "empty").mkdir()
    live = await started(gateway_for, folder)
    found = (await live.client.get("/eval/evals")).json()["evals"]
    assert {one["name"]: one for one in found} == {
        "chat": {**_shown("chat", "max_prompts"), "default": True, **_INSTRUCTED},
        "one": _shown("one", "max_prompts"),
        "two": {**_shown("two"), "arguments": None},
    }
    body = {"model": "sim", "is_base_model": True}
    answer = await live.client.post("/eval/submit", json=body)
    assert code(answer) == (400, None, "invalid_request")


_INSTRUCTED = {"requires_instruction_model": True}


def _shown(name: str, *arguments: str) -> dict[str, object]:
    return {
        "name": name,
        "default": False,
        "requires_instruction_model": False,
        "arguments": list(arguments),
    }


async def test_plugin_without_a_queue_does_not_start(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="add `batch` to plugins"):
        await gateway_for(evaluations(tmp_path))


async def test_missing_repository_is_a_problem_of_the_health(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await started(gateway_for, tmp_path / "none")
    health = (await live.client.get("/health")).json()
    assert health["status"] == "degraded"
    assert "none/evals" in str(health)
    assert (await live.client.get("/eval/evals")).json() == {"evals": []}

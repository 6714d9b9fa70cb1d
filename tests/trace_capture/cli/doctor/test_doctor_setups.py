"""Broken set-ups: the doctor names what is wrong with each, and says what to do."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec
import pytest
from gateway_plugins.trace_capture.cli.doctor.advice import WHAT
from gateway_plugins.trace_capture.cli.doctor.asking import Fields
from gateway_plugins.trace_capture.cli.doctor.fleets import check_workers
from gateway_plugins.trace_capture.cli.doctor.kinds import KINDS
from gateway_plugins.trace_capture.cli.doctor.report import Report, Told, lines_of, report_of
from support.workers.spoiled_engine import Json, Spoiled

from gateway import Reason
from gateway.config import Config, PluginEntry, Worker
from gateway.simulator import Faults, Simulator, SimulatorConfig
from gateway.testing import ScriptedWorker, answer_of, entry

IDS = ("token_ids", "prompt_token_ids")


async def examine(
    url: str,
    kinds: Sequence[str],
    *plugins: PluginEntry,
    model: str | None = None,
    seconds: float = 20,
    **added: Any,
) -> Report:
    """What the doctor reports of a worker that is asked these kinds of calls."""
    asked = [kind for kind in KINDS if kind.name in kinds]
    worker = Worker(url=url)
    fields = Fields(kinds=asked, added=added, seconds=seconds)
    config = Config(workers=(worker,), plugins=plugins)
    report = report_of(await check_workers(config, [worker], model, fields))
    assert len([*lines_of(report)]) > 3
    return report


def found(report: Report) -> dict[str, Told]:
    assert not report.fine
    return {told.reason: told for told in report.problems}


def choices(said: Json) -> list[Json]:
    return [one for one in said.get("choices", ()) if isinstance(one, dict)]


def without_ids(_: Json, said: Json) -> Json:
    for place in (said, *choices(said)):
        for name in IDS:
            place.pop(name, None)
    return said


def parser_eats(asked: Json, said: Json) -> Json | None:
    """Like a parser that sends no event for a piece that it holds back for ever."""
    streams_a_call = asked.get("stream") and asked.get("tools")
    pieces = [one["delta"].get("tool_calls") for one in choices(said) if "delta" in one]
    arguments = [call for calls in pieces for call in calls or () if "name" not in call["function"]]
    return None if streams_a_call and arguments else said


def other_model(_: Json, said: Json) -> Json:
    return {**said, "model": "someone-else"} if "choices" in said else said


def bad_logprob(value: float | None) -> Callable[[Json, Json], Json]:
    def edit(_: Json, said: Json) -> Json:
        for choice in choices(said):
            for token in ((choice.get("logprobs") or {}).get("content") or ())[1:2]:
                token["logprob"] = value
        return said

    return edit


def without_usage(_: Json, said: Json) -> Json | None:
    said.pop("usage", None)
    return said if said.get("choices") or "data" in said else None


def fewer_ids(_: Json, said: Json) -> Json:
    for choice in choices(said):
        choice["token_ids"] = (choice.get("token_ids") or [])[:-1]
    return said


def no_end(_: Json, said: Json) -> Json:
    for choice in choices(said):
        choice["finish_reason"] = None
    return said


def needs_parser(asked: Json) -> str | None:
    message = (
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    )
    return message if asked.get("tools") else None


def needs_no_logprobs(asked: Json) -> str | None:
    return "logprobs are not supported" if asked.get("logprobs") else None


def shouted(asked: Json) -> Json:
    """What a chat template does that rewrites earlier answers."""
    for message in asked.get("messages", ()):
        if message["role"] == "assistant":
            message["content"] = message["content"].upper()
    return asked


SETUPS: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "engine without ids": (
        {"edit": without_ids},
        "chat",
        {"prompt_ids_missing": "sends the ids of prompts", "token_ids_missing": "sends ids"},
    ),
    "parser that eats tokens": (
        {"edit": parser_eats},
        "tools, streamed",
        {"counts_differ": "parsers of reasoning and of tool calls"},
    ),
    "logprobs refused": (
        {"refuse": needs_no_logprobs},
        "chat",
        {"logprobs_missing": "sends logprobs"},
    ),
    "engine that answers for another model": (
        {"edit": other_model},
        "chat, streamed",
        {"other_model": "--served-model-name"},
    ),
    "logprob null": ({"edit": bad_logprob(None)}, "chat", {"logprobs_invalid": "numerics"}),
    "logprob NaN": ({"edit": bad_logprob(float("nan"))}, "chat", {"logprobs_invalid": "numerics"}),
    "tool parser missing": (
        {"refuse": needs_parser},
        "tools",
        {"error_answer": "--enable-auto-tool-choice --tool-call-parser"},
    ),
    "stream without usage": (
        {"edit": without_usage},
        "chat, streamed",
        {"usage_missing": "Leave `usage`"},
    ),
    "stream that breaks off": (
        {"edit": no_end, "ending": None},
        "chat, streamed",
        {"worker_broke_off": "Read the log of the worker"},
    ),
    "stream without a finish reason": (
        {"edit": no_end},
        "chat, streamed",
        {"unfinished": "Read the log of the worker"},
    ),
    "fewer ids than logprobs": ({"edit": fewer_ids}, "chat", {"counts_differ": "parsers"}),
    "template that rewrites answers": (
        {"rewrite": shouted},
        "turns",
        {"prefix_differs": "--chat-template"},
    ),
}


@pytest.mark.parametrize("name", SETUPS)
async def test_doctor_names_what_is_wrong_and_what_to_do(name: str, simulator: Simulator) -> None:
    spoiled, kind, expected = SETUPS[name]
    async with Spoiled(simulator.url, **spoiled).worker() as worker:
        told = found(await examine(worker.url, [kind]))
    assert {*told} == {*expected}
    for reason, words in expected.items():
        assert words in told[reason].what_to_do
        assert told[reason].kinds == [kind]


@pytest.fixture
async def thinking() -> Any:
    async with Simulator(SimulatorConfig(reasoning=True, seed=1)) as engine:
        yield engine


async def test_doctor_names_requests_that_exclude_the_reasoning(thinking: Simulator) -> None:
    report = await examine(thinking.url, ["chat, streamed"], include_reasoning=False)
    assert "Leave `include_reasoning` out" in found(report)["reasoning_excluded"].what_to_do


async def test_doctor_shows_the_token_at_which_a_template_strips_the_thoughts(
    thinking: Simulator,
) -> None:
    report = await examine(thinking.url, ["chat", "turns with reasoning"])
    told = found(report)["prefix_differs"]
    left = told.difference
    assert left is not None
    assert told.kinds == ["turns with reasoning"]
    assert (left.cause, left.turn) == ("stripped_reasoning", 2)
    assert left.expected_id != left.found_id
    assert left.text_before is not None
    assert left.text_before.endswith("<|im_start|>assistant")
    text = "\n".join(lines_of(report))
    assert f"at token {left.at}: expected {left.expected_id} {left.expected_text!r}" in text
    assert "tito: prefer" in told.what_to_do


async def test_doctor_says_why_tito_does_not_help(thinking: Simulator) -> None:
    asked, tito = ["chat", "turns with reasoning"], entry("trace_capture", tito="prefer")
    told = found(await examine(thinking.url, asked, tito))["prefix_differs"]
    assert "--enable-scale-out" in told.what[0]
    assert "`tito` is on" in told.what_to_do
    assert "Start vLLM with `--enable-scale-out`" in told.what_to_do
    settings = SimulatorConfig(reasoning=True, scale_out=True)
    async with Simulator(settings) as engine:
        assert (await examine(engine.url, asked, tito)).fine


async def test_doctor_names_a_worker_that_is_down() -> None:
    async with ScriptedWorker(b"") as gone:
        url = gone.url
    told = found(await examine(url, ["chat"]))["unreachable"]
    assert (told.kinds, "Start the worker" in told.what_to_do) == (["all calls"], True)


async def test_doctor_names_a_model_that_the_engine_does_not_have(simulator: Simulator) -> None:
    told = found(await examine(simulator.url, ["chat"], model="missing"))["error_answer"]
    assert told.what[0].startswith("404: The model `missing` does not exist")
    assert "--served-model-name" in told.what_to_do


async def test_doctor_names_an_engine_that_lists_no_model_and_answers_no_json() -> None:
    async with ScriptedWorker(answer_of(b"<html>hello</html>")) as page:
        assert "--model" in found(await examine(page.url, ["chat"]))["no_model"].what_to_do
        told = found(await examine(page.url, ["chat"], model="m"))
    assert "does not speak the API" in told["unreadable"].what_to_do


async def test_doctor_names_an_engine_that_dies_and_one_that_never_answers() -> None:
    async with Simulator(SimulatorConfig(faults=Faults.parse("error-event:2"))) as dying:
        told = found(await examine(dying.url, ["chat, streamed"]))
    assert "Read the log" in told["error_event"].what_to_do
    assert "EngineCore" in told["error_event"].what[0]
    async with Simulator(SimulatorConfig(faults=Faults.parse("hang"))) as hanging:
        for seconds in (0.1, 1, 10):
            told = found(await examine(hanging.url, ["chat"], seconds=seconds))
            if "unreachable" not in told:  # a busy machine lists its models late
                break
    assert "--timeout" in told["no_answer"].what_to_do


def test_each_reason_of_a_verdict_has_words() -> None:
    assert {*WHAT} == {*get_args(Reason)}


async def test_doctor_finds_nothing_wrong_with_a_good_engine() -> None:
    asked = [kind.name for kind in KINDS if kind.api != "responses"]
    async with Simulator(SimulatorConfig(scale_out=True)) as engine:
        report = await examine(engine.url, asked)
    assert report.fine, msgspec.json.encode(report).decode()
    [worker] = report.workers
    seen = {one.kind: one.verdict for one in worker.checks}
    assert seen.pop("messages") == seen.pop("messages, streamed") == "NOT SERVED"
    assert {*seen.values()} == {"COMPLETE"}
    assert len(seen) == 11


async def test_an_engine_that_does_not_take_token_ids_is_no_problem(simulator: Simulator) -> None:
    report = await examine(simulator.url, ["chat", "generate"])
    [worker] = report.workers
    assert [one.verdict for one in worker.checks] == ["COMPLETE", "NOT SERVED"]
    assert report.fine

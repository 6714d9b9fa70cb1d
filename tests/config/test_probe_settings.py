"""How a worker's probe is configured, and what is said of a mistake in it."""

from typing import get_args

import pytest
from support.gateways.config_files import problems, read

from gateway.config import Expected, Preset, Worker, WorkerProbe, expected

pytestmark = pytest.mark.usefixtures("empty_folder")

PLACE = "gateway.yaml:1: workers[0].probe"
NAMES = "vllm, sglang, tgi, llama.cpp, ollama, litellm, vllm-router, smg, gateway, openai"


def probe_of(text: str) -> Expected | None:
    [worker] = read(f"workers: [{{url: 'http://h', probe: {text}}}]").workers
    return expected(worker.probe, "/health")


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("true", Expected("/health")),
        ("false", None),
        ("litellm", Expected("/health/liveliness", statuses=(200,))),
        ("smg", Expected("/readiness", statuses=(200,))),
        ("{}", Expected("/health")),
        ("{preset: vllm, path: /alive}", Expected("/alive", statuses=(200,))),
        ("{preset: tgi, statuses: [200, 204]}", Expected("/health", statuses=(200, 204))),
        ("{path: /x, method: HEAD}", Expected("/x", "HEAD")),
        ("{body: ok}", Expected("/health", body=b"ok")),
    ],
)
def test_probe_of_a_worker_is_read(text: str, probe: Expected | None) -> None:
    assert probe_of(text) == probe


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vlm", f'{PLACE}: expected true, false, a mapping, or one of {NAMES}, got "vlm"'),
        ("7", f"{PLACE}: expected true, false, a mapping, or one of {NAMES}, got 7"),
        ("{path: health}", f'{PLACE}.path: expected a path like "/health" or null, got "health"'),
        ("{method: PUT}", f'{PLACE}.method: expected "GET", "HEAD" or "POST", got "PUT"'),
        ("{statuses: [100]}", f"{PLACE}.statuses[0]: expected a status from 200 to 599, got 100"),
        ("{body: ''}", f'{PLACE}.body: expected text that is not empty or null, got ""'),
        (
            "{method: HEAD, body: ok}",
            f"{PLACE}.body: a response to HEAD has no body; use GET",
        ),
        ("{pth: /x}", f'{PLACE}.pth: unknown field; did you mean "path"?'),
    ],
)
def test_mistake_in_a_probe_is_named(text: str, problem: str) -> None:
    assert problems(f"workers: [{{url: 'http://h', probe: {text}}}]") == [problem]


@pytest.mark.parametrize("name", get_args(Preset))
def test_preset_expects_200_and_nothing_else(name: Preset) -> None:
    probe = expected(name, "/other")
    assert probe is not None
    assert probe.path != "/other"
    assert probe.mistake(200, b"") is None
    assert [probe.mistake(status, b"") for status in (204, 404, 503)] == [
        f"the answer's status is {status}" for status in (204, 404, 503)
    ]


def test_expected_text_must_be_in_the_body() -> None:
    probe = expected(WorkerProbe(body="healthy"), "/health")
    assert probe is not None
    assert probe.mistake(200, b'{"status": "healthy"}') is None
    assert probe.mistake(404, b"healthy") is None
    assert probe.mistake(200, b"{}") == "the answer lacks the expected text"


def test_worker_is_probed_unless_its_settings_say_otherwise() -> None:
    assert Worker(url="http://h").probe is True

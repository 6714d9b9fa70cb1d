"""`gateway serve --grpc`: the variables of the server whose place the gateway takes."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.grpc.flag import offer
from gateway_plugins.grpc.flag.dotenv import read_dotenv
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.serving_process import COMMAND, LISTENS, started
from support.grpc.stubs import PORT, as_of_old, channel, make_stubs
from support.ports import free_port

from gateway import ConfigError
from gateway.config import Config, load
from gateway.plugins.flags import Flag
from gateway.simulator import Simulator

pytestmark = pytest.mark.usefixtures("empty_folder")

FLAG: Flag = offer


def loaded(environ: Mapping[str, str]) -> Config:
    return load(offers={"--grpc": FLAG.settings(environ)})


def options_of(config: Config) -> dict[str, Any]:
    [entry] = config.plugins
    assert entry.name == "grpc"
    return entry.options


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    """Exit status and standard error of a command of the gateway."""
    whole = {**os.environ, **environ}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=whole)
    return done.returncode, done.stderr


def test_names_of_the_code_win_over_those_of_the_manual() -> None:
    code = {"LLM_GATEWAY_PORT": "1", "LLM_DEFAULT_MODEL": "a", "LLM_TIMEOUT_MS": "1000"}
    manual = {"PORT": "2", "DEFAULT_MODEL": "b", "TIMEOUT_MS": "2000"}
    for environ, port, model, seconds in ((code | manual, "1", "a", 1), (manual, "2", "b", 2)):
        config = loaded(environ)
        assert options_of(config) == {"port": port, "default_model": model}
        timeouts = config.timeouts
        assert (timeouts.first_byte, timeouts.idle, timeouts.total) == (seconds, seconds, None)


@pytest.mark.parametrize(
    ("given", "url", "api_path"),
    [
        ("http://h:8000", "http://h:8000", "/v1"),
        ("http://h:8000/", "http://h:8000", "/v1"),
        ("http://h:8000/v1", "http://h:8000", "/v1"),
        ("https://h/models/a/", "https://h", "/models/a/v1"),
    ],
)
def test_worker_is_asked_below_the_url_of_old(given: str, url: str, api_path: str) -> None:
    [worker] = loaded({"VLLM_URL": given}).workers
    assert (worker.url, worker.api_path) == (url, api_path)


def test_values_that_stand_for_nothing_leave_the_defaults() -> None:
    empty = {"VLLM_URL": "", "LLM_DEFAULT_MODEL": "", "LOG_LEVEL": "", "LLM_TIMEOUT_MS": "0"}
    in_a_pod = {"LLM_GATEWAY_PORT": "tcp://10.0.0.1:50052"}
    config = loaded(empty | in_a_pod)
    assert options_of(config) == {}
    assert (config.workers, config.log_level) == ((), "info")
    assert config.timeouts == Config().timeouts
    assert loaded({"LOG_LEVEL": "WARN"}).log_level == "warning"


@pytest.mark.parametrize("name", ["LLM_GATEWAY_PORT", "PORT"])
@pytest.mark.parametrize("value", ["", " ", "abc", "-1", "65536", "\uff15", "1.5", ":50052"])
def test_fault_21_an_empty_or_wrong_port_is_an_error_that_names_the_variable(
    name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a port from 0 to 65535, "):
        FLAG.settings({name: value})


def test_fault_21_serve_does_not_start_with_an_empty_port() -> None:
    code, said = run("serve", "--grpc", LLM_GATEWAY_PORT="", VLLM_URL="http://h")
    assert code == 2
    assert said.startswith("LLM_GATEWAY_PORT: expected a port from 0 to 65535, it is empty")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LLM_TIMEOUT_MS": "10s"}, "LLM_TIMEOUT_MS: expected a whole number of milliseconds"),
        ({"LLM_TIMEOUT_MS": "-1"}, "LLM_TIMEOUT_MS: expected a whole number of milliseconds"),
        ({"VLLM_URL": "gpu:8000"}, r"VLLM_URL: workers\[0\].url: expected a URL"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: log_level: expected "),
    ],
)
def test_mistakes_name_the_variable(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        loaded(environ)


def test_dotenv_loses_against_the_environment() -> None:
    Path(".env.dev").write_text(
        "# of old\nexport LLM_GATEWAY_PORT=7  # a comment\nVLLM_URL='http://h:1'\n"
        'LLM_DEFAULT_MODEL="a \\"b\\" #c"\nSECRET=x\nnonsense\nLLM_TIMEOUT_MS=ab#c\n'
    )
    config = loaded({"LLM_TIMEOUT_MS": "3000", "VLLM_URL": "http://i:1"})
    assert options_of(config) == {"port": "7", "default_model": 'a "b" #c'}
    assert config.workers[0].url == "http://i:1"
    assert config.timeouts.idle == 3
    with pytest.raises(ConfigError, match=r"^\.env\.dev:7: LLM_TIMEOUT_MS: expected a whole"):
        loaded({})


def test_dotenv_that_cannot_be_read_is_named() -> None:
    Path(".env.dev").mkdir()
    with pytest.raises(ConfigError, match=r"^\.env\.dev: cannot be read: Is a directory$"):
        loaded({})


@pytest.mark.parametrize("filler", [" ", "\t#", '"', "\\", "=", "a ", "\n"])
def test_dotenv_is_read_in_a_moment_whatever_it_has(filler: str) -> None:
    file = Path("some.env")
    file.write_text("PORT=5\nPORT=" + filler * 60_000 + "x")
    before = time.process_time()
    read_dotenv(file, {"PORT"})
    assert time.process_time() - before < 1


@given(st.binary(max_size=200))
def test_any_bytes_are_a_dotenv(data: bytes) -> None:
    file = Path("some.env")
    file.write_bytes(data + b"\nPORT=5\n")
    assert read_dotenv(file, {"PORT"})["PORT"].value == "5"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x1c\x1d\x1e\x85"), max_size=20)
)
def test_quoted_values_are_read_as_they_were_written(value: str) -> None:
    file = Path("some.env")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(f'PORT="{escaped}" # "\n', encoding="utf-8")
    assert read_dotenv(file, {"PORT"})["PORT"].value == value


async def test_serve_needs_no_file_with_the_variables_of_old(
    simulator: Simulator, tmp_path: Path
) -> None:
    messages, stubs = make_stubs(as_of_old(tmp_path), tmp_path)
    environ = {"VLLM_URL": simulator.url, "DEFAULT_MODEL": "sim", "LLM_GATEWAY_PORT": "0"}

    def ask(port: int) -> str:
        with channel(port) as opened:
            asked = messages.ChatCompletionRequest(user_prompt="Hello", max_tokens=4)
            return str(stubs.LlmServiceStub(opened).ChatCompletion(asked, timeout=10).output_text)

    async with started("serve", "--port", "0", "--grpc", environment=environ) as process:
        await process.says(LISTENS)
        port = int((await process.says(PORT))[1])
        assert await asyncio.to_thread(ask, port)


async def test_demo_prints_commands_for_grpcurl_that_name_its_port() -> None:
    port = str(free_port())
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "demo", "--grpc", "--port", str(free_port())),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "LLM_GATEWAY_PORT": port},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            text = await process.stdout.readuntil(b"ChatCompletionStream\n")
        assert f"grpcurl -plaintext 127.0.0.1:{port} list".encode() in text
        with channel(int(port)) as opened:
            listed = opened.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            )
            answer = await asyncio.to_thread(lambda: next(listed(iter([b"\x3a\x00"]), timeout=10)))
        assert b"llm.v1.LlmService" in answer
    finally:
        process.kill()
        await process.wait()


def test_simulator_names_a_gateway_and_the_messages_that_are_shipped() -> None:
    text = FLAG.simulator_examples("http://127.0.0.1:8000", "sim")
    assert "VLLM_URL=http://127.0.0.1:8000 LLM_DEFAULT_MODEL=sim gateway serve --grpc" in text
    folder = text.partition("-import-path ")[2].split()[0]
    assert (Path(folder) / "llm.proto").is_file()


def test_simulate_prints_them() -> None:
    code = "import gateway.simulator as s; s.serve = lambda *_: None; "
    code += "from gateway.cli import main; main(['simulate', '--port', '1'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "VLLM_URL=http://127.0.0.1:1 LLM_DEFAULT_MODEL=sim gateway serve --grpc" in done.stdout

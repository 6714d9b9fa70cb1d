"""Coding agents of other people, unmodified: how each is told its gateway and its task."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from support.agents.closed import URL
from support.paths import ROOT

INSTALLED = Path(os.environ.get("AGENTS_HOME", ROOT / ".venv-agents"))
"""Where `make agents` installs them."""

MODEL = "sim"
KEY = "sk-of-the-agent"


class Place(msgspec.Struct, frozen=True):
    """Where an agent runs: its home, and the session that its base URL names, if any."""

    home: Path
    session: str | None

    @property
    def base(self) -> str:
        return URL if self.session is None else f"{URL}/sessions/{self.session}"

    def write(self, name: str, text: str) -> None:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


class Launch(msgspec.Struct, frozen=True):
    """The arguments and the environment of one run, without what all runs have."""

    arguments: list[str]
    env: Mapping[str, str] = {}


class Agent(msgspec.Struct, frozen=True):
    """An agent that `make agents` installs.

    `program` is its path among what is installed. `session_header` is the header in which it names
    its session on each call, None if it names none. `ends_by` is the command that it takes for the
    end; None if it ends with a turn that calls no tool.
    """

    program: str
    launch: Callable[[Place, str], Launch]
    dialect: str
    session_header: str | None = None
    ends_by: str | None = None

    @property
    def path(self) -> Path:
        return INSTALLED / self.program


def claude_code(place: Place, task: str) -> Launch:
    env = {
        "ANTHROPIC_BASE_URL": place.base,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    return Launch(["--print", "--model", MODEL, "--allowedTools", "Bash", "--", task], env)


def codex(place: Place, task: str) -> Launch:
    place.write(
        ".codex/config.toml",
        f'model = "{MODEL}"\nmodel_provider = "gateway"\n'
        '[model_providers.gateway]\nname = "gateway"\nwire_api = "responses"\n'
        f'base_url = "{place.base}/v1"\nenv_key = "GATEWAY_KEY"\n',
    )
    arguments = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return Launch([*arguments, task], {"GATEWAY_KEY": KEY})


def opencode(place: Place, task: str) -> Launch:
    model = {"name": MODEL, "limit": {"context": 200_000, "output": 8_000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{place.base}/v1", "apiKey": KEY},
        "models": {MODEL: model},
    }
    name = f"gateway/{MODEL}"
    settings = {"model": name, "small_model": name, "provider": {"gateway": provider}}
    place.write(".config/opencode/opencode.json", json.dumps(settings))
    env = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return Launch(["run", "--model", name, task], env)


def qwen_code(place: Place, task: str) -> Launch:
    env = {
        "OPENAI_BASE_URL": f"{place.base}/v1",
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": MODEL,
        "QWEN_TELEMETRY_ENABLED": "false",
    }
    return Launch(["--auth-type", "openai", "--yolo", "--prompt", task], env)


def pi(place: Place, task: str) -> Launch:
    provider = {
        "baseUrl": f"{place.base}/v1",
        "api": "openai-completions",
        "apiKey": KEY,
        "models": [{"id": MODEL}],
    }
    place.write(".pi/agent/models.json", json.dumps({"providers": {"gateway": provider}}))
    arguments = ["--provider", "gateway", "--model", MODEL, "--print", task]
    return Launch(arguments, {"PI_OFFLINE": "1"})


def mini_swe_agent(place: Place, task: str) -> Launch:
    env = {
        "OPENAI_API_BASE": f"{place.base}/v1",
        "OPENAI_API_KEY": KEY,
        "MSWEA_CONFIGURED": "true",
        "MSWEA_COST_TRACKING": "ignore_errors",
    }
    arguments = ["--model", f"openai/{MODEL}", "--yolo", "--exit-immediately", "--task", task]
    return Launch(arguments, env)


BIN = "node_modules/.bin"
AGENTS = {
    "claude-code": Agent(f"{BIN}/claude", claude_code, "messages", "x-claude-code-session-id"),
    "codex": Agent(f"{BIN}/codex", codex, "responses", "session-id"),
    "opencode": Agent(f"{BIN}/opencode", opencode, "chat", "x-session-id"),
    "qwen-code": Agent(f"{BIN}/qwen", qwen_code, "chat"),
    "pi": Agent(f"{BIN}/pi", pi, "chat"),
    "mini-swe-agent": Agent(
        "bin/mini",
        mini_swe_agent,
        "chat",
        ends_by="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT",
    ),
}

"""`gateway import-orchestrator`, as an operator types it: what is written, and what is told."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from gateway_plugins.auth import Auth
from gateway_plugins.batch.options import Options as BatchOptions
from gateway_plugins.runtime.importing import keys as importing_keys
from gateway_plugins.runtime.importing.dotenv import read_dotenv
from gateway_plugins.runtime.importing.found import find
from gateway_plugins.runtime.importing.variables import VARIABLES
from gateway_plugins.runtime.options import Docker, Model, Options, Rules, Runtime
from gateway_plugins.usage.options import Options as UsageOptions
from serve.test_cli import run

from gateway.config import Config, load

T = TypeVar("T", bound=msgspec.Struct)

KEYS = {"keys": [{"id": "alice", "token": "TOKEN", "scopes": ["realtime", "batch"]}]}

Import = Callable[..., list[str]]
"""Imports a `.env` of this text; gives the lines of standard error."""

EVERY = """\
AUTH_KEYS_FILE=/app-config/auth.keys.json
AUTH_KEYS_WATCH_INTERVAL_S=0.1
REDIS_URL=redis://:REDIS-SECRET@redis:6379
REDIS_CONNECT_ATTEMPTS=1
REDIS_CONNECT_BACKOFF_S=1
RUNTIME_TYPE=vllm
RUNTIME_IMAGE=registry:5000/vllm@sha256:abc
RUNTIME_ARGS=--max-model-len 8192 --override '{"temperature": 0, "x": "${A}"}'
RUNTIME_PORT=31000
RUNTIME_API_PATH=/v1/completions
REALTIME_MODEL=Qwen/Qwen3-8B
HOST_HF_CACHE=/ignored
HOST_HF_CACHE_HOST=cache
VLLM_CACHE_HOST=/vllm/cache
HF_TOKEN=HF-SECRET
MIN_HOT_TTL_S=60
REALTIME_COOLDOWN_S=12.5
TOKENS_B=2
TOKENS_REFILL_PER_SEC=0.001
L_MAX_S=1
P_MAX=0.1
PREEMPT_CANCEL_TIMEOUT_S=0
MAX_CONCURRENT_BATCH=32
DEFAULT_READY_TIMEOUT_S=1
VLLM_READY_TIMEOUT_S=1200
WARMUP_MIN_INTERVAL_S=1
READY_PROBE_LOG_INTERVAL_S=1
MAX_MODEL_LEN_MARGIN_TOKENS=1
RUNTIME_FAILURE_LOG_DIR=/host_hf_cache/failures
USAGE_HASH_PREFIX=x:
USAGE_BUCKET_TTL_S=86401
ENABLE_USAGE_DAILY_BUCKETS=0
INTERNAL_EVAL_KEY_ID=nobody
EVAL_REPO_PATH=.
EVAL_PREP_CONCURRENCY=1
REASONING_MAX_TOKENS=1
SAVE_ALL_EVAL_RESPONSES=1
EUROEVAL_DEBUG_LOG=x
FILTER_ACCESS_LOG=0
BASE_URL=http://x
""".replace("${A}", "$${A}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old/cache").mkdir(parents=True)
    (tmp_path / "old/auth.keys.json").write_text(json.dumps(KEYS))
    return tmp_path


@pytest.fixture
def imported(capsys: pytest.CaptureFixture[str]) -> Import:
    def imported(text: str, *arguments: str, status: int = 0) -> list[str]:
        Path("old/.env").write_text(text)
        files = ("old/.env", "old/auth.keys.json")
        code, out, err = run(capsys, "import-orchestrator", *files, *arguments)
        assert (code, out, "Traceback" in err) == (status, "", False), err
        return err.splitlines()

    return imported


def written(plugin: str, kind: type[T], config: Config | None = None) -> T:
    """The options that the written configuration has for a plugin."""
    found = load(Path("gateway.yaml"), {}) if config is None else config
    [entry] = [one for one in found.plugins if one.name == plugin]
    problems: list[str] = []
    options = entry.options_as(kind, problems)
    assert problems == []
    assert options is not None
    return options


def test_import_takes_every_variable_to_its_option(imported: Import, folder: Path) -> None:
    imported(EVERY)
    cache = folder / "old/cache"
    assert written("runtime", Options) == Options(
        models=(
            Model(
                name="Qwen/Qwen3-8B",
                engine="vllm",
                arguments=(
                    "--max-model-len",
                    "8192",
                    "--override",
                    '{"temperature": 0, "x": "${A}"}',
                ),
                docker=Docker(
                    image="registry:5000/vllm@sha256:abc",
                    volumes=(
                        f"{cache}:/root/.cache/huggingface",
                        "/vllm/cache:/root/.cache/vllm",
                    ),
                ),
                ready_timeout=1200,
            ),
        ),
        runtimes=(Runtime(realtime="Qwen/Qwen3-8B", port=31_000),),
        rules=Rules(min_hot=60, cooldown=12.5, tokens=2, refill=1_000, drain_batch=0),
        logs=f"{cache}/failures",
    )
    assert written("batch", BatchOptions) == BatchOptions(max_concurrent=32)
    assert written("usage", UsageOptions) == UsageOptions(keep_days=2, internal_id="nobody")
    assert written("auth", Auth.Config) == Auth.Config(keys_file="keys.json", check_interval=0.5)


def test_import_of_an_empty_file_takes_the_defaults_of_the_orchestrator(imported: Import) -> None:
    told = imported("")
    assert written("runtime", Options) == Options(
        models=(
            Model(
                name="synquid/gemma-3-27b-it-FP8",
                engine="sglang",
                arguments=("--tp", "2", "--cuda-graph-max-bs", "16"),
                docker=Docker(image="lmsysorg/sglang:b200-cu129"),
            ),
        ),
        runtimes=(Runtime(realtime="synquid/gemma-3-27b-it-FP8"),),
    )
    assert [line.removeprefix("old/.env: ") for line in told[1:-1]] == [
        "RUNTIME_TYPE is not set: the orchestrator's sglang is written",
        "REALTIME_MODEL is not set: the orchestrator's synquid/gemma-3-27b-it-FP8 is written",
        (
            "HOST_HF_CACHE is not set: containers get no folder of models, and fetch them at each "
            "start. Add a volume"
        ),
    ]


def test_import_has_a_line_for_each_variable_set_or_not(imported: Import) -> None:
    for text in ("", EVERY):
        imported(text, "--force")
        comments = [
            line.partition("#")[2] for line in Path("gateway.yaml").read_text().splitlines()
        ]
        for variable in VARIABLES:
            assert any(variable.name in comment for comment in comments), variable.name


def test_options_in_comments_load_once_they_are_none(imported: Import) -> None:
    imported("RUNTIME_TYPE=vllm")
    path = Path("gateway.yaml")
    text = path.read_text()
    for key in ("min_hot", "cooldown", "tokens", "refill", "drain_batch", "rules:"):
        text = text.replace(f"# {key}", key)
    path.write_text(text.replace("# - {<<", "- {<<").replace("# keep_days", "keep_days"))
    options = written("runtime", Options)
    first, second = options.models
    assert second == msgspec.structs.replace(first, name="another/model")
    assert options.rules == Rules(refill=1801.8)


def test_secrets_are_neither_written_nor_told(imported: Import) -> None:
    told = imported(EVERY)
    texts = [*told, Path("gateway.yaml").read_text(), Path("keys.json").read_text()]
    for secret in ("HF-SECRET", "REDIS-SECRET", 'TOKEN"', "${HF"):
        assert secret not in "\n".join(texts)
    assert written("runtime", Options).secrets == ("HF_TOKEN",)
    modes = [Path(name).stat().st_mode & 0o777 for name in ("gateway.yaml", "keys.json")]
    assert modes == [0o600, 0o600]


def test_secrets_are_not_kept_in_what_was_read() -> None:
    path = Path(".env")
    path.write_text(EVERY)
    settings = read_dotenv(path)
    found = find(path, settings)
    assert found.values["HF_TOKEN"] == ""
    assert "SECRET" not in repr((settings, found))


def test_import_tells_what_has_no_effect_and_why(imported: Import) -> None:
    told = [line for line in imported(EVERY) if line.startswith("old/.env:")]
    named = [line.split(": ")[1].split(" ")[0] for line in told]
    unused = [one.name for one in VARIABLES if not one.option]
    others = ["HOST_HF_CACHE", "HF_TOKEN", "DEFAULT_READY_TIMEOUT_S"]
    assert sorted(named) == sorted([*unused, *others])
    assert "old/.env:12: HOST_HF_CACHE has no effect: HOST_HF_CACHE_HOST counts instead" in told
    assert "old/.env:24: DEFAULT_READY_TIMEOUT_S has no effect: RUNTIME_TYPE is vllm" in told
    assert "old/.env:20: L_MAX_S has no effect. The orchestrator does not use it either." in told


def test_import_names_variables_that_it_does_not_know(imported: Import) -> None:
    told = imported("MIN_HOT_TTL=5\nREALTIME_MODEL=a\nX=1\nREALTIME_MODEL=b\nTOKENS_B=\n")
    assert told[1:5] == [
        (
            "old/.env:1: MIN_HOT_TTL is not a variable of the orchestrator, and has no effect; "
            "did you mean MIN_HOT_TTL_S?"
        ),
        "old/.env:4: REALTIME_MODEL is set here again, and line 2 has no effect",
        "old/.env:3: X is not a variable of the orchestrator, and has no effect",
        "old/.env:5: TOKENS_B is empty, as if it were not set",
    ]
    assert written("runtime", Options).runtimes == (Runtime(realtime="b"),)


def test_import_tells_a_bounded_number_of_lines(imported: Import) -> None:
    told = imported("".join(f"X{number}=1\n" for number in range(1_000)))
    assert len(told) == 103
    assert told[101].startswith("old/.env: and 90")


def test_variables_of_the_other_engine_have_no_effect(imported: Import) -> None:
    told = imported("RUNTIME_TYPE=sglang\nVLLM_CACHE_HOST=/c\nVLLM_READY_TIMEOUT_S=5\n")
    model = written("runtime", Options).models[0]
    assert model.ready_timeout == 1_800.0
    assert model.docker == Docker(image="lmsysorg/sglang:b200-cu129")
    assert "old/.env:2: VLLM_CACHE_HOST has no effect: RUNTIME_TYPE is sglang" in told


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("RUNTIME_TYPE=SECRET", "expected vllm or sglang"),
        ("RUNTIME_PORT=70000", "expected a port from 1 to 65535"),
        (
            'RUNTIME_ARGS="--x \'SECRET"',
            "expected arguments as a shell splits them: a quote is open",
        ),
        ("RUNTIME_ARGS=--hf_token=SECRET", "--hf-token is a secret, which no configuration"),
        ("RUNTIME_ARGS=--api-key SECRET", "--api-key is a secret, which no configuration"),
        (f"REALTIME_MODEL={'x' * 201}", "expected at most 200 characters"),
        ("HOST_HF_CACHE=/a:/b", "expected the path of a folder, without a colon"),
        ("MIN_HOT_TTL_S=-1", "expected a number of seconds from 0 on"),
        ("MIN_HOT_TTL_S=nan", "expected a number of seconds from 0 on"),
        ("REALTIME_COOLDOWN_S=inf", "expected a number of seconds from 0 on"),
        ("TOKENS_B=0.5", "expected a number of at least 1: a switch costs one token"),
        ("TOKENS_REFILL_PER_SEC=0", "expected a number of tokens per second greater than 0"),
        ("MAX_CONCURRENT_BATCH=1.5", "expected an integer greater than 0"),
        ("VLLM_READY_TIMEOUT_S=SECRET", "expected a number of seconds greater than 0"),
        ("USAGE_BUCKET_TTL_S=1e30", "expected at most 3153600000 seconds"),
        ("X=$(SECRET)", "expected ${NAME} or ${NAME:-default}, and no commands"),
    ],
)
def test_import_refuses_bad_values_without_showing_them(
    imported: Import, setting: str, expected: str
) -> None:
    told = imported(f"# first\n{setting}\n", status=2)
    name = setting.partition("=")[0]
    assert told[0].startswith(f"old/.env:2: {name}: {expected}")
    assert "SECRET" not in "".join(told)
    assert not Path("gateway.yaml").exists()
    assert not Path("keys.json").exists()


def test_import_names_all_bad_values_at_once(imported: Import) -> None:
    assert len(imported("RUNTIME_PORT=x\nTOKENS_B=x\nP_MAX=x\n", status=2)) == 2


def test_import_names_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "import-orchestrator", "no.env", "old/auth.keys.json")
    assert (code, err) == (2, "no.env: cannot be read: No such file or directory\n")


@pytest.mark.parametrize("existing", ["gateway.yaml", "keys.json"])
def test_import_replaces_files_only_with_force(imported: Import, existing: str) -> None:
    Path(existing).write_text("mine")
    told = imported("", status=2)
    assert len(told) == 1
    assert existing in told[0]
    assert told[0].endswith("there is such a file; name another, or give --force")
    assert Path(existing).read_text() == "mine"
    assert sorted(one.name for one in Path().iterdir()) == sorted(["old", existing])
    imported("", "--force")
    assert Path(existing).read_text() != "mine"


def test_import_writes_where_it_is_told(imported: Import, folder: Path) -> None:
    Path("new").mkdir()
    imported("", "--output", "new/a.yaml", "--keys", "new/${b}.json")
    config = load(Path("new/a.yaml"), {})
    assert written("auth", Auth.Config, config).keys_file == "new/${b}.json"
    assert sorted(one.name for one in (folder / "new").iterdir()) == ["${b}.json", "a.yaml"]
    told = imported("", "--output", "x", "--keys", str(folder / "x"), status=2)
    assert told == ["x: --output and --keys name the same file"]
    told = imported("", "--output", "no/gateway.yaml", status=2)
    assert told == ["no/gateway.yaml: cannot be written: No such file or directory"]


def test_fault_1_5_import_refuses_two_keys_with_one_token(imported: Import) -> None:
    both = [{"id": name, "token": "TOKEN", "scopes": ["batch"]} for name in ("alice", "bob")]
    Path("old/auth.keys.json").write_text(json.dumps({"keys": both}))
    [line] = imported("", status=2)
    assert "keys[1] ('bob') has the same token as keys[0] ('alice')" in line
    assert not Path("gateway.yaml").exists()
    assert not Path("keys.json").exists()


def test_import_tells_by_its_status_that_keys_are_left_out(imported: Import) -> None:
    keys = [*KEYS["keys"], {"id": "bob"}]
    Path("old/auth.keys.json").write_text(json.dumps({"keys": keys}))
    told = imported("", status=1)
    assert told[0] == "old/auth.keys.json: keys[1] is left out: it has no token and no scopes"
    assert Path("gateway.yaml").exists()


@pytest.mark.parametrize(
    "offered", [[], [EntryPoint("keys", "gateway_plugins.gone:add", "gateway.commands")]]
)
def test_import_without_the_plugin_auth_says_so(
    imported: Import, monkeypatch: pytest.MonkeyPatch, offered: list[EntryPoint]
) -> None:
    monkeypatch.setattr(importing_keys, "entry_points", lambda **_: EntryPoints(offered))
    [line] = imported("", status=2)
    assert line.startswith("keys cannot be imported: no installed plugin has the command")
    assert not Path("gateway.yaml").exists()


def test_import_refuses_a_redis_url_and_says_what_to_do(imported: Import) -> None:
    [line] = imported("", "--redis-url", "redis://:SECRET@h", status=2)
    assert line.startswith("--redis-url: usage, unfinished items and evaluations cannot be")
    assert "gateway batch import" in line
    assert "SECRET" not in line


def test_import_reads_no_configuration_that_is_not_there_yet(
    imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    imported("")
    assert load(Path("gateway.yaml"), {}).port == 8_000


def test_written_configuration_passes_the_check(
    imported: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(EVERY)
    code, out, err = run(capsys, "config", "check", "gateway.yaml")
    assert (code or 0, out, err) == (0, "ok: 0 workers, 7 plugins\n", "")

"""The configuration: what may be written, which layer wins, and what is said of mistakes."""

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.config_files import overridden, problems, read
from support.paths import ROOT

from gateway.config import (
    OPTIONS,
    TLS,
    Config,
    Cors,
    Failover,
    Node,
    Probes,
    ServerLimits,
    StorageSettings,
    Timeouts,
    Worker,
    is_loopback,
    load,
    schema,
)
from gateway.config.hints import fields_of
from gateway.config.node import merge
from gateway.config.sources.environment import variables
from gateway.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("written", "url", "api_path", "worker_id"),
    [
        ("http://h:8000/v1", "http://h:8000", "/v1", "h:8000"),
        ("http://h:8000", "http://h:8000", "/v1", "h:8000"),
        ("http://h:8000/", "http://h:8000", "/v1", "h:8000"),
        ("http://h/openai/v1/", "http://h", "/openai/v1", "h:80"),
        ("HTTPS://API.example.com", "https://api.example.com", "/v1", "api.example.com:443"),
        ("http://[::1]:8000/v2", "http://[::1]:8000", "/v2", "[::1]:8000"),
        ("http://[::1]", "http://[::1]", "/v1", "[::1]:80"),
        ("http://h:", "http://h", "/v1", "h:80"),
    ],
)
def test_worker_url_is_split_into_its_parts(
    written: str, url: str, api_path: str, worker_id: str
) -> None:
    for worker in (read(f"workers: ['{written}']").workers[0], Worker(url=written)):
        assert (worker.url, worker.api_path, worker.worker_id) == (url, api_path, worker_id)
        assert msgspec.structs.replace(worker) == worker


def test_worker_has_the_host_and_port_of_its_url() -> None:
    assert (Worker(url="https://[::1]/v1").host, Worker(url="https://[::1]/v1").port) == (
        "::1",
        443,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:8000",
        "ftp://h",
        "http://",
        "http:///v1",
        "http://h:port",
        "http://h:0",
        "http://h:65536",
        "http://[::1",
        "http://[h]:80",
        "http://a b",
        "http://h/\n",
        "http://h\t:80",
        "http://hé",
        "http://h,i",
        "http://h?",
        "http://h/v1#",
        "http://h/v1?key=SECRET",
        "http://me:SECRET@h:8000",
        "http://me:SECRET@h:port/v1",
        "http://me:SEC//SECRET@h",
        "me:SECRET@h:8000",
        "h/v1?SECRET",
    ],
)
def test_config_rejects_invalid_worker_urls(url: str) -> None:
    (problem,) = problems(json.dumps({"workers": [{"url": url}]}))
    assert problem.startswith('gateway.yaml:1: workers[0].url: expected a URL such as "http://')
    assert ', got "' in problem
    assert "SECRET" not in problem
    with pytest.raises(ValueError, match="expected a URL"):
        Worker(url=url)


def test_config_accepts_an_api_path_unless_the_url_differs() -> None:
    same = "workers: [{url: http://h/v2/, api_path: /v2}, {url: http://i, api_path: /x/}]"
    assert [worker.api_path for worker in read(same).workers] == ["/v2", "/x"]
    assert problems("workers:\n - url: http://h/v2\n   api_path: /v1\n") == [
        "gateway.yaml:3: workers[0].api_path: differs from the path of url; write one of the two"
    ]
    for wrong in ("v1", "/", "//x", "/v1?x", "/v 1", "/v1\\n"):
        (problem,) = problems(f'workers: [{{url: http://h, api_path: "{wrong}"}}]')
        assert 'api_path: expected a path such as "/v1", got' in problem


def test_config_gives_workers_unique_ids() -> None:
    text = """
workers:
 - http://h/v1
 - {url: http://i, worker_id: "h:80#2"}
 - http://h/v2
 - http://h/v3
"""
    ids = [worker.worker_id for worker in read(text).workers]
    assert ids == ["h:80", "h:80#2", "h:80#3", "h:80#4"]
    built = Config(workers=(Worker(url="http://h"), Worker(url="http://h")))
    assert [worker.worker_id for worker in built.workers] == ["h:80", "h:80#2"]
    assert msgspec.structs.replace(built) == built


def test_config_rejects_a_duplicate_worker_id() -> None:
    text = "workers:\n - {url: http://h, worker_id: a}\n - url: http://i\n   worker_id: a\nport: x"
    assert problems(text) == [
        "gateway.yaml:4: workers[1].worker_id: another worker has this id too",
        'gateway.yaml:5: port: expected a port from 0 to 65535, got "x"',
    ]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ('{A: "x\\ny"}', "headers.A: expected text that a header can hold, without CR, LF and NUL"),
        ('{A: "SECRET\\0"}', "headers.A: expected text that a header can hold"),
        ('{A: "SECRET\\n"}', "headers.A: expected text that a header can hold"),
        ("{A: €}", "headers.A: expected text that a header can hold"),
        ("{A: 31337}", "headers.A: expected text that a header can hold"),
        ('{"A: SECRET": }', "headers: expected the name of an HTTP header"),
        ('{"A\\n": x}', "headers: expected the name of an HTTP header"),
        ("Bearer SECRET", "headers: expected a mapping, got text (not shown)"),
        ("{Content-Length: x}", "headers.Content-Length: is the gateway's own to send"),
        ("{HOST: x}", "headers.HOST: is the gateway's own to send"),
        ("{A: x, a: y}", "headers.a: is there twice, in other letter case"),
    ],
)
def test_config_rejects_invalid_worker_headers(headers: str, problem: str) -> None:
    said = problems(f"workers: [{{url: http://h, headers: {headers}}}]")
    assert said[0].startswith(f"gateway.yaml:1: workers[0].{problem}")
    assert "31337" not in "".join(said)
    assert "got text (not shown)" in said[0] or "got a number" in said[0] or ", got" not in said[0]


def test_config_checks_the_tls_settings_of_a_worker() -> None:
    text = "workers: [{url: https://h, tls: {ca_file: ca.pem, verify: false}}]"
    assert read(text).workers[0].tls == TLS(ca_file="ca.pem", verify=False)
    assert problems("workers: [{url: http://h, tls: {}}]") == [
        "gateway.yaml:1: workers[0].tls: is of no use over http; write an https URL"
    ]
    (problem,) = problems("workers: [{url: https://h, tls: {key_file: k}}]")
    assert problem.endswith(".tls.key_file: a key without its certificate; name that in cert_file")


MISTAKES = """\
port: 90900
hots: x
zzz: 1
timeouts:
  connect:
    "fast"
  first_byte: 0
  idle: .inf
  keepalive: null
workers:
  - http://ok:8000
  - {url: http://ok:8000, weight: true, model: x}
  - weight: 2
  - 5
plugins: sessions
server_limits: [1]
log_level: loud
extra_paths: [version, "/a/{b}"]
allow_anonymous: 1
storage: {path: ""}
"""


SAID = """\
gateway.yaml:1: port: expected a port from 0 to 65535, got 90900
gateway.yaml:2: hots: unknown field; did you mean "host"?
gateway.yaml:3: zzz: unknown field; the fields are host, port, processes, workers, plugins, \
timeouts, server_limits, failover, probes, cors, storage, stream_errors, \
server_timing, model, allow_anonymous, log_level, log_format, extra_paths
gateway.yaml:5: timeouts.connect: expected a number greater than 0 (seconds) or null, got "fast"
gateway.yaml:7: timeouts.first_byte: expected a number greater than 0 (seconds) or null, got 0
gateway.yaml:8: timeouts.idle: expected a number greater than 0 (seconds) or null, got inf
gateway.yaml:9: timeouts.keepalive: expected a number greater than 0 (seconds), got null
gateway.yaml:12: workers[1].weight: expected a number greater than 0, got true
gateway.yaml:12: workers[1].model: unknown field; did you mean "models"?
gateway.yaml:13: workers[2].url: missing; expected a URL such as "http://host:8000/v1"
gateway.yaml:14: workers[3]: expected a URL such as "http://host:8000/v1", or a mapping with one, \
got 5
gateway.yaml:15: plugins: expected a list, got "sessions"
gateway.yaml:16: server_limits: expected a mapping, got a list
gateway.yaml:17: log_level: expected "debug", "info", "warning" or "error", got "loud"
gateway.yaml:18: extra_paths[0]: expected a path like "/version", got "version"
gateway.yaml:18: extra_paths[1]: expected a path like "/version", got "/a/{b}"
gateway.yaml:19: allow_anonymous: expected true or false, got 1
gateway.yaml:20: storage.path: expected text that is not empty, got ""\
"""


def test_config_reports_all_errors_at_once() -> None:
    assert "\n".join(problems(MISTAKES)) == SAID


def test_toml_errors_name_the_field() -> None:
    text = 'workers = ["http://h/v1", {url = "ftp://h"}]\n[timeouts]\nconect = 1\ndrain = "x"'
    url = 'expected a URL such as "http://host:8000/v1", http or https'
    assert problems(text, name="gateway.toml") == [
        f'gateway.toml: workers[1].url: {url}, got "ftp://h"',
        'gateway.toml: timeouts.conect: unknown field; did you mean "connect"?',
        'gateway.toml: timeouts.drain: expected a number greater than 0 (seconds) or null, got "x"',
    ]
    many = ", ".join(['"http://10.0.0.1:8000/v1"'] * 200)
    assert len(read(f"workers = [{many}]", name="gateway.toml").workers) == 200
    plugins = '[[plugins]]\nsessions = {}\n[[plugins]]\n[plugins.access_log]\npath = "x"'
    assert [entry.name for entry in read(plugins, name="a.TOML").plugins] == [
        "sessions",
        "access_log",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nport: 1\nport: 2", "gateway.yaml:3: port: written before, at gateway.yaml:2"),
        (
            "host: !!python/name:os.system",
            'gateway.yaml:1: host: the tag "tag:yaml.org,2002:python/',
        ),
        ("server_limits: !!set {a}", "gateway.yaml:1: server_limits: the tag"),
        ("port: !!binary eA==", "gateway.yaml:1: port: the tag"),
        ("? [a]\n: b", "gateway.yaml:1: expected the name of a field before the colon"),
        ("? &a [*a]\n: b", "gateway.yaml:1: expected the name of a field before the colon"),
        ("\nhost: *nobody", "gateway.yaml:2: not YAML: "),
        ("host: [", "not YAML: "),
        ("host:\n\tx: 1", "gateway.yaml:2: not YAML: "),
        ("host: a\n---\nhost: b", "not YAML: "),
        ("host: \0", "gateway.yaml: not YAML: a character in it is forbidden there"),
        ("- host", "gateway.yaml:1: expected fields such as `port: 9090`, got a list"),
        ("SECRET", "gateway.yaml:1: expected fields such as `port: 9090`, got text (not shown)"),
        ("host: &a [*a]", "gateway.yaml:1: an alias nests too deep, or in itself"),
        ("a: " + "[" * 600_000, "gateway.yaml:1: nested more than 32 levels deep"),
        ("- " * 40 + "1", "gateway.yaml:1: nested more than 32 levels deep"),
        ("a: |\n " + "[" * 600 + "\nb: '", "not YAML: "),
        ("a: " + "{a: " * 33 + "1", "gateway.yaml:1: nested more than 32 levels deep"),
        ("x: 1\n<<: 5", 'gateway.yaml:2: "<<": expected the alias of a mapping'),
        (b"host: x\nport: \xff", "gateway.yaml:2: expected text in UTF-8"),
        (b"#" * (1024 * 1024 + 1), "gateway.yaml: larger than 1048576 bytes"),
        ("x" * 100_000 + ": 1", "gateway.yaml:1: "),
        ("port: 0x" + "f" * 10_000, "got a number of more than 64 bits"),
        ("port: " + "9" * 10_000, 'got "999'),
        ("port: 010", 'got "010"'),
        ("timeouts: {connect: 1:30}", 'got "1:30"'),
        ("workers: [{url: http://h, worker_id: 'a\n\n b'}]", 'got "a\\n'),
    ],
)
def test_yaml_file_rejects_invalid_content(text: str | bytes, problem: str) -> None:
    said = problems(text)
    assert any(problem in line for line in said), said
    assert max(map(len, said)) < 400
    assert "SECRET" not in "".join(said)


def test_yaml_alias_expansion_is_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 20)]
    assert "more than 50000 values, aliases resolved" in problems("\n".join(lines))[0]


def test_yaml_aliases_and_merge_keys_are_resolved() -> None:
    text = """
workers:
 - &one {url: http://h, weight: 2, headers: {A: b}}
 - {<<: *one, url: http://i}
 - {<<: [{weight: 3}, *one], url: http://j}
timeouts: {connect: 1_0, total: 5, idle: null}
"""
    config = read(text)
    assert [worker.host for worker in config.workers] == ["h", "i", "j"]
    assert [worker.weight for worker in config.workers] == [2, 2, 3]
    assert [worker.headers for worker in config.workers] == [{"A": "b"}] * 3
    assert (config.timeouts.connect, config.timeouts.total, config.timeouts.idle) == (10, 5, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("port = ", "gateway.toml: not TOML: "),
        ("port = 1\nport = 2", "gateway.toml: not TOML: "),
        ("a = " + "[" * 5000, "gateway.toml: nested more than 32 levels deep"),
        (".".join("a" * 40) + " = 1", "gateway.toml: nested more than 32 levels deep"),
        ("a = " + "{a = " * 40 + "1" + "}" * 40, "gateway.toml: nested more than 32 levels deep"),
        ("a = " + "[" * 40 + "]" * 40, "gateway.toml: nested more than 32 levels deep"),
        (".".join("a" * 5000) + " = 1", "gateway.toml:1: more than 250 dots; break the line"),
        ("port = 0x" + "f" * 10_000, "port: expected a port from 0 to 65535, got a number of more"),
    ],
)
def test_toml_file_rejects_invalid_content(text: str, problem: str) -> None:
    assert problem in problems(text, name="gateway.toml")[0]


def test_config_reports_an_unreadable_file() -> None:
    Path("folder.yaml").mkdir()
    expected = {
        "none.yaml": f"none.yaml: cannot be read: {os.strerror(errno.ENOENT)}",
        "folder.yaml": f"folder.yaml: cannot be read: {os.strerror(errno.EISDIR)}",
        "a\0.yaml": "a\0.yaml: cannot be read: ",
        "gateway.json": "gateway.json: expected the name of a .yaml, .yml or .toml file",
    }
    for name, problem in expected.items():
        with pytest.raises(ConfigError) as caught:
            load(Path(name), {"GATEWAY_PORT": "x"})
        assert caught.value.problems[0].startswith(problem)
        assert caught.value.problems[1].startswith("GATEWAY_PORT: port: expected a port")


def test_empty_file_loads_the_defaults() -> None:
    for text in ("", "# nothing\n", "---\n", "\ufeff"):
        assert read(text) == load() == Config()


def test_config_file_references_environment_variables() -> None:
    text = """
host: ${NAME}.local
port: ${PORT}
storage: {path: "$${NAME}/$NAME"}
allow_anonymous: "${YES}"
timeouts: ${TIMEOUTS}
workers: ${WORKERS}
"""
    environ = {"NAME": "${PORT}", "PORT": "80", "YES": "true", "WORKERS": "http://a, http://b,"}
    config = read(text.replace("timeouts: ${TIMEOUTS}", "timeouts: {total: '${PORT}'}"), environ)
    assert (config.host, config.port, config.storage.path) == ("${PORT}.local", 80, "${NAME}/$NAME")
    assert (config.allow_anonymous, config.timeouts.total) == (True, 80.0)
    assert [worker.url for worker in config.workers] == ["http://a", "http://b"]
    missing = "is not set in the environment; set it, or write $${ for a plain ${"
    assert f"gateway.yaml:6: timeouts: ${{TIMEOUTS}} {missing}" in problems(text, environ)


def test_config_errors_never_show_referenced_values() -> None:
    text = (
        "port: ${A}\nhost: ${B}${C}\nworkers: ['http://${A}']\nlog_level: x${A}\nplugins: ['${}']"
    )
    bare = "expected the name of a variable in ${...}; write $${ for a plain ${"
    said = problems(text, {"A": "SEC RET"})
    assert said[2] == f"gateway.yaml:5: plugins[0]: {bare}"
    assert (
        said[3] == "gateway.yaml:1 (A): port: expected a port from 0 to 65535, got text (not shown)"
    )
    assert len(said) == 6
    assert "SEC" not in "".join(said)


def test_environment_variables_set_config_fields() -> None:
    environ = {
        "GATEWAY_WORKERS": "http://a/v1, http://b",
        "GATEWAY_PLUGINS": "sessions,access_log",
        "GATEWAY_EXTRA_PATHS": "",
        "GATEWAY_LOG_LEVEL": "WARNING",
        "GATEWAY_ALLOW_ANONYMOUS": "true",
        "GATEWAY_TIMEOUTS__CONNECT": "null",
        "GATEWAY_SERVER_LIMITS__MAX_BODY_BYTES": "5",
        "GATEWAY_CONFIG": "elsewhere.yaml",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_PORT": "tcp://10.0.0.1:9090",
        "PATH": "/bin",
    }
    config = load(environ=environ)
    assert [worker.worker_id for worker in config.workers] == ["a:80", "b:80"]
    assert [(entry.name, entry.source) for entry in config.plugins] == [
        ("sessions", "GATEWAY_PLUGINS"),
        ("access_log", "GATEWAY_PLUGINS"),
    ]
    assert (config.extra_paths, config.log_level, config.allow_anonymous) == ((), "warning", True)
    assert (config.timeouts, config.port) == (Timeouts(connect=None), 9090)
    assert config.server_limits == ServerLimits(max_body_bytes=5)


def test_rllm_variables_override_the_file_but_not_gateway_variables() -> None:
    theirs = {
        "RLLM_GATEWAY_HOST": "h",
        "RLLM_GATEWAY_PORT": "1",
        "RLLM_GATEWAY_DB_PATH": "d",
        "RLLM_GATEWAY_STORE": "memory",
        "RLLM_GATEWAY_LOG_LEVEL": "INFO",
    }
    assert load(environ=theirs) == Config(
        host="h", port=1, storage=StorageSettings(path=":memory:")
    )
    named = {**theirs, "RLLM_GATEWAY_STORE": "sqlite"}
    assert load(environ=named).storage.path == "d"
    assert load(environ={"GATEWAY_PORT": "2", **theirs}).port == 2
    assert read("port: 3", theirs).port == 1


def test_config_rejects_misspelled_gateway_variables() -> None:
    environ = {"GATEWAY_TIMEOUT__IDLE": "1", "GATEWAY_WORKER": "x", "GATEWAY_HOST": ""}
    assert problems("", environ) == [
        'GATEWAY_TIMEOUT__IDLE: unknown variable; did you mean "GATEWAY_TIMEOUTS__IDLE"?',
        'GATEWAY_WORKER: unknown variable; did you mean "GATEWAY_WORKERS"?',
        'GATEWAY_HOST: host: expected text that is not empty, got ""',
    ]
    assert read("host: ${GATEWAY_WORKER}", {"GATEWAY_WORKER": "x"}).host == "x"


def test_command_line_overrides_set_config_fields() -> None:
    config = load(
        overrides={"port": "1", "host": None, "workers": ["http://a"], "storage.path": Path("d")}
    )
    assert config == Config(
        port=1, workers=(Worker(url="http://a"),), storage=StorageSettings(path="d")
    )
    deep: list[object] = []
    deep.append(deep)
    assert overridden(port="x", log_level="y", timeouts={"connect": -1}, prt=1, workers=deep) == [
        "--worker: workers: nested more than 32 levels deep",
        '--port: port: expected a port from 0 to 65535, got "x"',
        '--log-level: log_level: expected "debug", "info", "warning" or "error", got "y"',
        "--timeouts: timeouts.connect: expected a number greater than 0 (seconds) or null, got -1",
        '--prt: prt: unknown field; did you mean "port"?',
    ]
    assert {".".join(path) for path in variables().values()} >= set(OPTIONS)


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    return {path[0]: nested(path[1:], value) if path[1:] else value}


NUMBERS = [
    path
    for path in variables().values()
    if path[-1] not in ("host", "workers", "plugins", "extra_paths", "log_level")
    and path[-1] not in ("log_format", "durability", "allow_anonymous", "model", "persist_workers")
    and path[-1] not in ("statuses", "rerun", "budget", "jitter", "path", "processes")
    and path[-1] not in ("origins", "stream_errors", "server_timing")
]
Settings = dict[tuple[str, ...], int]
SETTINGS = st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 65535))


@given(SETTINGS, SETTINGS, SETTINGS)
def test_later_config_layer_wins(file: Settings, env: Settings, cli: Settings) -> None:
    names = {path: name for name, path in variables().items()}
    text = "\n".join(f"{'.'.join(path)} = {value}" for path, value in file.items())
    Path("gateway.toml").write_text(text)
    overrides: dict[str, Any] = {}
    for (first, *rest), value in cli.items():
        deeper = {rest[0]: value} if rest else {}
        overrides[first] = overrides.get(first, {}) | deeper if rest else value
    environ = {names[path]: str(value) for path, value in env.items()}
    config = load(Path("gateway.toml"), environ, overrides)
    for path in NUMBERS:
        expected = (file | env | cli).get(path, at(Config(), path))
        assert at(config, path) == expected


def at(config: object, path: tuple[str, ...]) -> object:
    for name in path:
        config = getattr(config, name)
    return config


# Trees of one shape: a name holds either a mapping in all layers or a number in all of them.
LAYERS = st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3) | st.fixed_dictionaries(
    {}, optional={"d": st.dictionaries(st.sampled_from("xyz"), st.integers())}
)


@given(LAYERS, LAYERS, LAYERS)
def test_merge_of_layers_is_associative(
    first: dict[str, object], second: dict[str, object], third: dict[str, object]
) -> None:
    a, b, c = Node.of(first, "a"), Node.of(second, "b"), Node.of(third, "c")
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, Node({}, "a")) == a == merge(Node({}, "b"), a)


WORDS = [*Config.__struct_fields__, *Worker.__struct_fields__, "connect", "<<", "max_calls"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("${HOME}"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(WORDS), inner),
)
TEXTS = (
    st.text()
    | st.text(alphabet="{}[]:,-&*!|>'\"%@`#\n\t ?a1.<=~$")
    | st.dictionaries(st.sampled_from(WORDS), VALUES).map(lambda tree: json.dumps(tree))
)


def told(*arguments: Any) -> None:
    """Load, and check that what is raised is a ConfigError that names each problem on a line."""
    try:
        load(*arguments)
    except ConfigError as error:
        said = error
    else:
        return
    assert said.problems
    assert str(said).splitlines() == list(said.problems)


@given(TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
def test_config_file_errors_are_always_config_errors(data: bytes) -> None:
    for name in ("gateway.yaml", "gateway.toml"):
        Path(name).write_bytes(data)
        told(Path(name), {"HOME": "x"})


@given(
    st.dictionaries(st.sampled_from([*variables(), "GATEWAY_X"]), st.text()),
    st.dictionaries(st.sampled_from(WORDS), VALUES),
)
def test_environment_and_override_errors_are_always_config_errors(
    environ: dict[str, str], overrides: dict[str, object]
) -> None:
    told(None, environ, overrides)


SECTIONS = ("timeouts", "server_limits", "failover", "probes", "cors", "storage")


def table(head: str) -> list[list[str]]:
    """The cells of each row of docs/config.md whose table begins with such a head."""
    found, within = [], ""
    for line in (ROOT / "docs" / "config.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            within = ""
        elif within == head and not cells[0].startswith("---"):
            found.append(cells)
        within = within or cells[0]
    return found


def rows() -> dict[str, list[str]]:
    """The cells of each row of a table of fields, under the field they begin with."""
    return {row[0].strip("`"): row[1:] for row in table("Field")}


def documented(cls: Any, prefix: str) -> Iterator[tuple[str, object]]:
    for field in fields_of(cls):
        yield f"{prefix}{field.name}", field.default if not field.required else ...


def test_config_docs_list_every_field_and_default() -> None:
    top = [pair for pair in documented(Config, "") if pair[0] not in SECTIONS]
    expected = dict(
        [
            *top,
            *documented(Timeouts, "timeouts."),
            *documented(ServerLimits, "server_limits."),
            *documented(Failover, "failover."),
            *documented(Probes, "probes."),
            *documented(Cors, "cors."),
            *documented(StorageSettings, "storage."),
            *documented(Worker, "workers[]."),
            *documented(TLS, "workers[].tls."),
        ]
    )
    assert list(rows()) == list(expected)
    made = {"workers[].api_path": "of the URL, else `/v1`", "workers[].worker_id": "`host:port`"}
    for name, default in expected.items():
        said = rows()[name][0]
        if default is ...:
            assert said == "required"
        elif name in made:
            assert said == made[name]
        elif isinstance(default, str):
            assert said == f"`{default}`"
        elif default is not msgspec.NODEFAULT:
            assert said == f"`{json.dumps(default)}`"
        else:
            assert said == "`{}`"


def test_config_docs_list_every_variable_and_option() -> None:
    table = rows()
    for name, path in variables().items():
        assert table[".".join(path)][1] == f"`{name}`"
    for field, option in OPTIONS.items():
        assert table[field][2] == f"`{option}`"
    named = re.findall(r"`(GATEWAY_\w+)`", "".join("".join(row) for row in table.values()))
    assert sorted(named) == sorted(variables())


def test_shipped_config_files_load() -> None:
    files = sorted((ROOT / "configs").glob("*.yaml"))
    loaded = {
        file.stem: load(
            file,
            {"FLEET_KEY": "k", "FLEET_CA": "ca.pem", "BACKENDS": "http://h", "OPENAI_API_KEY": "k"},
        )
        for file in files
    }
    assert {"minimal", "fleet"} <= loaded.keys()
    fleet = loaded["fleet"]
    ids = [worker.worker_id for worker in fleet.workers]
    assert ids == ["gpu-0:8000", "gpu-1:8000", "gpu-2-large", "overflow"]
    assert fleet.workers[3].headers == {"Authorization": "Bearer k"}
    assert fleet.workers[3].tls == TLS(ca_file="ca.pem")
    assert [entry.name for entry in loaded["minimal"].plugins] == ["sessions", "access_log"]


def test_schema_covers_all_fields_and_short_forms() -> None:
    whole = json.loads(schema())
    parts = whole["$defs"]
    for cls in (Config, Timeouts, ServerLimits, Failover, Probes, Cors, StorageSettings, TLS):
        names = [field.name for field in fields_of(cls)]
        assert list(parts[cls.__name__]["properties"]) == names
        assert parts[cls.__name__]["additionalProperties"] is False
    url, mapping, reference = parts["Worker"]["anyOf"]
    assert (url["type"], reference) == ("string", {"$ref": "#/$defs/Reference"})
    assert tuple(mapping["properties"]) == Worker.__struct_fields__
    name, one = parts["PluginEntry"]["anyOf"]
    assert (name["type"], one["maxProperties"]) == ("string", 1)
    for reference in re.findall(r'"#/\$defs/(\w+)"', schema().decode()):
        assert reference in parts


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
)
def test_loopback_hosts_are_recognized(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "gateway", "localhost.evil", "127.1"]
)
def test_public_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)

"""What `${NAME}` may say beyond a name, and sizes with their units."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.config_files import problems, read

from gateway.config import load, schema
from gateway.config.sizes import size

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize(
    ("environ", "host", "port"),
    [
        ({}, "here.local", 80),
        ({"NAME": "", "PORT": ""}, "here.local", 80),
        ({"NAME": "there", "PORT": "81"}, "there.local", 81),
        ({"NAME": "${PORT}", "PORT": "81"}, "${PORT}.local", 81),
    ],
)
def test_reference_default_replaces_an_unset_variable(
    environ: dict[str, str], host: str, port: int
) -> None:
    config = read("host: ${NAME:-here}.local\nport: ${PORT:-80}", environ)
    assert (config.host, config.port) == (host, port)


def test_reference_default_may_be_any_text_without_braces() -> None:
    text = "workers: ${W:-http://a:1, http://b}\nmodel: ${M:-}\nstorage: {path: '${D:-a b:-?$}'}"
    with pytest.raises(Exception, match="model: expected text that is not empty"):
        read(text)
    config = read(text, {"M": "m"})
    assert [worker.url for worker in config.workers] == ["http://a:1", "http://b"]
    assert config.storage.path == "a b:-?$"


def test_required_reference_fails_with_the_message_of_the_file() -> None:
    text = "host: ${HOST_NAME:?the address to listen on}\nport: ${PORT:?}"
    for environ in ({}, {"HOST_NAME": "", "PORT": ""}):
        assert problems(text, environ) == [
            (
                "gateway.yaml:1: host: ${HOST_NAME} is not set in the environment, or empty: "
                "the address to listen on"
            ),
            "gateway.yaml:2: port: ${PORT} is not set in the environment, or empty: it is required",
        ]
    assert read(text, {"HOST_NAME": "h", "PORT": "1"}).port == 1


@pytest.mark.parametrize("text", ["${A:+x}", "${A:=x}", "${A-x}", "${A:-{}}", "${A:", "${:-x}"])
def test_reference_rejects_other_shell_syntax(text: str) -> None:
    [problem] = problems(json.dumps({"host": text}), {"A": "a"})
    assert "expected the name of a variable in ${...}" in problem


def test_reference_error_names_variables_but_shows_no_value() -> None:
    text = "port: ${A:-1}${B}\nhost: ${C:-}\nlog_level: ${D:-loud}"
    assert problems(text, {"A": "x", "B": "SECRET"}) == [
        "gateway.yaml:1 (A, B): port: expected a port from 0 to 65535, got text (not shown)",
        'gateway.yaml:2: host: expected text that is not empty, got ""',
        'gateway.yaml:3: log_level: expected "debug", "info", "warning" or "error", got "loud"',
    ]


def test_referenced_gateway_variable_is_not_a_misspelling() -> None:
    assert read("host: ${GATEWAY_HOSTS:-h}", {"GATEWAY_HOSTS": "i"}).host == "i"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("20MB", 20_000_000),
        ("20 MiB", 20 << 20),
        ("1.5 gib", 3 << 29),
        ("1TB", 10**12),
        ("1 tib", 1 << 40),
        ("2kB", 2000),
        (" 2 KiB ", 2048),
        ("7b", 7),
    ],
)
def test_size_accepts_units(written: str, found: int) -> None:
    assert (
        read(
            json.dumps({"server_limits": {"max_body_bytes": written}})
        ).server_limits.max_body_bytes
        == found
    )
    environ = {"GATEWAY_SERVER_LIMITS__MAX_BODY_BYTES": written}
    assert load(environ=environ).server_limits.max_body_bytes == found


@pytest.mark.parametrize("written", ["0MB", "0.0001 kB", "MB", "20", "-1MB", "2MBit", "1e3MB"])
def test_size_rejects_invalid_text(written: str) -> None:
    assert problems(json.dumps({"server_limits": {"max_body_bytes": written}})) == [
        (
            "gateway.yaml:1: server_limits.max_body_bytes: expected a size greater than 0, in "
            f'bytes or such as "20 MiB", got "{written}"'
        )
    ]


@given(st.text() | st.integers() | st.none())
def test_size_returns_bytes_or_its_input_unchanged(written: str | int | None) -> None:
    found = size(written)
    assert found is written or (isinstance(found, int) and found >= 0)


def test_schema_covers_reference_defaults_and_sizes() -> None:
    parts = json.loads(schema())["$defs"]
    kinds = parts["ServerLimits"]["properties"]["max_body_bytes"]["anyOf"]
    assert [kind.get("type") for kind in kinds] == ["integer", "string", None]
    assert ":[-?]" in parts["Reference"]["pattern"]

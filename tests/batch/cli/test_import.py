"""`gateway batch import` queues the requests of a file, or says what is wrong with its lines."""

import json
from pathlib import Path

import pytest
from gateway_plugins.batch.batches.input.lines import Line
from gateway_plugins.batch.cli import importing
from gateway_plugins.batch.cli.requests import Mistaken, Reader
from gateway_plugins.batch.queue.submission import add
from hypothesis import given
from hypothesis import strategies as st
from support.records.queue_file import QueueFile
from support.records.queued_items import CHAT, OWNER, new_item

from gateway import Database

BODY = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.fixture
def queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> QueueFile:
    """A file that a gateway has used, so it has tables."""
    made = QueueFile(tmp_path, capsys)
    made.open().close()
    return made


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def batch_line(custom_id: str, url: str = CHAT, **body: object) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": BODY | body})


def test_import_queues_batch_lines_and_bare_bodies_of_a_file(queue: QueueFile, lines: Path) -> None:
    bare = '{"model": "llama",  "prompt": "x", "priority": 7}'
    embed = batch_line("b", "/v1/embeddings", input="x")
    lines.write_text("\ufeff" + "\r\n".join([batch_line("a"), "", bare, embed]))
    status, out, err = queue("import", str(lines), "--key", "ada", "--endpoint", "/v1/completions")
    assert (status, err) == (0, "3 items queued\n")
    printed = [json.loads(line) for line in out.splitlines()]
    assert [(one["line"], one["custom_id"]) for one in printed] == [(1, "a"), (3, None), (4, "b")]
    items = [queue.item(one["id"]) for one in printed]
    assert [one.path for one in items] == [CHAT, "/v1/completions", "/v1/embeddings"]
    assert [one.model for one in items] == ["sim", "llama", "sim"]
    assert [one.kind for one in items] == ["chat_completion", "completion", "other"]
    assert [one.priority for one in items] == [1, 7, 1]
    assert {one.owner for one in items} == {"ada"}
    assert items[0].deadline == items[0].submitted + 86_400
    assert json.loads(queue("show", items[0].id)[1])["request"] == BODY
    sent = json.loads(queue("show", items[1].id)[1])["request"]
    assert sent == {"model": "llama", "prompt": "x"}
    assert queue.counts() == (3, 0)


def test_import_without_a_key_queues_items_of_nobody(queue: QueueFile, lines: Path) -> None:
    lines.write_text(json.dumps(BODY))
    [printed] = queue("import", str(lines), "--priority", "-5")[1].splitlines()
    item = queue.item(json.loads(printed)["id"])
    assert (item.owner, item.priority) == ("", -5)


def test_import_names_each_bad_line_and_queues_none(queue: QueueFile, lines: Path) -> None:
    bad = {
        "{": "the line is not valid JSON",
        "[]": "the line must be a JSON object",
        '{"messages": []}': "model must be a string that is not empty",
        '{"model": "sim", "priority": "high"}': "priority must be an integer",
        batch_line("a", "/v1/files"): "url is '/v1/files', where workers have no API",
        batch_line("a").replace("POST", "GET"): "method must be POST, not 'GET'",
        '{"url": "/v1/completions", "body": {}}': "body.model must be a string",
        '{"url": "/v1/completions", "body": 1}': "body must be a JSON object",
    }
    lines.write_text("\n".join([batch_line("good"), *bad, '{"model": "cut']))
    status, out, err = queue("import", str(lines))
    assert (status, out) == (2, "")
    told = err.splitlines()
    assert len(told) == len(bad) + 1
    for number, (line, reason) in enumerate(zip(told, bad.values(), strict=False), 2):
        assert line.startswith(f"{lines}:{number}: {reason}")
    assert queue.counts() == (0, 0)


def test_import_names_at_most_a_hundred_bad_lines(queue: QueueFile, lines: Path) -> None:
    lines.write_text("{\n" * 150)
    told = queue("import", str(lines))[2].splitlines()
    assert len(told) == 101
    assert told[-1].endswith("no line after the 100th bad one was read")


def test_import_names_a_line_that_is_too_long_or_no_utf_8(queue: QueueFile, lines: Path) -> None:
    queue.configure("batch: {max_body_bytes: 200}")
    lines.write_bytes(batch_line("a" * 300).encode() + b'\n{"model": "\xff"}')
    assert queue("import", str(lines))[2].splitlines() == [
        f"{lines}:1: the line is longer than 200 bytes (max_body_bytes)",
        f"{lines}:2: the line is not UTF-8: the byte 0xff at position 11",
    ]


def test_import_respects_the_limits_of_the_queue(queue: QueueFile, lines: Path) -> None:
    queue.configure("batch: {max_queued: 3, max_queued_per_key: 2}")
    queue.add(OWNER, new_item())
    lines.write_text("\n".join([json.dumps(BODY)] * 3))
    assert (
        "3 items are too many: the queue is full: 3 items (max_queued)"
        in queue("import", str(lines))[2]
    )
    lines.write_text("\n".join([json.dumps(BODY)] * 2))
    assert "(max_queued_per_key)" in queue("import", str(lines), "--key", "ada")[2]
    assert queue.counts() == (1, 0)
    assert queue("import", str(lines))[0] == 0


def test_import_tells_what_is_queued_if_the_file_ends_half_way(
    queue: QueueFile, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "SLICE_LINES", 2)
    lines.write_text("\n".join([json.dumps(BODY)] * 4))

    def add_and_cut(db: Database, **items: object) -> None:
        add(db, **items)  # type: ignore[arg-type]
        lines.write_text("\n".join([json.dumps(BODY)] * 2 + ["{"] * 2))

    monkeypatch.setattr(importing, "add", add_and_cut)
    monkeypatch.setattr("gateway_plugins.batch.batches.input.lines.CHUNK", 100)
    status, out, err = queue("import", str(lines))
    assert (status, len(out.splitlines()), queue.counts()) == (2, 2, (2, 0))
    first, second = err.splitlines()
    assert first == "2 of 4 items were queued, those that are printed"
    assert second.startswith(f"{lines}: was changed meanwhile: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--priority", "101"),
        ("--priority", "high"),
        ("--endpoint", "/v1/files"),
        ("--endpoint", "chat"),
    ],
)
def test_import_rejects_invalid_arguments(
    queue: QueueFile, lines: Path, arguments: tuple[str, ...]
) -> None:
    lines.write_text(json.dumps(BODY))
    assert queue("import", str(lines), *arguments)[0] == 2
    assert queue.counts() == (0, 0)


def test_import_reports_a_missing_or_empty_file(queue: QueueFile, lines: Path) -> None:
    assert queue("import", str(lines))[2] == f"{lines}: cannot be read: No such file or directory\n"
    lines.write_text("\n\n")
    assert queue("import", str(lines))[2] == f"{lines}: has no request\n"


def read(text: bytes) -> None:
    """Read a line; anything but a request or a Mistaken fails the test."""
    try:
        request = Reader(CHAT, 1_000).read(Line(1, text))
    except Mistaken:
        return
    assert request.model


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_line_is_a_request_or_a_mistake(text: bytes) -> None:
    read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["custom_id", "method", "url", "body", "model", "priority"]),
        JSON | st.just({"model": "sim"}) | st.sampled_from(["POST", CHAT]),
    )
)
def test_any_object_is_a_request_or_a_mistake(members: dict[str, object]) -> None:
    read(json.dumps(members).encode())

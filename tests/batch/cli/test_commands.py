"""`gateway batch list|show|cancel|requeue` on a file that no gateway has open."""

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from gateway_plugins.batch.cli import listing
from gateway_plugins.batch.cli.output import Progress
from gateway_plugins.batch.queue import changes
from gateway_plugins.batch.queue.items import Owner
from support.records.queue_file import QueueFile
from support.records.queued_items import OWNER, new_item

from gateway import Principal
from gateway.cli import main

BOB = Owner(Principal("bob", frozenset({"batch"})))


@pytest.fixture
def queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> QueueFile:
    return QueueFile(tmp_path, capsys)


def rows(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()[1:]]


def test_list_prints_the_newest_items_first(queue: QueueFile) -> None:
    [first] = queue.add(OWNER, new_item(model="llama"))
    [second] = queue.add(BOB, new_item())
    status, out, err = queue("list")
    assert (status, err) == (0, "")
    assert [row[:4] for row in rows(out)] == [
        [second, "queued", "sim", "bob"],
        [first, "queued", "llama", "ada"],
    ]
    assert rows(queue("list", "--limit", "1")[1])[0][0] == second


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (("--status", "error"), [1]),
        (("--model", "sim"), [3, 2, 1]),
        (("--key", "bob"), [3]),
        (("--key", "ada", "--status", "queued"), [2, 0]),
        (("--model", "none"), []),
    ],
)
def test_list_filters_items(queue: QueueFile, filters: tuple[str, ...], found: list[int]) -> None:
    ids = [*queue.add(OWNER, new_item(model="llama"), new_item(), new_item())]
    ids += queue.add(BOB, new_item())
    queue.fail(ids[1])
    _, out, _ = queue("list", "--json", *filters)
    assert [json.loads(line)["id"] for line in out.splitlines()] == [ids[one] for one in found]


def test_list_reads_all_items_page_by_page(
    queue: QueueFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    ids = queue.add(OWNER, *(new_item() for _ in range(5)))
    for arguments, count in ((("--limit", "0"), 5), (("--limit", "3"), 3), ((), 5)):
        found = [row[0] for row in rows(queue("list", *arguments)[1])]
        assert found == list(reversed(ids))[:count]


def test_list_prints_the_objects_as_json_lines(queue: QueueFile) -> None:
    [item_id] = queue.add(OWNER, new_item())
    queue.fail(item_id)
    found = json.loads(queue("list", "--json")[1])
    assert found["id"] == item_id
    assert (found["status"], found["key"], found["attempts"]) == ("error", "ada", 1)
    assert found["last_error"] == {"code": "400", "message": "no"}


def test_list_escapes_control_characters(queue: QueueFile) -> None:
    queue.add(OWNER, new_item(model="\x1b[2J"))
    assert r"\x1b[2J" in queue("list")[1]


def test_show_prints_object_request_and_response(queue: QueueFile) -> None:
    item = new_item(seed=7)
    queue.add(OWNER, item)
    status, out, _ = queue("show", item.id)
    shown = json.loads(out)
    assert (status, shown["response"]) == (0, None)
    assert shown["request"] == json.loads(item.body)
    assert shown["item"]["status"] == "queued"
    queue.fail(item.id)
    shown = json.loads(queue("show", item.id)[1])
    assert shown["response"] == {"status": 400, "body": {"error": {"message": "no"}}}


def test_show_names_an_unknown_item(queue: QueueFile) -> None:
    queue.add(OWNER, new_item())
    assert queue("show", "x") == (1, "", f"{queue.path}: there is no item x\n")


def test_cancel_ends_items_and_names_those_that_it_cannot(queue: QueueFile) -> None:
    first, second, third = queue.add(OWNER, *(new_item() for _ in range(3)))
    queue.fail(second)
    status, out, err = queue("cancel", first, second, "x", "batch_1")
    assert (status, out) == (1, f"{first} canceled\n")
    assert err.splitlines() == [
        f"{second}: it is error already, so there is nothing to cancel",
        "x: there is no such item; `gateway batch list` prints those that there are",
        "batch_1: this is a batch, not an item: POST /v1/batches/batch_1/cancel cancels it",
    ]
    assert [queue.state(one) for one in (first, third)] == ["canceled", "queued"]
    assert queue.counts() == (1, 0)


def test_cancel_keeps_results_for_as_long_as_the_options_say(queue: QueueFile) -> None:
    queue.configure("batch: {keep_results: 60}")
    [item_id] = queue.add(OWNER, new_item())
    assert queue("cancel", item_id)[0] == 0
    item = queue.item(item_id)
    assert item.finished is not None
    assert item.expires == item.finished + 60


def test_requeue_queues_items_as_if_they_had_not_been_tried(queue: QueueFile) -> None:
    failed, canceled = queue.add(OWNER, new_item(deadline=1.0), new_item())
    queue.fail(failed)
    queue("cancel", canceled)
    assert queue("requeue", failed, canceled) == (0, f"{failed} queued\n{canceled} queued\n", "")
    item = queue.item(failed)
    assert (item.charged, item.status, item.finished, item.expires) == (0, None, None, None)
    assert item.deadline > item.submitted + 86_000
    assert json.loads(queue("show", failed)[1])["response"] is None
    assert queue.counts() == (2, 0)
    status, _, err = queue("requeue", failed)
    assert (status, err) == (1, f"{failed}: it is queued already, so there is nothing to requeue\n")


def test_requeue_failed_queues_all_failed_items_in_slices(
    queue: QueueFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SLICE", 2)
    ids = queue.add(OWNER, *(new_item() for _ in range(5)))
    others = queue.add(BOB, new_item(), new_item(model="llama"))
    queue.fail(*ids, *others)
    assert queue("requeue", "--failed", "--key", "bob", "--model", "sim")[1] == "1 items queued\n"
    slices: list[int] = []

    def show(_: Progress, done: int) -> None:
        slices.append(done)

    monkeypatch.setattr(Progress, "show", show)
    assert queue("requeue", "--failed")[1] == "6 items queued\n"
    assert slices == [2, 4, 6]
    assert queue("requeue", "--failed")[1] == "0 items queued\n"
    assert queue.counts() == (7, 0)


def test_requeue_leaves_what_fails_while_it_runs(queue: QueueFile) -> None:
    [item_id] = queue.add(OWNER, new_item())
    queue.fail(item_id)
    with closing(queue.open()) as db:
        db.execute("UPDATE batch_items SET finished = finished + 100")
    assert queue("requeue", "--failed")[1] == "0 items queued\n"


def test_requeue_leaves_lines_of_batch_files_alone(queue: QueueFile) -> None:
    [item_id] = queue.add(OWNER, new_item())
    queue.fail(item_id)
    with closing(queue.open()) as db:
        db.execute("UPDATE batch_items SET batch = 1, line = 1")
    assert queue("requeue", "--failed")[1] == "0 items queued\n"
    assert "submit the line in another batch" in queue("requeue", item_id)[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("requeue",),
        ("requeue", "x", "--failed"),
        ("requeue", "x", "--key", "ada"),
        ("list", "--status", "gone"),
        ("list", "--limit", "-1"),
        ("cancel",),
        ("show",),
        (),
    ],
)
def test_batch_command_rejects_invalid_arguments(
    queue: QueueFile, arguments: tuple[str, ...]
) -> None:
    assert queue(*arguments)[0] == 2


@pytest.mark.parametrize("action", ["list", "show", "cancel", "requeue"])
def test_batch_command_reports_a_file_without_a_queue(queue: QueueFile, action: str) -> None:
    arguments = (action,) if action == "list" else (action, "x")
    missing = "there is no such file; name one with --storage-path or --config"
    assert queue(*arguments) == (2, "", f"{queue.path}: {missing}\n")
    assert not queue.path.exists()
    sqlite3.connect(queue.path).close()
    none = "has no queue: no gateway with the plugin used it"
    assert queue(*arguments) == (2, "", f"{queue.path}: {none}\n")
    queue.path.write_bytes(b"no database, and long enough to be looked at " * 40)
    status, _, err = queue(*arguments)
    assert (status, err.startswith(f"{queue.path}: cannot be ")) == (2, True)


@pytest.mark.parametrize(
    ("action", "request_"),
    [("list", "GET /v1/batch"), ("cancel", "DELETE /v1/batch/completions/{id}")],
)
def test_batch_command_refers_to_http_for_a_database_in_memory(
    capsys: pytest.CaptureFixture[str], action: str, request_: str
) -> None:
    arguments = [action] if action == "list" else [action, "x"]
    with pytest.raises(SystemExit) as stopped:
        main(["batch", *arguments, "--storage-path", ":memory:"])
    assert stopped.value.code == 2
    assert request_ in capsys.readouterr().err


def test_batch_command_rejects_invalid_options_of_the_plugin(queue: QueueFile) -> None:
    [item_id] = queue.add(OWNER, new_item())
    queue.configure("batch: {keep_results: -1}")
    status, _, err = queue("cancel", item_id)
    assert status == 2
    assert "keep_results" in err
    assert queue.state(item_id) == "queued"


@pytest.mark.parametrize("action", ["list", "show", "cancel", "requeue"])
def test_batch_command_explains_itself(
    action: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["batch", action, "--help"])
    assert stopped.value.code == 0
    assert "--storage-path" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (io.StringIO(), "5 of 10 items\n"),
        (Terminal(), f"\r[{'#' * 15}{' ' * 15}]  50%  5 of 10 items\r\x1b[K"),
    ],
)
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    stream: io.StringIO, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "BAR_INTERVAL", 0.0)
    monkeypatch.setattr(Progress, "LINE_INTERVAL", 0.0)
    with Progress("items", 10, stream) as progress:
        progress.show(5)
    assert stream.getvalue() == shown

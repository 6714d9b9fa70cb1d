"""What is recorded of an answer that came compressed."""

import gzip
from collections.abc import Callable

import pytest
import zstandard
from gateway_plugins.trace_capture.recording.observer import Capture
from gateway_plugins.trace_capture.recording.record import make_record
from support.records.trace_records import Turn, body_of, sink_of_records

from gateway import Call
from gateway.testing import RecordingCaller

BODY = body_of(Turn([1], [[2, 3]]))


def capture(body: bytes, coding: bytes) -> Capture:
    call = Call(RecordingCaller(), method="POST", path="/v1/chat/completions")
    call.outcome.complete = True
    made = Capture(call, sink_of_records(), 1 << 20, None)
    made.started(200, [(b"content-type", b"application/json"), (b"content-encoding", coding)])
    made.reads.add(body)
    return made


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", gzip.compress(BODY, mtime=0)),
        (b"zstd", zstandard.compress(BODY)),
        (b"identity", BODY),
    ],
)
def test_record_reads_a_compressed_response(coding: bytes, body: bytes) -> None:
    found = make_record(capture(body, coding))
    assert (found.answer.parts[0].token_ids, found.head.reasons) == ([2, 3], [])


@pytest.mark.parametrize(
    ("coding", "compress"), [(b"gzip", gzip.compress), (b"zstd", zstandard.compress)]
)
def test_record_decompresses_no_more_than_it_keeps(
    coding: bytes, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(make_record.__globals__, "MAX_DECOMPRESSED", 1000)
    found = make_record(capture(compress(b"x" * 10_000_000), coding))
    assert len(found.answer.skeleton) < 2000
    assert "unreadable" in found.head.reasons


@pytest.mark.parametrize("coding", [b"gzip", b"zstd", b"br"])
def test_record_marks_an_undecodable_response_unreadable(coding: bytes) -> None:
    assert "unreadable" in make_record(capture(b"garbage", coding)).head.reasons

"""What a translated call says of a body that it did not, or could not, translate; and in order."""

from collections.abc import Callable

import pytest

from gateway.calls.callers.translating import TranslatingCaller
from gateway.headers import Headers
from gateway.testing import RecordingCaller
from gateway.wire.translation.responses.translator import responses_as_chat

BROTLI = b"\x0b\x02\x80nonsense\x03"


async def answered(status: int, headers: Headers, body: bytes) -> RecordingCaller:
    caller = RecordingCaller()
    way = responses_as_chat(b'{"model": "m", "input": "x"}').response
    translating = TranslatingCaller(caller, way, "id", 1 << 20, streams=False)
    translating.start(status, headers)
    await translating.end(body)
    return caller


async def test_an_error_page_keeps_its_type_and_its_coding() -> None:
    headers = [(b"content-type", b"text/html"), (b"content-encoding", b"br")]
    caller = await answered(502, headers, BROTLI)
    assert caller.status == 502
    assert set(headers) < set(caller.headers)
    assert b"".join(caller.chunks) == BROTLI


async def test_an_error_in_place_of_a_coded_body_is_not_coded() -> None:
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"br")]
    caller = await answered(200, headers, BROTLI)
    assert caller.status == 502
    assert b"content-encoding" not in dict(caller.headers)
    assert b"no response of chat" in b"".join(caller.chunks)


async def test_an_answer_without_a_choice_is_told_so() -> None:
    caller = await answered(200, [(b"content-type", b"application/json")], b'{"choices":[]}')
    assert b"has no choice" in b"".join(caller.chunks)


class Waiting:
    """A translator that sends events with `late` in them only once it settles."""

    failure = None

    def __init__(self) -> None:
        self._late: list[bytes] = []

    def begin(self, send: Callable[[bytes], bool]) -> None:
        self._send = send

    async def settle(self, body: bytes) -> None:
        for event in self._late:
            self._send(event)

    def close(self) -> None:
        self._late.clear()

    def event(self, data: bytes) -> bytes:
        if b"late" not in data:
            return data
        self._late.append(data)
        return b""

    def comment(self) -> bytes:
        return b""

    def end(self, *, done: bool) -> bytes:
        return b"done" if done else b""

    def answer(self, body: bytes) -> bytes:
        return body

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return body


@pytest.mark.parametrize("late", ["late", "last"])
async def test_what_was_translated_before_is_sent_before_what_had_to_wait(late: str) -> None:
    caller, way = RecordingCaller(), Waiting()
    translating = TranslatingCaller(caller, way, "id", 1 << 20, streams=False, settling=way)
    translating.start(200, [(b"content-type", b"text/event-stream")])
    last = f"data: one\n\ndata: {late}\n\ndata: [DONE]\n\n".encode()
    await translating.settle(last)
    sent = b"".join(caller.chunks)
    assert sent == (b"onelate" if late == "late" else b"")  # the end itself is held back
    await translating.end(last)
    assert b"".join(caller.chunks) == f"one{late}done".encode()

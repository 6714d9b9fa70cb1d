"""What a translated call says of a body that it did not, or could not, translate."""

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

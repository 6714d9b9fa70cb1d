"""What the last bytes of a response say about its end, for the forms that engines send."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.vllm_recordings import MORE, load

from gateway import Ending, api_of
from gateway.testing import sse
from gateway.wire.reported.ending import (
    FINISHED,
    UNKNOWN,
    Tail,
    ending_of_answer,
    ending_of_stream,
    ends_as_most,
    is_as_most,
)

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
DONE = b"data: [DONE]\n\n"


def stream(
    text: bytes, path: str = CHAT, *, complete: bool = True, whole: bool = True, n: int = 1
) -> Ending:
    return ending_of_stream(api_of(path), Tail(text, whole, complete), b'{"n":%d}' % n)


def plain(answer: object, path: str = CHAT) -> Ending:
    return ending_of_answer(api_of(path), Tail(msgspec.json.encode(answer), True, True))


def event(index: int = 0, finish: object = None, **more: object) -> bytes:
    choice = {"index": index, "delta": {"content": "a"}, "finish_reason": finish}
    return sse({"choices": [choice], **more})


RECORDED = {
    "default/chat_stream_n2_token_ids_usage": FINISHED,
    "default/responses_stream": FINISHED,
    "crash/sigterm_api_stream": Ending(finished=True, aborted=True),
    "crash/sigterm_api_messages_stream": Ending(finished=True, aborted=True),
    "default/abort_midstream": Ending(finished=False),
}


@pytest.mark.parametrize("name", RECORDED)
def test_ending_of_a_recorded_stream_is_what_the_engine_did(name: str) -> None:
    exchange = load()[name]
    complete = "midstream" not in name
    assert stream(exchange.body, exchange.path, complete=complete) == RECORDED[name]


@pytest.mark.parametrize(
    "name", ["crash/kill9_worker_stream", "crash/kill9_worker_messages_stream"]
)
def test_ending_of_a_killed_engine_is_its_fault(name: str) -> None:
    exchange = load()[name]
    found = stream(exchange.body, exchange.path)
    assert (found.fault, found.finished, bool(found.error)) == (True, False, True)


ABORTED_AT_ONCE = [
    "multi/chat_aborted_before_first_stream",
    "multi/generate_aborted_before_first_stream",
    "multi/messages_aborted_before_first_stream",
    "multi/responses_aborted_before_first_stream",
]


@pytest.mark.parametrize("name", ABORTED_AT_ONCE)
def test_stream_that_ends_before_its_first_token_was_aborted(name: str) -> None:
    """Of these, generate alone says so itself."""
    exchange = load(MORE)[name]
    assert stream(exchange.body, exchange.path).aborted
    assert not stream(exchange.body[:-20], exchange.path, complete=False).error


@pytest.mark.parametrize("count", [{"completion_tokens": 1}, {"completion_tokens": "0"}, {}, 7])
def test_stream_without_an_end_was_not_aborted_if_something_was_sampled(count: object) -> None:
    begun = sse({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    assert not stream(begun + sse({"choices": [], "usage": count}) + DONE).aborted
    none = sse({"choices": [], "usage": {"completion_tokens": 0}})
    assert stream(begun + none + DONE).aborted
    assert stream(none + DONE, "/v1/completions").aborted
    assert not stream(begun + none).aborted, "it may have broken off"
    assert not stream(begun + none + DONE, whole=False).aborted
    assert not stream(event(finish="stop") + none + DONE).aborted


def test_finish_reasons_tell_a_whole_stream_and_done_does_not() -> None:
    assert stream(event() + event(finish="stop")) == FINISHED
    assert stream(event() + DONE) == Ending(finished=False)
    assert stream(event(finish="") + DONE) == Ending(finished=False)
    assert stream(event(finish="null") + DONE) == Ending(finished=False)
    assert stream(event(finish="null") + event(finish="stop")) == FINISHED
    assert stream(b"") == Ending(finished=False), "200 and nothing at all"
    assert stream(b"", whole=False) == UNKNOWN, "what came before may tell"


def test_usage_event_with_a_choice_does_not_open_it_again() -> None:
    late = sse({"choices": [{"index": 0, "delta": {}}], "usage": {"prompt_tokens": 1}})
    assert stream(event(finish="stop") + late + DONE) == FINISHED


def test_cut_stream_is_finished_once_all_choices_asked_for_are() -> None:
    first, second = event(0, "stop"), event(1, "length")
    assert not stream(first, n=2, complete=False).finished
    assert stream(first + second, n=2, complete=False).finished
    assert stream(first, n=2).finished, "an engine that ignores n ends in good order"
    assert not stream(first + event(1), n=2).finished


def test_cut_completion_has_to_finish_each_prompt_too() -> None:
    api, tail = api_of("/v1/completions"), Tail(event(0, "stop") + event(1, "stop"), True, False)
    for prompt, n, finished in (("a", 2, True), (["a", "b"], 1, True), ([[1], [2]], 2, False)):
        request = msgspec.json.encode({"prompt": prompt, "n": n})
        assert ending_of_stream(api, tail, request).finished == finished


def test_cut_stream_of_token_ids_has_to_finish_each_choice_too() -> None:
    api, tail = api_of("/inference/v1/generate"), Tail(event(0, "stop"), True, False)
    for n, finished in ((1, True), (2, False)):
        request = msgspec.json.encode({"token_ids": [1, 2], "sampling_params": {"n": n}})
        assert ending_of_stream(api, tail, request).finished == finished


@pytest.mark.parametrize("finish", ["abort", {"type": "abort"}])
def test_abort_is_told_by_the_finish_reason(finish: object) -> None:
    assert stream(event(finish=finish) + DONE) == Ending(finished=True, aborted=True)
    answer = {"choices": [{"index": 0, "finish_reason": finish}]}
    assert plain(answer) == Ending(finished=True, aborted=True)


ERRORS: dict[str, tuple[object, bool]] = {
    "code 500": ({"error": {"message": "dead", "code": 500}}, True),
    "no code": ({"error": "dead"}, True),
    "code as text": ({"error": {"message": "dead", "code": "400"}}, False),
    "too long": ({"error": {"message": "dead", "code": 400}}, False),
    "type": ({"error": {"message": "dead", "type": "invalid_request_error"}}, False),
    "object": ({"object": "error", "message": "dead", "code": 500}, True),
    "anthropic": ({"type": "error", "error": {"type": "api_error", "message": "dead"}}, True),
    "failed": ({"type": "response.failed", "response": {"error": {"message": "dead"}}}, True),
    "top level": ({"type": "error", "message": "dead", "code": "server_error"}, True),
}


@pytest.mark.parametrize("said", ERRORS.values(), ids=ERRORS)
def test_error_in_a_stream_tells_whose_fault_it_is(said: tuple[object, bool]) -> None:
    error, fault = said
    found = stream(event() + b"data: " + msgspec.json.encode(error) + b"\n\n" + DONE)
    assert (found.error, found.fault) == ("dead", fault)


def test_error_of_a_request_that_vllm_quotes_is_no_fault_of_the_engine() -> None:
    def quoted(code: int) -> bytes:
        words = f"Field required [input_value={{'error': {{'param': None, 'code': {code}}}}}]"
        return sse({"type": "error", "error": {"type": "internal_error", "message": words}})

    assert not stream(quoted(400), MESSAGES).fault
    assert stream(quoted(500), MESSAGES).fault


@pytest.mark.parametrize("around", [b"%b", b"%b\0", b"\xef\xbb\xbf%b"])
@pytest.mark.parametrize("word", [b"-Infinity", b"NaN", b"0"])
@pytest.mark.parametrize("finish", [b"stop", b"abort"])
def test_end_is_read_from_what_is_no_json(around: bytes, word: bytes, finish: bytes) -> None:
    choice = b'{"index":0,"logprobs":[%b],"finish_reason":"%b"}' % (word, finish)
    said = around % (b'{"choices":[%b]}' % choice)
    expected = Ending(finished=True, aborted=finish == b"abort")
    assert stream(b"data: %b\n\n" % said, n=1) == expected
    assert ending_of_answer(api_of(CHAT), Tail(said, True, True)) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"boom", "boom"), (b'{"message":"boom"}', "boom"), (b'["boom"]', '["boom"]')],
)
def test_event_named_error_is_an_error(data: bytes, message: str) -> None:
    said = event(finish="stop") + b"event: error\ndata: %b\n\n" % data + DONE
    assert stream(said) == Ending(finished=True, error=message, fault=True)
    assert not ends_as_most(said)
    assert stream(said.replace(b"event: error", b"event: other")).error is None


def test_error_under_status_200_is_an_error() -> None:
    assert plain({"error": {"message": "dead"}}) == Ending(error="dead", fault=True)
    assert plain({"error": None, "choices": [{"finish_reason": "stop"}]}) == FINISHED
    assert plain({"error": "no"}, "/v1/files/f").error is None, "an object may have such a field"


def test_detail_under_status_200_is_an_error() -> None:
    assert plain({"detail": "no"}) == Ending(error="no", fault=True)
    choices = [{"index": 0, "finish_reason": "stop"}]
    assert plain({"detail": "no", "choices": choices}) == FINISHED
    assert not is_as_most(b'{"detail":"no"}')


def test_unfinished_choice_of_a_plain_response_is_told() -> None:
    choices = [{"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": None}]
    assert plain({"choices": choices}) == Ending(finished=False)


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        ("completed", FINISHED),
        ("incomplete", FINISHED),
        ("cancelled", Ending(finished=None, aborted=True)),
        ("queued", UNKNOWN),
    ],
)
def test_plain_response_object_tells_its_status(status: str, ending: Ending) -> None:
    assert plain({"object": "response", "status": status}, RESPONSES) == ending


def test_message_without_a_stop_reason_was_aborted() -> None:
    said = {"type": "message", "content": []}
    assert plain({**said, "stop_reason": None}, MESSAGES) == Ending(finished=True, aborted=True)
    assert plain({**said, "stop_reason": "end_turn"}, MESSAGES) == FINISHED


def test_caller_of_responses_or_messages_may_leave_at_the_last_event() -> None:
    completed = b"event: response.completed\n" + sse({"type": "response.completed"})
    assert stream(completed, RESPONSES, complete=False, whole=False) == FINISHED
    stop = sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert stream(stop, MESSAGES, complete=False, whole=False) == FINISHED


def test_words_of_the_model_are_not_taken_for_the_end() -> None:
    words = json.dumps({"error": {"code": 500}, "finish_reason": "abort"})
    said = sse({"choices": [{"index": 0, "delta": {"content": words}, "finish_reason": None}]})
    assert stream(said) == Ending(finished=False)
    assert stream(said + event(finish="stop") + DONE) == FINISHED


_FINISH = st.sampled_from([None, "", "null", "stop", "length", "abort", "error", {"type": "abort"}])
_EVENTS = st.lists(
    st.one_of(
        st.builds(event, st.integers(0, 2), _FINISH),
        st.sampled_from([sse({"error": {"code": 500}}), sse({"choices": []}), b": ping\n\n", DONE]),
    ),
    max_size=6,
)


@given(_EVENTS, st.integers(0, 40))
def test_cheap_look_agrees_with_the_full_reading(events: list[bytes], cut: int) -> None:
    text = b"".join(events)[cut:]
    if ends_as_most(text):
        # Half an event, at the beginning, may hold the finish reason; other choices may go on.
        assert stream(text, whole=False) in (FINISHED, UNKNOWN, Ending(finished=False))


@given(st.lists(_FINISH, max_size=3), st.booleans())
def test_cheap_look_at_a_plain_response_agrees_too(finishes: list[object], fails: bool) -> None:
    answer: dict[str, object] = {"choices": [{"finish_reason": one} for one in finishes]}
    if fails:
        answer["error"] = {"message": "dead"}
    if is_as_most(msgspec.json.encode(answer)):
        assert plain(answer) in (FINISHED, UNKNOWN)


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_reading_an_end_never_fails(text: bytes, complete: bool, whole: bool) -> None:
    for path in (CHAT, RESPONSES, MESSAGES, "/v1/other"):
        stream(b"data: " + text, path, complete=complete, whole=whole)
        ending_of_answer(api_of(path), Tail(text, whole, complete))

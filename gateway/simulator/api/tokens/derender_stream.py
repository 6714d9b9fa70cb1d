"""One event of generate's stream as an event of chat or of completions.

The server keeps nothing: the caller carries the state from event to event, and all earlier ids in
it are read again.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
from msgspec import UNSET

from gateway.simulator.api.answers import Header
from gateway.simulator.api.chat_answer import ChatAnswer
from gateway.simulator.api.chat_shapes import Chunk as ChatChunk
from gateway.simulator.api.chat_shapes import ChunkChoice as ChatChunkChoice
from gateway.simulator.api.chat_shapes import MessageDelta
from gateway.simulator.api.completions_answer import Chunk, CompletionsAnswer
from gateway.simulator.engine.sequences import Delta, Token
from gateway.simulator.engine.tokens import Detokenizer
from gateway.simulator.input.refusals import bad_request
from gateway.simulator.input.requests import ChatRequest, CompletionRequest
from gateway.simulator.input.tokens import Generated, GeneratedChoice, StreamState
from gateway.simulator.preparing import check_ids

T = TypeVar("T")


class Derendered(msgspec.Struct):
    """An event, and the state that the caller sends with the next one."""

    chunk: ChatChunk | Chunk
    stream_state: StreamState


def chat_event(
    request: ChatRequest,
    generated: Generated,
    state: StreamState | None,
    header: Header,
    *,
    reasoning: bool,
) -> Derendered:
    """Return the next event of chat; raises Refused for a state that cannot be one."""
    request = msgspec.structs.replace(request, n=1, logprobs=False, return_token_ids=False)
    answer = ChatAnswer(request, [], header, reasoning=reasoning)
    state = state or StreamState()
    found = _replayed(answer.chunk, generated, state)
    chunk = found or ChatChunk(id=header.id, created=header.created, model=header.model, choices=[])
    if generated.choices and not chunk.choices:
        chunk.choices = [ChatChunkChoice(index=0, delta=MessageDelta())]
    chunk.system_fingerprint = UNSET
    for choice in chunk.choices:
        choice.index = generated.choices[0].index
        if not state.role_sent:
            choice.delta.role, state.role_sent = "assistant", True
        _pin_call_ids(choice.delta, state)
    return Derendered(chunk, state)


def completion_event(
    request: CompletionRequest, generated: Generated, state: StreamState | None, header: Header
) -> Derendered:
    """Return the next event of completions; raises Refused for a state that cannot be one."""
    asked = CompletionRequest(return_token_ids=request.return_token_ids)
    answer = CompletionsAnswer(asked, [[]], header)
    state = state or StreamState()
    found = _replayed(answer.chunk, generated, state)
    chunk = found or Chunk(id=header.id, created=header.created, model=header.model, choices=[])
    chunk.system_fingerprint = UNSET
    for choice in chunk.choices:
        choice.index = generated.choices[0].index
        choice.prompt_token_ids = None
        state.logprob_text_offset += len(choice.text)
    return Derendered(chunk, state)


def _replayed(
    write: Callable[[Delta], T | None], generated: Generated, state: StreamState
) -> T | None:
    """Write the events of the ids in `state` again, then that of `generated`; extend `state`."""
    if len(generated.choices) > 1:
        raise bad_request(
            "derender_chat_stream expects at most one choice per chunk "
            f"(got {len(generated.choices)})."
        )
    detokenizer = Detokenizer()
    for ids in _parts(state):
        write(_delta(detokenizer, GeneratedChoice(index=0, token_ids=ids)))
    if not generated.choices:
        return None
    ids = generated.choices[0].token_ids or []
    state.output_token_ids = [*state.output_token_ids, *ids]
    state.output_chunk_lens = [*state.output_chunk_lens, *([len(ids)] if ids else [])]
    return write(_delta(detokenizer, generated.choices[0]))


def _parts(state: StreamState) -> Iterator[list[int]]:
    ids, at = state.output_token_ids, 0
    check_ids(ids, "body.stream_state.output_token_ids")
    if sum(state.output_chunk_lens) != len(ids) or min(state.output_chunk_lens, default=1) < 1:
        raise bad_request("invalid stream_state: derender failed")
    for length in state.output_chunk_lens:
        yield ids[at : at + length]
        at += length


def _delta(detokenizer: Detokenizer, choice: GeneratedChoice) -> Delta:
    ids = choice.token_ids or []
    text = "".join(map(detokenizer.add, ids))
    tokens = [Token(number) for number in ids]
    return Delta(0, text, tokens, choice.finish_reason, choice.stop_reason)


def _pin_call_ids(delta: MessageDelta, state: StreamState) -> None:
    """Keep the ids of tool calls in `state`."""
    for call in delta.tool_calls or ():
        state.tools_streamed = True
        if isinstance(call.id, str):
            state.last_tool_call_ids = [*state.last_tool_call_ids, call.id]

"""Calls by the library's own client, in threads: no second event loop in this process."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
from support.grpc.over_http import MESSAGES, STREAM, WHOLE, request
from support.grpc.stubs import channel


@contextlib.contextmanager
def own_channel(port: int) -> Iterator[grpc.Channel]:
    """A channel with a connection that no other channel has."""
    with channel(port, use_local_subchannel_pool=1, enable_retries=0) as opened:
        yield opened


def title(opened: grpc.Channel, request_id: str = "") -> grpc.StatusCode:
    """Ask for a title; return how that ended."""
    metadata = [("x-request-id", request_id)] if request_id else []
    asked = request(model="sim", user_prompt="Hello", max_tokens=2)
    try:
        opened.unary_unary(WHOLE)(asked, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class Streams:
    """Streams of `tokens` tokens, each on a connection of its own, that have begun."""

    def __init__(self, port: int, count: int, tokens: int) -> None:
        self._port = port
        self._tokens = tokens
        self._pool = ThreadPoolExecutor(count)
        self._begun: Sequence[Future[None]] = [Future() for _ in range(count)]
        self._ended = [self._pool.submit(self._run, one) for one in self._begun]

    def _run(self, begun: Future[None]) -> tuple[grpc.StatusCode, int]:
        asked = request(model="sim", user_prompt="Hello", max_tokens=self._tokens)
        chunk = MESSAGES.type("llm.v1.ChatCompletionChunkResponse")
        tokens = 0
        with own_channel(self._port) as opened:
            stream = opened.unary_stream(STREAM)(asked, timeout=30)
            try:
                for data in stream:
                    if not begun.done():
                        begun.set_result(None)
                    tokens = chunk.FromString(data).completionTokens
            except grpc.RpcError:
                if not begun.done():
                    begun.set_result(None)
            return stream.code(), tokens

    def begun(self) -> None:
        """Wait until all of them have had a message."""
        for one in self._begun:
            one.result(20)

    def ended(self) -> list[tuple[grpc.StatusCode, int]]:
        """The code of each, and the tokens of its usage."""
        return [one.result(30) for one in self._ended]

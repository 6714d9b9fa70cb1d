"""A tap that has a caller's line frames and writes as the caller's own `write` does."""

from types import SimpleNamespace

import pytest
from support.gateways.two_kernels import kernels

from gateway.kernel import is_built
from gateway.kernel.interface import Tap

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

EVENT = b"data: {}\n\n"


class Caller:
    """Both ends of a line, and the way beside it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.sent: list[bytes] = []
        self.fulls = 0
        self.goes_on = True
        self.write_paused = self.disconnected = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def way(self, data: bytes) -> bool:
        self.sent.append(data)
        return self.goes_on

    def full(self) -> None:
        self.fulls += 1

    def tap(self, *, chunked: bool = True) -> Tap:
        line = self.write, chunked, self, self
        tap = kernels()[0].functions.tap(self.way, self.full, False, (), (), None, line)
        assert tap is not None
        tap.arm(None)
        return tap


@pytest.mark.parametrize("size", [16, 17, 255, 256, 257, 4_095, 4_096, 65_535, 65_536, 1_048_576])
def test_chunks_are_framed_as_python_frames_them(size: int) -> None:
    caller = Caller()
    event = b"data: " + b"x" * (size - 8) + b"\n\n"
    tap = caller.tap()

    assert tap.take(event)
    assert caller.written == [b"%x\r\n%b\r\n" % (size, event)]
    assert tap.settle() == (size, event, (event,))
    assert not caller.sent


def test_bytes_are_written_as_they_are_if_the_line_takes_no_chunks() -> None:
    caller = Caller()
    tap = caller.tap(chunked=False)

    assert tap.take(EVENT * 2)
    assert caller.written == [EVENT * 2]
    assert tap.settle() == (len(EVENT * 2), EVENT * 2, (EVENT * 2,))


@pytest.mark.parametrize("paused", [False, True])
def test_source_is_told_if_the_caller_is_full(paused: bool) -> None:
    caller = Caller()
    caller.write_paused = paused

    assert caller.tap().take(EVENT * 2)
    assert (len(caller.written), caller.fulls) == (1, paused)


@pytest.mark.parametrize("goes_on", [False, True])
def test_bytes_for_a_caller_that_has_left_go_the_other_way(goes_on: bool) -> None:
    caller = Caller()
    tap = caller.tap()
    assert tap.take(EVENT * 2)
    caller.disconnected, caller.goes_on = True, goes_on

    assert tap.take(EVENT * 3)
    assert len(caller.written) == 1
    assert caller.sent == [EVENT * 3]
    assert caller.fulls == (not goes_on)
    assert tap.settle() == (len(EVENT * 5), EVENT * 3, (EVENT * 2, EVENT * 3))


def test_failure_of_a_line_is_raised() -> None:
    def broken(_: bytes) -> None:
        raise OSError

    caller = Caller()
    for line in (
        (broken, True, caller, caller),
        (caller.write, True, SimpleNamespace(), caller),
        (caller.write, True, caller, SimpleNamespace()),
    ):
        tap = kernels()[0].functions.tap(caller.way, caller.full, False, (), (), None, line)
        assert tap is not None
        tap.arm(None)
        with pytest.raises((OSError, AttributeError)):
            tap.take(EVENT * 2)


def test_line_of_another_form_is_refused() -> None:
    caller = Caller()
    with pytest.raises(TypeError):
        kernels()[0].functions.tap(
            caller.way,
            caller.full,
            False,
            (),
            (),
            None,
            (caller.write,),  # type: ignore[arg-type]
        )

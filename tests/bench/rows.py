"""The rows of the table: what each measures, beside what, and what is to be reached."""

from collections.abc import Callable, Iterator

import msgspec

from bench.lines import Line, View
from bench.stack import WHOLE, gateway, without
from bench.systems import DIRECT, MESSAGES, RESPONSES, System
from bench.uploading import Installing, Sending
from bench.works import Calls, Idle, IdleGrpc, Work


class Row(msgspec.Struct, frozen=True):
    """`systems` do `works` beside the `peers` of those names, as far as there are such.

    If it is `compared`, earlier builds of the gateway do them, too.
    """

    name: str
    systems: tuple[System, ...]
    works: tuple[Work, ...]
    peers: tuple[str, ...]
    lines: Callable[[View], Iterator[Line]]
    compared: bool = False


ROUTERS = ("floor", "nginx", "vllm-router", "smg")
ALL = (*ROUTERS, "rllm", "litellm")

SLOTS = 8
"""Calls that a worker may have if others of the 32 are to wait."""

GATEWAY = gateway()
FRESH = gateway("gateway, fresh")
"""One that has done nothing else yet."""

QUEUED = gateway("gateway, queued", slots=SLOTS)
NO_CAPTURE = gateway("gateway, no capture", without("trace_capture"))
CORE = gateway("gateway, core alone", ())
SPANS = gateway("gateway, spans of one call in ten", ("otel",))
NOT_SAMPLED = gateway("gateway, spans of no call", ("otel, not sampled",))
GRPC = gateway("gateway, gRPC", (*WHOLE, "grpc"))
RECORDING = WHOLE.index("trace_capture")
TRANSLATING = gateway("gateway, translating", (*WHOLE[:RECORDING], "translate", *WHOLE[RECORDING:]))
UPLOADS = gateway("gateway, uploads", (*WHOLE, "uploads"))

PLAIN = Calls(name="plain")
STREAM = Calls(name="stream", stream=True)
PACED = Calls(name="paced", stream=True, callers=200, tokens=100, gap=0.02, spread=2.0, least=8.0)
"""200 streams of 50 tokens a second, which do not begin all at once."""

PACED_GRPC = msgspec.structs.replace(PACED, name="paced over gRPC", grpc=True)
STREAM_GRPC = msgspec.structs.replace(STREAM, name="stream over gRPC", grpc=True)
PACED_MESSAGES = msgspec.structs.replace(PACED, name="paced messages", path=MESSAGES)
PACED_RESPONSES = msgspec.structs.replace(PACED, name="paced responses", path=RESPONSES)
IDLE_GRPC = IdleGrpc(name="idle over gRPC")

SHORT = Calls(name="short", stream=True, callers=100, gap=0.02, spread=1.3)
LONG = Calls(name="long", callers=1, prompt_bytes=400_000, prompt_tokens=100_000)
BESIDE_LONG = msgspec.structs.replace(SHORT, name="short beside long", beside=LONG)
BESIDE_LONG_STREAM = msgspec.structs.replace(
    SHORT, name="short beside long streams", beside=msgspec.structs.replace(LONG, stream=True)
)
IDLE = Idle(name="idle")
BESIDE_INSTALLATION = Installing("short beside an installation", SHORT)
UPLOAD = Sending("upload")


def plain(view: View) -> Iterator[Line]:
    for other, most in (("vllm-router", 4.0), ("smg", 1.5), ("rllm", 1 / 15), ("floor", None)):
        yield view.line(
            "a plain call, captured", GATEWAY, PLAIN, "per_call", beside=other, most=most
        )


def queued(view: View) -> Iterator[Line]:
    what = f"a plain call, captured, 32 callers for {SLOTS} slots"
    yield view.line(what, QUEUED, PLAIN, "per_call", beside="vllm-router", most=5.0)


def no_capture(view: View) -> Iterator[Line]:
    what = "a plain call, not captured"
    yield view.line(what, NO_CAPTURE, PLAIN, "per_call", beside="vllm-router", most=1.9)


def core(view: View) -> Iterator[Line]:
    what = "the core alone"
    yield view.line(f"a plain call, {what}", CORE, PLAIN, "per_call", beside="nginx")
    yield view.line(f"an event, {what}", CORE, STREAM, "per_event", beside="nginx")


def spans(view: View) -> Iterator[Line]:
    """Beside the same gateway without them, in the same run."""
    alone = view.median(CORE, PLAIN, "per_call")
    for system, what, most in (
        (SPANS, "one call in ten has spans", 12.0),
        (NOT_SAMPLED, "no call is sampled", 1.0),
    ):
        yield view.line(
            f"a plain call, the core with `otel`, {what}",
            system,
            PLAIN,
            "per_call",
            beside="without",
            other=alone,
            comparison="more",
            most=most,
        )


def stream(view: View) -> Iterator[Line]:
    for other, most in (("vllm-router", 1.0), ("floor", None)):
        what = "an event as fast as it comes"
        yield view.line(what, GATEWAY, STREAM, "per_event", beside=other, most=most)


def paced(view: View) -> Iterator[Line]:
    for other, most in (("vllm-router", 1.35), ("floor", None)):
        what = "an event of 200 paced streams"
        yield view.line(what, GATEWAY, PACED, "per_event", beside=other, most=most)
    yield _later(view, "gap of 200 paced streams, p99", PACED, "gap_p99", "vllm-router", 3.0)


def latency(view: View) -> Iterator[Line]:
    for what, figure, most in (
        ("time to the first token, p50", "ttft_p50", 1.0),
        ("time to the first token, p99", "ttft_p99", 5.0),
        ("gap between tokens, p99", "gap_p99", 2.0),
    ):
        yield _later(view, what, PACED, figure, DIRECT.name, most)


def long_prompt(view: View) -> Iterator[Line]:
    for work, kind in ((BESIDE_LONG, "prompts"), (BESIDE_LONG_STREAM, "prompts, streamed")):
        what = f"gap of 100 streams beside long {kind}, p99"
        yield view.line(
            what,
            GATEWAY,
            work,
            "gap_p99",
            beside="without",
            other=view.median(GATEWAY, SHORT, "gap_p99"),
            comparison="more",
            most=5.0,
        )
        yield _later(view, what, work, "gap_p99", "vllm-router", None)


def memory(view: View) -> Iterator[Line]:
    for what, figure, most in (
        ("memory, idle", "idle_memory", 80.0),
        ("memory of an idle stream", "per_stream", 40.0),
    ):
        yield view.line(what, FRESH, IDLE, figure, comparison="is", most=most)


def grpc(view: View) -> Iterator[Line]:
    """Beside the same gateway's HTTP, in the same run."""
    http = view.median(GRPC, PACED, "per_event")
    what = "a message of 200 paced streams over gRPC"
    yield view.line(what, GRPC, PACED_GRPC, "per_event", beside="HTTP", other=http, most=1.6)
    yield view.line(what, GRPC, PACED_GRPC, "per_event", comparison="is", most=50.0)
    what = "an event as fast as it comes, over gRPC"
    yield view.line(what, GRPC, STREAM_GRPC, "per_event", comparison="is", most=30.0)
    yield view.line(
        "time to the first text over gRPC, p50",
        GRPC,
        PACED_GRPC,
        "ttft_p50",
        beside="HTTP",
        other=view.median(GRPC, PACED, "ttft_p50"),
        comparison="more",
        most=1.0,
    )
    what = "memory of an idle stream over gRPC"
    yield view.line(what, GRPC, IDLE_GRPC, "per_stream", comparison="is", most=40.0)


def translated(view: View) -> Iterator[Line]:
    """Messages and Responses carried as chat, beside chat in the same run."""
    chat = view.median(TRANSLATING, PACED, "per_event")
    for api, work in (("Messages", PACED_MESSAGES), ("Responses", PACED_RESPONSES)):
        what = f"an event of 200 paced streams of {api}, carried as chat"
        yield view.line(what, TRANSLATING, work, "per_event", beside="chat", other=chat, most=1.5)


def installation(view: View) -> Iterator[Line]:
    for what, figure in (
        ("time to the first token", "ttft_p99"),
        ("gap of 100 streams", "gap_p99"),
        ("a whole stream", "latency_p99"),
    ):
        yield view.line(
            f"{what} while an upload is installed, p99",
            UPLOADS,
            BESIDE_INSTALLATION,
            figure,
            beside="without",
            other=view.median(UPLOADS, SHORT, figure),
            comparison="more",
            most=5.0,
        )


def upload(view: View) -> Iterator[Line]:
    """At least 0.7 of the throughput."""
    what = "a GiB of an upload"
    yield view.line(what, UPLOADS, UPLOAD, "per_gib", beside="nginx-dav", most=1 / 0.7)


def _later(view: View, what: str, work: Work, figure: str, other: str, most: float | None) -> Line:
    """How much longer something takes than with another."""
    return view.line(what, GATEWAY, work, figure, beside=other, comparison="more", most=most)


TRANSLATED_WORKS = (PACED, PACED_MESSAGES, PACED_RESPONSES)
LONG_WORKS = (SHORT, BESIDE_LONG, BESIDE_LONG_STREAM)

ROWS = (
    Row("plain", (GATEWAY,), (PLAIN,), ALL, plain, compared=True),
    Row("queued", (QUEUED,), (PLAIN,), ("vllm-router",), queued, compared=True),
    Row("no-capture", (NO_CAPTURE,), (PLAIN,), ("vllm-router",), no_capture, compared=True),
    Row("core", (CORE,), (PLAIN, STREAM), ("nginx",), core),
    Row("spans", (CORE, SPANS, NOT_SAMPLED), (PLAIN,), (), spans),
    Row("stream", (GATEWAY,), (STREAM,), ALL, stream, compared=True),
    Row("paced", (GATEWAY,), (PACED,), ROUTERS, paced, compared=True),
    Row("latency", (GATEWAY, DIRECT), (PACED,), (), latency),
    Row("long-prompt", (GATEWAY,), LONG_WORKS, ("vllm-router",), long_prompt, compared=True),
    Row("memory", (FRESH,), (IDLE,), (), memory),
    Row("upload", (UPLOADS,), (UPLOAD,), ("nginx-dav",), upload),
    Row("installation", (UPLOADS,), (SHORT, BESIDE_INSTALLATION), (), installation),
    Row("translated", (TRANSLATING,), TRANSLATED_WORKS, (), translated),
    Row("grpc", (GRPC,), (PACED, PACED_GRPC, STREAM_GRPC, IDLE_GRPC), (), grpc),
)

"""Samples of the gateway's state at the moment of a scrape."""

from collections.abc import Iterator
from typing import Literal

from gateway import Host, Sample, Worker


def samples_of(gateway: Host) -> Iterator[Sample]:
    yield _gauge("gateway_calls_in_flight", len(gateway.calls_in_flight), "Calls that run now.")
    help_ = "Seconds of the gateway's own, of a call, until the head of its answer went out."
    yield Sample("gateway_overhead_seconds", "histogram", gateway.overhead, help_)
    yield from _of_connections(gateway)
    for worker in gateway.workers.all:
        yield from _of_worker(worker)
    yield from _of_storage(gateway)
    for (plugin, hook), count in gateway.failures.counts.items():
        help_ = "Failures of hooks that watch, which no caller has seen."
        labels = {"plugin": plugin, "hook": hook}
        yield Sample("gateway_hook_failures_total", "counter", count, help_, labels)
    yield from _of_kernel(gateway)


def _of_connections(gateway: Host) -> Iterator[Sample]:
    callers = gateway.occupancy
    yield _gauge("gateway_connections", callers.open, "Callers that are connected.")
    if callers.most is not None:
        help_ = "Callers that the descriptors suffice for."
        yield _gauge("gateway_connections_max", callers.most, help_)
    help_ = "1 while no further caller is accepted, for want of descriptors."
    yield _gauge("gateway_connections_paused", callers.paused, help_, merge="max")
    help_ = "Times that this began after a while without."
    yield Sample("gateway_connections_pauses_total", "counter", callers.pauses, help_)


def _of_kernel(gateway: Host) -> Iterator[Sample]:
    help_ = "1 for the kernel that runs."
    labels = {"kernel": str(gateway.kernel.name)}
    yield _gauge("gateway_kernel_in_use", 1, help_, labels, "max")
    help_ = "Inputs that the kernel left to the Python code, by its part."
    for part, count in gateway.kernel.fallbacks.items():
        yield Sample("gateway_kernel_fallbacks_total", "counter", count, help_, {"part": part})


def processes(answered: int, count: int) -> Iterator[Sample]:
    help_ = "Processes whose numbers these are."
    yield _gauge("gateway_processes", answered, help_)
    help_ = "Processes that there are to be."
    yield _gauge("gateway_processes_configured", count, help_)


def _of_worker(worker: Worker) -> Iterator[Sample]:
    labels = {"worker": worker.id}
    state = {**labels, "state": worker.info().state}
    yield _gauge("gateway_worker_up", worker.fit, "1 while the worker gets calls.", labels, "min")
    yield _gauge("gateway_worker_state", 1, "1 for the state that the worker is in.", state, "max")
    help_ = "Attempts that the worker is now working on."
    yield _gauge("gateway_worker_in_flight", worker.in_flight, help_, labels)
    if worker.slots.limit is not None:
        help_ = "Attempts that the worker may work on at a time."
        yield _gauge("gateway_worker_slots", worker.slots.limit, help_, labels)
    help_ = "Kinds of requests that something is not injected into, as the worker rejected it."
    yield _gauge("gateway_worker_refused_injections", len(worker.refusals), help_, labels, "max")
    version = str(worker.weight_version)
    if version.isdecimal():
        help_ = "The version of the worker's weights, where it is a number."
        yield _gauge("gateway_worker_weight_version", float(version), help_, labels, "min")


def _of_storage(gateway: Host) -> Iterator[Sample]:
    health = gateway.storage.health
    help_ = "1 while calls do not wait for what they leave to be committed."
    yield _gauge("gateway_storage_degraded", health.state != "ok", help_, merge="max")
    help_ = "Entries that calls have left and that are not committed yet."
    yield _gauge("gateway_storage_waiting", health.waiting, help_)
    help_ = "What those hold in memory."
    yield _gauge("gateway_storage_waiting_bytes", health.waiting_bytes, help_)
    for name, count, help_ in (
        ("gateway_storage_committed_total", health.committed, "Entries that are committed."),
        ("gateway_storage_lost_total", health.lost, "Entries that never will be."),
        ("gateway_storage_slow_total", health.slow, "Times that calls stopped waiting."),
    ):
        yield Sample(name, "counter", count, help_)
    help_ = "Seconds from the end of a call to the commit of what it left; one of each group."
    yield Sample("gateway_storage_commit_seconds", "histogram", health.commit_times, help_)


def _gauge(
    name: str,
    value: float,
    help_: str,
    labels: dict[str, str] | None = None,
    merge: Literal["sum", "max", "min"] = "sum",
) -> Sample:
    return Sample(name, "gauge", value, help_, labels or {}, merge)

"""The plugin's metrics: its own, and those of the system that it replaces, under their names."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from gateway import Sample
from gateway_plugins.batch.queue.items import COMPLETED, EXPIRED, QUEUED, Ended, ItemError


class Tally:
    """Counts since the start of this process. Its methods are called by one thread at a time."""

    def __init__(self) -> None:
        self.jobs: Counter[tuple[str, str]] = Counter()
        self.requeued: Counter[str] = Counter()
        self.wasted: Counter[str] = Counter()

    def settled(self, end: Ended) -> None:
        """Count an item whose end is committed, or that was queued again."""
        code = "" if end.error is None else _code(end.error)
        if end.state == QUEUED:
            self.requeued[code] += 1
            self.wasted[code] += 0 if end.usage is None else end.usage.completion_tokens
            return
        status = "completed" if end.state == COMPLETED else "error"
        self.ended("expired" if code == EXPIRED else status, end.item.path)

    def ended(self, status: str, path: str | None) -> None:
        chat = path is not None and path.endswith("chat/completions")
        self.jobs[status, "chat_completion" if chat else "completion"] += 1

    def samples(self) -> Iterator[Sample]:
        help_ = "Items that have ended, by how."
        for (status, kind), count in self.jobs.items():
            labels = {"status": status, "type": kind}
            yield Sample("gateway_batch_items_total", "counter", count, help_, labels)
        help_ = "Items that were queued again after an attempt, by the reason."
        for reason, count in self.requeued.items():
            labels = {"reason": reason}
            yield Sample("gateway_batch_items_requeued_total", "counter", count, help_, labels)


def _code(error: str) -> str:
    return msgspec.json.decode(error, type=ItemError).code

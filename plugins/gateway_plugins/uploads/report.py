"""Metrics."""

from collections import Counter
from collections.abc import Iterator

from gateway import Sample


class Tally:
    """Counts of one process."""

    def __init__(self) -> None:
        self._bytes = 0
        self._ended: Counter[str] = Counter()

    def arrived(self, count: int) -> None:
        """So many bytes of uploads have come."""
        self._bytes += count

    def ended(self, status: str) -> None:
        """An upload has ended so."""
        self._ended[status] += 1

    def samples(self) -> Iterator[Sample]:
        help_ = "Bytes of uploads that have come."
        yield Sample("llm_upload_bytes_total", "counter", self._bytes, help_)
        help_ = "Uploads that have ended, by status."
        for status in ("completed", "failed"):
            labels = {"status": status}
            count = self._ended[status]
            yield Sample("gateway_uploads_ended_total", "counter", count, help_, labels)

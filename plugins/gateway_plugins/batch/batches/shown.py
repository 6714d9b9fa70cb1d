"""A batch as the API shows it."""

import msgspec

from gateway_plugins.batch.batches.input.checking import Mistake
from gateway_plugins.batch.batches.rows import Batch, Status


class Mistakes(msgspec.Struct, frozen=True):
    """Why a batch has failed."""

    data: list[Mistake]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """How many requests a batch has, and how many of them have ended."""

    total: int
    completed: int
    failed: int


class InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ShownUsage(msgspec.Struct, frozen=True):
    """The tokens of all attempts at a batch's requests."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ShownBatch(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's object. Times are whole Unix seconds."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None
    errors: Mistakes | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: ShownUsage
    metadata: dict[str, str] | None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches, the newest first."""

    object: str = "list"
    data: list[ShownBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(batches: list[Batch], limit: int) -> Page:
    """Return a page of at most `limit` batches; if there are more, another page follows."""
    data = [show(batch) for batch in batches[:limit]]
    return Page(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(batches) > limit,
    )


def show(batch: Batch) -> ShownBatch:
    """Return the batch as its owner sees it."""
    is_over = batch.ended is not None
    return ShownBatch(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=_mistakes(batch.errors),
        input_file_id=batch.input_file,
        completion_window=f"{batch.hours}h",
        status=batch.status,
        output_file_id=batch.output_file if is_over else None,
        error_file_id=batch.error_file if is_over else None,
        created_at=int(batch.created),
        in_progress_at=_time(batch.in_progress),
        expires_at=int(batch.deadline),
        finalizing_at=_time(batch.finalizing),
        completed_at=_ended(batch, "completed"),
        failed_at=_ended(batch, "failed"),
        expired_at=_ended(batch, "expired"),
        cancelling_at=_time(batch.cancelling),
        cancelled_at=_ended(batch, "cancelled"),
        request_counts=RequestCounts(batch.total, batch.completed, batch.failed),
        usage=_usage(batch),
        metadata=None if batch.metadata is None else msgspec.json.decode(batch.metadata),
    )


def _usage(batch: Batch) -> ShownUsage:
    return ShownUsage(
        batch.input_tokens,
        InputDetails(batch.cached_tokens),
        batch.output_tokens,
        OutputDetails(batch.reasoning_tokens),
        batch.input_tokens + batch.output_tokens,
    )


def _mistakes(text: str | None) -> Mistakes | None:
    return None if text is None else Mistakes(msgspec.json.decode(text, type=list[Mistake]))


def _time(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _ended(batch: Batch, status: Status) -> int | None:
    return _time(batch.ended) if batch.status == status else None

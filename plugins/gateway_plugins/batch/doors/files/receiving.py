"""The file of a form, on its way to the disk."""

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

from gateway import BodyTooLarge, ControlRequest
from gateway_plugins.batch.doors.files.form import Form
from gateway_plugins.batch.files.files import Files
from gateway_plugins.batch.files.part import Part

BESIDE = 64 * 1024
"""Bytes that a form may have beside its file."""


class Received(msgspec.Struct, frozen=True):
    """A form that has arrived whole, and the content of its file."""

    form: Form
    part: Part


@contextlib.asynccontextmanager
async def received(
    request: ControlRequest,
    files: Files,
    name: str,
    limit: Callable[[Form], int],
    most: int,
) -> AsyncIterator[Received]:
    """Write the part `name` of a form to the disk; deleted when the block ends, unless moved.

    `limit` says how many bytes it may have, from what has arrived of the form; `most` is the
    maximum of what `limit` returns. Raises BadRequest, BodyTooLarge, BodyTimeout, CallerGone,
    DiskFull, FilesUnavailable; nothing of the file is left then.
    """
    form = Form(request.header("content-type"), name)
    async with files.part() as part:
        async for chunk in request.stream(most + BESIDE):
            data = form.feed(chunk)
            if data:
                _check(name, part.size + len(data), limit(form))
                await part.write(data)
        form.end()
        _check(name, part.size, limit(form))
        await part.finish()
        yield Received(form, part)


def _check(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"`{name}` is larger than {limit} bytes", param=name)

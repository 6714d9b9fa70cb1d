"""All targets: a part of the kernel adds its own here."""

from collections.abc import Callable, Mapping

from fuzz.target import Target

TARGETS: Mapping[str, Callable[[], Target]] = {}

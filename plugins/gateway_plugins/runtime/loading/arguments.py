"""The arguments of an engine, as a list, and the options that they give."""

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise

from gateway_plugins.runtime.options import Model


def arguments_of(model: Model) -> tuple[str, ...]:
    """Return the arguments as a list; a text is split as a shell does.

    Raises ValueError if a quotation in the text has no end.
    """
    if isinstance(model.arguments, tuple):
        return model.arguments
    try:
        return tuple(shlex.split(model.arguments))
    except ValueError as error:
        raise ValueError(f"the arguments of {model.name}: {error}") from None


def options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values of options: `--name=value`, or `--name` and the next argument."""
    for argument, following in pairwise((*arguments, "")):
        name, separate, value = argument.partition("=")
        if name.startswith("-"):
            yield name, value if separate else following

"""What a field's annotation says: its type, msgspec's bounds, and a `Note` of ours."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What `convert` should know of a field beyond its type: `Annotated[float, Note(unit="s")]`.

    `expected` replaces the words made from the type. The value of a `secret` field is in no
    message. `read` gets a scalar as it was written and gives what stands for it. `check` gets the
    converted value and raises ValueError with what it expected, or FieldError with what is wrong
    inside.
    """

    unit: str = ""
    expected: str = ""
    secret: bool = False
    ignore_case: bool = False
    read: Callable[[object], object] | None = None
    check: Callable[[Any], object] | None = None


class Peeled(NamedTuple):
    """A type without its annotations, and these."""

    bare: Any
    metas: list[Meta]
    note: Note


def peel(hint: Any) -> Peeled:
    if get_origin(hint) is not Annotated:
        return Peeled(hint, [], Note())
    bare, *extras = get_args(hint)
    note = next((extra for extra in extras if isinstance(extra, Note)), Note())
    return Peeled(bare, [extra for extra in extras if isinstance(extra, Meta)], note)


def members(bare: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type, itself."""
    return get_args(bare) if get_origin(bare) in (Union, UnionType) else (bare,)


def without_none(hint: Any) -> Any:
    """`X` for an `X | None`, with the annotations of both; any other type as it is."""
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    some = [member for member in members(bare) if member is not NoneType]
    if len(some) != 1 or len(some) == len(members(bare)):
        return hint
    return Annotated[some[0], *extras] if extras else some[0]


def holds(hint: Any) -> type | None:
    """How a type that holds others is walked, as Struct, dict or list; None for a scalar.

    What is not known here (a TypedDict, a tuple of fixed length) is a scalar: msgspec converts it
    whole.
    """
    bare = peel(hint).bare
    origin = get_origin(bare) or bare
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return msgspec.Struct
    if origin in (dict, Mapping):
        return dict
    if origin is tuple:
        return list if Ellipsis in get_args(bare) else None
    return list if origin in (list, set, frozenset, Sequence) else None

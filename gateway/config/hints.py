"""Reads a field's annotation: its type, msgspec's bounds, and the gateway's own `Note`."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, fields


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a field beyond its type, for `convert`: `Annotated[float, Note(unit="s")]`.

    `expected` replaces the description made from the type. No message contains the value of a
    `secret` field. `read` maps a scalar as written to the scalar to convert. `check` receives the
    converted value; it raises ValueError with what it expected, or FieldError for a mistake inside
    the value. A user cannot set an `internal` field; code sets it.
    """

    unit: str = ""
    expected: str = ""
    secret: bool = False
    ignore_case: bool = False
    internal: bool = False
    read: Callable[[object], object] | None = None
    check: Callable[[Any], object] | None = None


class Peeled(NamedTuple):
    """A type without its annotations, and the annotations."""

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
    """Return the types of a union; any other type is its own single member."""
    return get_args(bare) if get_origin(bare) in (Union, UnionType) else (bare,)


def without_none(hint: Any) -> Any:
    """Return `X` for `X | None`, with the annotations of both; any other type unchanged."""
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    some = [member for member in members(bare) if member is not NoneType]
    if len(some) != 1 or len(some) == len(members(bare)):
        return hint
    return Annotated[some[0], *extras] if extras else some[0]


def member_for(value: object, hint: Any) -> Any:
    """Return the member of a union that fits a mapping or list; the union itself for a scalar."""
    choices = members(peel(hint).bare)
    if len(choices) == 1:
        return hint
    shapes: dict[type, tuple[type, ...]] = {dict: (dict, msgspec.Struct), list: (list,)}
    fitting = shapes.get(type(value), ())
    return next((choice for choice in choices if container_kind(choice) in fitting), hint)


def fields_of(cls: Any) -> list[FieldInfo]:
    """Return the fields of a Struct that a user can set, so without internal ones."""
    return [field for field in fields(cls) if not peel(field.type).note.internal]


def container_kind(hint: Any) -> type | None:
    """Return Struct, dict or list, the way to walk a container type; None for a scalar.

    Other types (a TypedDict, a tuple of fixed length) count as scalars: msgspec converts them
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

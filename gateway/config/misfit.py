"""Finds the field of a value that does not fit its type, by the types alone.

msgspec's messages are for people, and their wording changes between versions.
"""

import json
import re
from collections.abc import Iterable
from types import EllipsisType
from typing import Any, NamedTuple, get_args

import msgspec

from gateway.config.hints import container_kind, members, peel, without_none
from gateway.config.messages import describe, dotted, line
from gateway.config.node import MAX_DEPTH, TOO_DEEP, depth_of

_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")
_A_FIELDS_NAME = re.compile(r"[a-z_]{1,20}")

Step = str | int | EllipsisType
"""The name of a field, a place in a list, or `...` for a value of a mapping, by whatever key."""


class Misfit(NamedTuple):
    """`path` leads to the field; `value` is its value, `wanted` the type that it should have.

    `missing`: the field is required and absent, and `value` is the object that lacks it. `unknown`:
    the type has no such field.
    """

    path: tuple[Step, ...]
    value: Any
    wanted: Any
    missing: bool = False
    unknown: bool = False

    @property
    def name(self) -> str:
        """Name of the field, such as `workers[0].url`; empty for the whole value."""
        name = ""
        for step in self.path:
            name = f"{name}[...]" if isinstance(step, EllipsisType) else dotted(name, step)
        return name

    @property
    def problem(self) -> str:
        """The mistake, without any value."""
        if self.unknown:
            return "unknown field"
        return f"{'missing; ' if self.missing else ''}expected {describe(self.wanted)}"

    def without_null(self) -> "Misfit":
        """Return the same, with a `problem` that does not offer null: a text cannot be null."""
        return self._replace(wanted=without_none(self.wanted))


def json_mistake(data: bytes, wanted: Any) -> str:
    """Return why `data`, JSON, is not a `wanted`, as text that contains no value.

    For files with secrets: an unknown name that no field would have is not shown either.
    """
    if depth_of(_BRACKET.findall(_QUOTED.sub(b"", data))) > MAX_DEPTH:
        return f"is {TOO_DEEP}"
    try:
        fault = misfit(json.loads(data), wanted)
    except json.JSONDecodeError as error:
        return f"is not valid JSON, from line {error.lineno}, column {error.colno} on"
    except (ValueError, RecursionError):
        fault = None
    if fault is None:
        return "is not valid JSON"
    if fault.unknown and not _A_FIELDS_NAME.fullmatch(fault.name):
        return "has an unknown field (not shown)"
    return line("", fault.name, fault.problem)


def misfit(value: Any, wanted: Any, *, strict: bool = True) -> Misfit | None:
    """Return the first field of `value`, decoded JSON, that does not fit the type `wanted`.

    The field is the innermost one that can be found: a union of several types of one shape is not
    searched. None if all of `value` fits.
    """
    try:
        if strict:
            msgspec.json.decode(msgspec.json.encode(value), type=wanted)
        else:
            msgspec.convert(value, wanted, strict=False)
    except (msgspec.ValidationError, RecursionError):
        return _inside(value, wanted, strict) or Misfit((), value, wanted)
    return None


def _inside(value: Any, wanted: Any, strict: bool) -> Misfit | None:
    hint = _meant(value, wanted)
    kind, bare = container_kind(hint), peel(hint).bare
    types = get_args(bare)
    if kind is msgspec.Struct and isinstance(value, dict):
        return _in_fields(value, bare, strict)
    if kind is dict and isinstance(value, dict) and types:
        return _first(((..., part) for part in value.values()), types[-1], strict)
    if kind is list and isinstance(value, list) and types:
        return _first(enumerate(value), types[0], strict)
    return None


def _in_fields(value: dict[str, Any], struct: Any, strict: bool) -> Misfit | None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        if name in fields:
            found = _first([(name, value[name])], fields[name].type, strict)
            if found is not None:
                return found
        elif struct.__struct_config__.forbid_unknown_fields:
            return Misfit((name,), value[name], None, unknown=True)
    for name, field in fields.items():
        if field.required and name not in value:
            return Misfit((name,), value, field.type, missing=True)
    return None


def _first(parts: Iterable[tuple[Step, Any]], wanted: Any, strict: bool) -> Misfit | None:
    for step, part in parts:
        found = misfit(part, wanted, strict=strict)
        if found is not None:
            return found._replace(path=(step, *found.path))
    return None


def _meant(value: Any, wanted: Any) -> Any:
    """Return the member of a union that has the shape of `value`, if there is exactly one."""
    hint = without_none(wanted)
    shapes: dict[type, tuple[type, ...]] = {dict: (dict, msgspec.Struct), list: (list,)}
    fitting = shapes.get(type(value), ())
    choices = [choice for choice in members(peel(hint).bare) if container_kind(choice) in fitting]
    return choices[0] if len(choices) == 1 else hint

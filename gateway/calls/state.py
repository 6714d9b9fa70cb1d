"""Values that plugins keep on a call while it runs."""

from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class StateKey(Generic[T]):
    """A plugin's typed place on a call: `KEY = StateKey[int]("mine")`, `call.state[KEY] = 1`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class State:
    """Values that plugins keep on a call, each under its own StateKey to avoid clashes."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[StateKey[Any], Any] | None = None

    def __setitem__(self, key: StateKey[T], value: T) -> None:
        if self._values is None:
            self._values = {}
        self._values[key] = value

    def __getitem__(self, key: StateKey[T]) -> T:
        return (self._values or {})[key]  # type: ignore[no-any-return]

    @overload
    def get(self, key: StateKey[T]) -> T | None: ...
    @overload
    def get(self, key: StateKey[T], default: T) -> T: ...
    def get(self, key: StateKey[T], default: T | None = None) -> T | None:
        return self._values.get(key, default) if self._values else default

"""Values that plugins keep on a call while it runs."""

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

T = TypeVar("T")


class StateKey(Generic[T]):
    """A plugin's typed place on a call: `KEY = StateKey[int]("mine")`, `call.state[KEY] = 1`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


LINKED: StateKey[str] = StateKey("linked")
"""The `traceparent` of the request that caused a call, if the call is in no part of its trace."""


class State(dict[StateKey[Any], Any]):
    """Values that plugins keep on a call, each under its own StateKey to avoid clashes.

    The methods are those of a dict, which cost no frame.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __setitem__(self, key: StateKey[T], value: T) -> None: ...
        def __getitem__(self, key: StateKey[T]) -> T: ...
        @overload  # type: ignore[override]  # narrower: the key tells the type
        def get(self, key: StateKey[T]) -> T | None: ...
        @overload
        def get(self, key: StateKey[T], default: T) -> T: ...
        def get(self, key: StateKey[T], default: T | None = None) -> T | None: ...

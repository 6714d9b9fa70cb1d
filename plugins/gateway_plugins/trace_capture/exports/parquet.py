"""Writes traces and trajectories as Parquet, with column types derived from the public structs.

Lists of token ids and masks are list<int32>, logprobs list<float32>. A value of a fixed shape is a
struct. A value that callers and engines fill freely is JSON text. A value that may be a number or
a text (a weight version) is text.
"""

import json
import types
import typing
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, NamedTuple, Union

import msgspec

from gateway import ConfigError

if typing.TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1_000
BYTES = 16 << 20
"""A row group ends with the row that reaches either limit."""

Convert = Callable[[Any], Any]


class Column(NamedTuple):
    """An Arrow type, and the conversion to it from a value of msgspec's builtins."""

    type: "pa.DataType"
    convert: Convert


def load() -> Any:
    """Return the module pyarrow. Raises ConfigError if it is not installed."""
    try:
        import pyarrow.parquet  # an optional dependency, and slow to import
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'llm-call-gateway[parquet]', or --format jsonl"
        ) from None
    return pyarrow


class ParquetFile:
    """An export.Output of rows of one struct type."""

    def __init__(self, stream: BinaryIO, row_type: type[msgspec.Struct]) -> None:
        pyarrow = load()
        self._column = _struct(row_type)
        self._table = pyarrow.Table.from_batches
        self._batch = pyarrow.RecordBatch.from_struct_array
        self._array = pyarrow.array
        self._errors = (pyarrow.ArrowException, OverflowError, TypeError, ValueError)
        schema = pyarrow.schema(list(self._column.type))
        self._file = pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd")
        self._waiting: list[Any] = []
        self._size = 0

    def write(self, row: msgspec.Struct) -> None:
        """Write a row. Raises ValueError if a column cannot hold a value of the row."""
        found = self._column.convert(msgspec.to_builtins(row, builtin_types=(bytes,)))
        try:
            one = self._array([found], self._column.type)
        except self._errors as error:
            raise ValueError(str(error)) from None
        self._waiting.append(one)
        self._size += one.nbytes
        if len(self._waiting) >= ROWS or self._size >= BYTES:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        batches = [self._batch(one) for one in self._waiting]
        if batches:
            self._file.write_table(self._table(batches).combine_chunks())
        self._waiting, self._size = [], 0


def schema_of(row_type: type[msgspec.Struct]) -> "pa.Schema":
    """Return the columns of a file of such rows."""
    return load().schema(list(_struct(row_type).type))


def _struct(kind: type[msgspec.Struct]) -> Column:
    pyarrow = load()
    hints = typing.get_type_hints(kind)
    columns = {name: _column(hints[name]) for name in kind.__struct_fields__}

    def convert(value: Any) -> dict[str, Any]:
        return {name: column.convert(value[name]) for name, column in columns.items()}

    fields = [pyarrow.field(name, column.type) for name, column in columns.items()]
    return Column(pyarrow.struct(fields), _unless_none(convert))


def _column(hint: Any) -> Column:
    pyarrow = load()
    kinds = [kind for kind in _parts(hint) if kind is not type(None)]
    if len(kinds) > 1:
        return Column(pyarrow.string(), _unless_none(str))
    [kind] = kinds
    if typing.get_origin(kind) is Literal:
        return Column(pyarrow.string(), _same)
    if typing.get_origin(kind) is list:
        return _list(typing.get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(kind)
    simple = {
        str: pyarrow.string(),
        bytes: pyarrow.binary(),
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
    }
    return Column(simple[kind], _same) if kind in simple else _json()


def _list(item: Any) -> Column:
    pyarrow = load()
    numbers = {int: pyarrow.int32(), float | None: pyarrow.float32()}
    column = Column(numbers[item], _same) if item in numbers else _column(item)
    if column.convert is _text:  # a list of arbitrary values is one JSON text
        return _json()
    if column.convert is _same:
        return Column(pyarrow.list_(column.type), _same)

    def convert(values: list[Any]) -> list[Any]:
        return [column.convert(value) for value in values]

    return Column(pyarrow.list_(column.type), _unless_none(convert))


def _json() -> Column:
    return Column(load().string(), _text)


def _parts(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _same(value: Any) -> Any:
    return value


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _unless_none(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)

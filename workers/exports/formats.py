"""Rows as files: CSV (RFC 4180), NDJSON, Parquet. Each writer turns rows into bytes as they come."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

if TYPE_CHECKING:
    import pyarrow

Json = dict[str, Any]

_INTEGERS: Final = frozenset({"seq", "posting"})
_encode: Final = msgspec.json.Encoder().encode


class Writer(Protocol):
    """Takes rows, all with the same columns, and answers what may be written out already."""

    def add(self, rows: Sequence[Json]) -> bytes: ...

    def end(self) -> bytes: ...


class Csv:
    """A line of names, then a line a row; nothing is written for None."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._buffer = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._buffer, columns, lineterminator="\r\n")
        self._writer.writeheader()

    def add(self, rows: Sequence[Json]) -> bytes:
        self._writer.writerows(rows)
        return self._take()

    def end(self) -> bytes:
        return self._take()

    def _take(self) -> bytes:
        written = self._buffer.getvalue().encode()
        self._buffer.seek(0)
        self._buffer.truncate()
        return written


class Ndjson:
    """An object a line."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def add(self, rows: Sequence[Json]) -> bytes:
        return b"".join(_encode({name: row[name] for name in self._columns}) + b"\n" for row in rows)

    def end(self) -> bytes:
        return b""


class Parquet:
    """A row group for each call of `add`. Amounts stay decimal strings: no type of Parquet's has all their digits.

    Needs pyarrow, which Daybook does not install by itself.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        import pyarrow
        from pyarrow import parquet

        types = {name: pyarrow.int64() if name in _INTEGERS else pyarrow.string() for name in columns}
        self._schema: pyarrow.Schema = pyarrow.schema(list(types.items()))
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(pyarrow.PythonFile(self._sink, mode="w"), self._schema)

    def add(self, rows: Sequence[Json]) -> bytes:
        import pyarrow

        if rows:
            self._writer.write_table(pyarrow.Table.from_pylist(list(rows), schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file that is only ever written on; what was written is handed out and forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()
        self._before = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += data
        return len(data)

    def tell(self) -> int:
        return self._before + len(self._written)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._before += len(taken)
        self._written.clear()
        return taken


WRITERS: Final[Mapping[str, type[Csv] | type[Ndjson] | type[Parquet]]] = {
    "csv": Csv,
    "ndjson": Ndjson,
    "parquet": Parquet,
}

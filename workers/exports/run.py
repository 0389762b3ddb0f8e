"""Writing an export's file, part by part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import structlog
from asyncpg import Record

from domain.money import format_minor, parse_minor
from infrastructure import exports
from infrastructure.exports import Export, Wanted
from infrastructure.history import Range, find_statement
from infrastructure.read_models import JournalLine, LineView
from workers.exports.formats import WRITERS
from workers.exports.rows import COLUMNS, Movement, Opened, read, rows_of
from workers.exports.sources import Described, described, events
from workers.exports.text import EARLIEST, Balance, Beancount, Dialect, Hledger, day_of

log = structlog.get_logger(__name__)

PART_BYTES: Final = 1 << 20
MOST_BYTES: Final = 8 << 30
TOO_LONG: Final = f"The file would be longer than {MOST_BYTES >> 30} GiB: ask for less of it."

_GENESIS: Final = bytes(32)
_encode_lines: Final = msgspec.json.Encoder().encode_lines
_wanted: Final = msgspec.json.Decoder(Wanted).decode

Chunks = AsyncIterator[tuple[bytes, int]]
"""Bytes to be written, and how far the export is with them."""


class Refused(Exception):
    """What was asked for can't be written, whoever tries."""


class LeaseLost(Exception):
    """Somebody else works at the export, or it was removed."""


async def run(pool: asyncpg.Pool[Record], export: UUID) -> None:
    """Writes an export from its beginning, unless somebody is at it or it has ended.

    What goes wrong is raised, and the export left to whoever comes next; there are three attempts.
    """
    lease = uuid4()
    claimed = await exports.claim(pool, export, lease)
    if claimed is None:
        return
    try:
        await _write(pool, claimed, lease)
        problem = None
    except Refused as refused:
        problem = str(refused)
    except LeaseLost:
        log.info("export_left", export=str(export))
        return
    except BaseException:
        await exports.release(pool, export, lease)
        raise
    await exports.finish(pool, export, lease, problem)
    log.info("export", export=str(export), ledger=claimed.ledger, correlation_id=claimed.correlation_id, failed=problem)


async def _write(pool: asyncpg.Pool[Record], export: Export, lease: UUID) -> None:
    """Writes all parts. Raises Refused for what was asked for in vain."""
    wanted = _wanted(export.request)
    if wanted.what != "statement":
        await exports.expect(pool, export.id, lease, export.seq)
    number, size, part = 0, 0, bytearray()
    done = 0
    async for content, done in SOURCES[wanted.what](pool, export, wanted):
        part += content
        if len(part) < PART_BYTES:
            continue
        await _put(pool, export.id, lease, number, bytes(part), done)
        number, size = number + 1, size + len(part)
        part.clear()
        if size > MOST_BYTES:
            raise Refused(TOO_LONG)
    await _put(pool, export.id, lease, number, bytes(part), done)


async def _put(pool: asyncpg.Pool[Record], export: UUID, lease: UUID, number: int, content: bytes, done: int) -> None:
    if not await exports.write(pool, export, lease, number, content, done):
        raise LeaseLost


# -- what can be written ----------------------------------------------------------------------------------------------


async def _journal(pool: asyncpg.Pool[Record], export: Export, wanted: Wanted) -> Chunks:
    if wanted.format == "ndjson":
        async for chunk in _lines(pool, export):
            yield chunk
        return
    writer, done = WRITERS[wanted.format](COLUMNS), 0
    async for page in events(pool, export.ledger, export.seq):
        done = page[-1]["seq"]
        yield writer.add(list(chain.from_iterable(rows_of(row["event"]) for row in page))), done
    yield writer.end(), done


async def _lines(pool: asyncpg.Pool[Record], export: Export) -> Chunks:
    """The journal's lines as they are: exact bytes and hashes."""
    previous = _GENESIS
    async for page in events(pool, export.ledger, export.seq):
        lines = []
        for row in page:
            event = row["event"].decode()
            lines.append(JournalLine(row["epoch"], row["seq"], previous.hex(), row["hash"].hex(), event))
            previous = row["hash"]
        yield _encode_lines(lines), page[-1]["seq"]


LINES: Final = 1_000
LINE_COLUMNS: Final = ("account", "currency", *LineView.__struct_fields__)


async def _statement(pool: asyncpg.Pool[Record], export: Export, wanted: Wanted) -> Chunks:
    """`done` counts lines; how many there will be is not known before."""
    writer, within = WRITERS[wanted.format](LINE_COLUMNS), Range(wanted.start, wanted.end)
    behind, done = None, 0
    while True:
        page = await find_statement(pool, export.ledger, wanted.account or "", within, export.seq, behind, LINES)
        if page is None:
            raise Refused(f"There is no account {wanted.account}.")
        kept = {"account": wanted.account, "currency": page.currency}
        done += len(page.items)
        yield writer.add([kept | msgspec.to_builtins(line) for line in page.items]), done
        behind = page.last
        if behind is None:
            break
    yield writer.end(), done


DIALECTS: Final[Mapping[str, Callable[[], Dialect]]] = {"beancount": Beancount, "hledger": Hledger}


async def _ledger(pool: asyncpg.Pool[Record], export: Export, wanted: Wanted) -> Chunks:
    dialect, done = DIALECTS[wanted.format](), 0
    sums, last_day = Sums(), EARLIEST
    yield _text(dialect.head(export.ledger, export.seq)), done
    async for page in events(pool, export.ledger, export.seq):
        done = page[-1]["seq"]
        entries = [entry for row in page if (entry := read(row["event"])) is not None]
        held = {entry.transaction for entry in entries if isinstance(entry, Movement) and entry.capture}
        names = await described(pool, export.ledger, held)
        for entry in entries:
            sums.add(entry)
            if isinstance(entry, Movement):
                last_day = max(last_day, day_of(entry.effective_at))
        yield _text(_entries(dialect, entries, names)), done
    yield _text(dialect.asserted(last_day, sums.balances())), done


def _entries(dialect: Dialect, entries: Iterable[Movement | Opened], names: Described) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, Opened):
            yield from dialect.opened(entry)
            continue
        if entry.capture:
            reference, description = names.get(entry.transaction, (None, None))
            entry = msgspec.structs.replace(entry, reference=reference, description=description)
        yield ""
        yield from dialect.moved(entry)


class Sums:
    """What every account comes to, in minor units: debits less credits."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}
        self._opened: dict[str, Opened] = {}

    def add(self, entry: Movement | Opened) -> None:
        if isinstance(entry, Opened):
            self._opened[entry.name], self._sums[entry.name] = entry, 0
            return
        for debit, credit, amount, _ in entry.lines:
            minor = parse_minor(amount, self._opened[debit].scale)
            self._sums[debit] += minor
            self._sums[credit] -= minor

    def balances(self) -> Iterator[Balance]:
        for name, minor in self._sums.items():
            account = self._opened[name]
            yield Balance(name, account.currency, format_minor(minor, account.scale))


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


SOURCES: Final[Mapping[str, Callable[[asyncpg.Pool[Record], Export, Wanted], Chunks]]] = {
    "journal": _journal,
    "statement": _statement,
    "ledger": _ledger,
}

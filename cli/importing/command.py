"""The command line of `daybook import`: reads the file, shows how far it is, sums up."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.importing.mapping import Item, MappingError, OpenRule, Plan, RowError, Translator
from cli.importing.run import Importer, Refused, Totals, batches
from cli.importing.service import Service, ServiceError, describe, problem_of

CONNECTION: Final = Path(".daybook/connection.json")
SHOWN: Final = 5
"""Commands of a dry run, and refusals of a summary, that are printed."""
NOT_A_COMMAND: Final = "row_invalid"


_Advance = Callable[[int], object]


class UsageError(Exception):
    """What was asked for can't be done like this; the message says what to change."""


def _positive(_: object, value: int) -> None:
    if value < 1:
        raise ValueError("must be at least 1")


def _batch_size(_: object, value: int) -> None:
    if not 1 <= value <= 10_000:
        raise ValueError("must be 1 to 10,000")


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"{option} takes NAME=VALUE, not {text!r}.")
    return name, value


@Parameter(name="*", negative=())
@dataclass(frozen=True, kw_only=True)
class Columns:
    """How a row becomes a transaction. A TEMPLATE is a text with column names in braces, as `bank:{account}`."""

    mapping: Path | None = None
    "TOML file with the same options, written debit, effective_at, [metadata], [swap_when], [[open]]."
    debit: str | None = None
    "TEMPLATE for the account that is debited."
    credit: str | None = None
    "TEMPLATE for the account that is credited."
    amount: str | None = None
    "TEMPLATE for the amount."
    reference: str | None = None
    "TEMPLATE for the reference, unique within the ledger."
    description: str | None = None
    "TEMPLATE for the description."
    effective_at: str | None = None
    "TEMPLATE for the effective time, as `{date}T00:00:00Z`."
    metadata: tuple[str, ...] = ()
    "NAME=TEMPLATE; repeat for more."
    currency: str | None = None
    "TEMPLATE for the currency of accounts to open."
    open: tuple[str, ...] = ()
    "PREFIX=TYPE[,currency=C][,min=N][,max=N]: open accounts whose name starts so; the first that fits counts."
    swap_when: tuple[str, ...] = ()
    "COLUMN=VALUE: exchange debit and credit in such rows; repeat for more."
    signed: bool = False
    "Exchange debit and credit where the amount is negative."

    def plan(self) -> Plan:
        """The mapping file, with what the command line says instead. Raises MappingError, UsageError."""
        swaps: dict[str, list[str]] = {}
        for column, value in (_pair("--swap-when", text) for text in self.swap_when):
            swaps.setdefault(column, []).append(value)
        return (Plan() if self.mapping is None else Plan.load(self.mapping)).overridden(
            debit=self.debit,
            credit=self.credit,
            amount=self.amount,
            reference=self.reference,
            description=self.description,
            effective_at=self.effective_at,
            metadata=dict(_pair("--metadata", text) for text in self.metadata),
            currency=self.currency,
            open=[OpenRule.parse(text) for text in self.open],
            swap_when=swaps,
            signed=self.signed,
        )


@Parameter(name="*", negative=())
@dataclass(frozen=True, kw_only=True)
class Login:
    """Where the service is. Without --url, what `daybook up` wrote into connection.json."""

    connection: Path = CONNECTION
    "File written by `daybook up`."
    url: str | None = None
    "The service's address."
    username: str | None = None
    "Who logs in; needs to be a writer of the ledger."
    password_stdin: bool = False
    "Read the password from standard input."
    password_env: str | None = None
    "Read the password from this environment variable."

    def connect(self) -> Service:
        """Raises UsageError."""
        password = self._password()
        if self.url is None:
            try:
                known: dict[str, str] = json.loads(self.connection.read_text())
            except (OSError, ValueError) as error:
                raise UsageError(f"Give --url, or run `daybook up` here first ({self.connection}: {error}).") from error
            return Service(known["api"], self.username or known["username"], password or known["password"])
        if self.username is None or password is None:
            raise UsageError("--url needs --username, and --password-stdin or --password-env NAME.")
        return Service(self.url, self.username, password)

    def _password(self) -> str | None:
        if self.password_stdin:
            return sys.stdin.readline().rstrip("\r\n")
        if self.password_env is None:
            return None
        if not os.environ.get(self.password_env):
            raise UsageError(f"The environment variable {self.password_env} is not set.")
        return os.environ[self.password_env]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The file, and how it is written."""

    path: Path
    delimiter: str
    encoding: str

    def survey(self) -> tuple[str, int]:
        """What tells the file from others, and about how many rows it has."""
        digest, lines = sha256(), 0
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                lines += block.count(b"\n")
        return digest.hexdigest(), max(lines - 1, 0)

    @contextmanager
    def rows(self) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        """The column names, and the rows with the lines they end on."""
        with self.path.open(encoding=self.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if not columns or len(set(columns)) < len(columns):
                raise UsageError(f"{self.path}: the first line must name the columns, each once.")
            yield columns, ((reader.line_num, row) for row in reader if row)


class _Refusals:
    """Keeps the first few refusals for the summary; with a path, writes them all with their rows."""

    def __init__(self, file: IO[str] | None, columns: Sequence[str]) -> None:
        self.first: list[Refused] = []
        self._writer = None if file is None else csv.writer(file)
        if self._writer is not None:
            self._writer.writerow(["line", "code", "detail", *columns])

    def add(self, refused: Refused) -> None:
        if len(self.first) < SHOWN:
            self.first.append(refused)
        if self._writer is not None:
            self._writer.writerow([refused.item.line, refused.code, refused.detail, *refused.item.row])


def import_file(
    file: Path,
    /,
    *,
    ledger: str,
    columns: Columns | None = None,
    login: Login | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    create_ledger: Annotated[bool, Parameter(negative=())] = False,
    attempt: Annotated[int, Parameter(validator=_positive)] = 1,
    batch: Annotated[int, Parameter(validator=_batch_size)] = 1_000,
    in_flight: Annotated[int, Parameter(validator=_positive)] = 4,
    refusals: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Import transactions from a CSV file, through the API. A second run posts nothing twice.

    Ends with status 0 when every row is posted, by this run or an earlier one; 1 when some were refused; 2 when the
    import could not be done, or not to its end: run it again then.

    Parameters
    ----------
    file
        CSV with the columns' names in its first line.
    ledger
        The ledger to post to.
    delimiter
        What separates fields.
    encoding
        How the file's characters are encoded.
    create_ledger
        Create the ledger first, unless it is there.
    attempt
        2 or more tries rows again that an earlier attempt saw refused. Needs --reference.
    batch
        Commands a request.
    in_flight
        Batches that may be unfinished at a time.
    refusals
        CSV file to write refused rows to, with the reasons.
    dry_run
        Print the first commands and send nothing.
    """
    try:
        source = _Source(path=file, delimiter=delimiter, encoding=encoding)
        digest, count = source.survey()
        with source.rows() as (names, rows):
            translator = Translator((columns or Columns()).plan(), names, digest, attempt)
            if dry_run:
                sys.exit(_show_commands(translator, rows))
            with (login or Login()).connect() as service, ExitStack() as stack:
                if create_ledger:
                    _create_ledger(service, ledger)
                kept = None if refusals is None else stack.enter_context(refusals.open("w", newline=""))
                log = _Refusals(kept, names)
                with _progress(count) as advance:
                    importer = Importer(service, ledger, in_flight=in_flight, refuse=log.add, advance=advance)
                    importer.run(batches(_items(translator, rows, importer, advance), batch))
    except (UsageError, MappingError, ServiceError, OSError, UnicodeError, csv.Error, LookupError) as error:
        print(f"daybook import: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("daybook import: stopped. Run it again to go on; nothing is posted twice.", file=sys.stderr)
        sys.exit(130)
    _sum_up(importer.totals, log)
    sys.exit(1 if importer.totals.refused else 0)


def _items(
    translator: Translator, rows: Iterator[tuple[int, list[str]]], importer: Importer, advance: _Advance
) -> Iterator[Item]:
    """The rows' commands; rows of which none can be made are refused here, so that they don't spoil a whole batch."""
    for line, fields in rows:
        try:
            yield from translator.items(line, fields)
        except RowError as error:
            row = Item(line, "post_transaction", "", b"", tuple(fields))
            importer.refuse(Refused(row, NOT_A_COMMAND, str(error)))
            advance(1)


def _show_commands(translator: Translator, rows: Iterator[tuple[int, list[str]]]) -> int:
    """Prints the commands of the first rows; the status to end with."""
    status = 0
    for line, fields in islice(rows, SHOWN):
        try:
            for item in translator.items(line, fields):
                print(msgspec.json.format(item.body, indent=0).decode())
        except RowError as error:
            print(f"line {line}: {error}", file=sys.stderr)
            status = 1
    return status


def _create_ledger(service: Service, ledger: str) -> None:
    body = msgspec.json.encode({"id": ledger, "name": ledger})
    headers = {"prefer": "wait=30", "idempotency-key": f"import:{ledger}"}
    answer = service.post("/v1/ledgers", body, headers=headers)
    if answer.status_code not in (201, 202) and problem_of(answer).get("code") != "ledger_exists":
        raise ServiceError(f"Can't create the ledger {ledger!r}: {describe(answer)}")


@contextmanager
def _progress(count: int) -> Iterator[_Advance]:
    """A bar on standard error while that is a terminal, nothing otherwise."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task: TaskID = bar.add_task("rows", total=count)
        yield lambda rows: bar.advance(task, rows)


def _sum_up(totals: Totals, log: _Refusals) -> None:
    refused = totals.refused.total()
    print(f"posted now        {totals.posted:>10,}")
    print(f"posted earlier    {totals.earlier:>10,}")
    print(f"accounts opened   {totals.opened:>10,}")
    print(f"refused           {refused:>10,}")
    for code, count in totals.refused.most_common():
        print(f"  {code:<24}{count:>10,}")
    for entry in log.first:
        print(f"line {entry.item.line}: {entry.code}: {entry.detail}")
    if refused > len(log.first):
        print(f"… and {refused - len(log.first):,} more; --refusals FILE writes them all.")

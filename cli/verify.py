"""`daybook verify`: does all that is kept agree with the journal, and the journal with itself?"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, replace
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli import surroundings
from cli.audit import audit, list_ledgers
from cli.audit_users import audit_users, count_user_events
from cli.findings import Counts, Findings
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings

SHOWN: Final = 10
STATEMENT_MS: Final = 600_000
"""Some of what is compared is sorted first, and of a large ledger that is much. Adding up what was read may take a slow
machine as long, with its transaction open."""


def verify(
    *,
    ledger: str | None = None,
    show: int = SHOWN,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Recompute hashes, seqs, all balances and users from the journal, and say what differs.

    Ends with status 1 if anything does. Each ledger is read in one snapshot, and so are the users, so that the service
    may go on meanwhile.

    Parameters
    ----------
    ledger
        The only ledger to look at, and no users.
    show
        How many differences of each kind to write out.
    as_json
        Answer in JSON.
    """
    findings, counts = asyncio.run(_verify(surroundings.load(), ledger, Findings(max(0, show)), quiet=as_json))
    if ledger is not None and not counts.ledgers:
        print(f"There is no ledger {ledger}.", file=sys.stderr)
        sys.exit(2)
    if as_json:
        kinds = {kind: {"count": n, "first": findings.shown.get(kind, [])} for kind, n in findings.counts.items()}
        print(json.dumps({"ok": not kinds, "read": asdict(counts), "differences": kinds}, indent=2))
    else:
        _tell(findings, counts)
    if findings.counts:
        sys.exit(1)


async def _verify(chosen: Settings, ledger: str | None, findings: Findings, *, quiet: bool) -> tuple[Findings, Counts]:
    counts = Counts()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    label = TextColumn("{task.description}")
    progress = Progress(label, *columns, console=Console(stderr=True), transient=True, disable=quiet)
    patient = replace(chosen, statement_timeout_ms=STATEMENT_MS)
    pool = await open_pool(patient, application="verify", size=1, idle_ms=STATEMENT_MS, whole_tables=True)
    async with pool, pool.acquire() as db:
        ledgers = await list_ledgers(db, ledger)
        with progress:
            of_users = await count_user_events(db) if ledger is None else 0
            bar = progress.add_task("verify", total=of_users + sum(events for _, events in ledgers))
            for one, _ in ledgers:
                progress.update(bar, description=one)
                async with db.transaction(isolation="repeatable_read", readonly=True):
                    await audit(db, one, findings, counts, lambda lines: progress.advance(bar, lines))
            if ledger is None:
                progress.update(bar, description="users")
                async with db.transaction(isolation="repeatable_read", readonly=True):
                    await audit_users(db, findings, counts, lambda lines: progress.advance(bar, lines))
    return findings, counts


def _tell(findings: Findings, counts: Counts) -> None:
    read = ", ".join(f"{number:,} {name}" for name, number in asdict(counts).items())
    print(f"Read {read}.")
    for kind, number in findings.counts.items():
        print(f"\n{number:,} × {kind}")
        for words in findings.shown.get(kind, []):
            print(f"  {words}")
    print("\nThe books differ from the journal." if findings.counts else "Everything agrees with the journal.")

"""How long it takes to tell what was, of accounts with more and more behind them, dated in order or at random.

Histories are written by SQL, as turns would have left them; nothing is asked twice, so that no cache answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from infrastructure.postgres import open_pool
from infrastructure.settings import parse
from tests.benchmarks.load import drive, request
from tests.benchmarks.product import Daybook, Ledger
from workers.snapshots import Snapshots

START: Final = datetime(2020, 1, 1, tzinfo=UTC)
SPAN: Final = timedelta(days=2_000)
STEP: Final = 50_000
SEAL_S: Final = 600.0

HEAD: Final = "SELECT seq FROM actors WHERE actor = $1"
# Numbers $3 to $4 of $10, behind seq $2. Both accounts are in every posting, in turns on either side.
WRITE: Final = """
WITH line AS MATERIALIZED (
    SELECT number + $2::bigint AS seq, gen_random_uuid() AS id,
        CASE WHEN number % 2 = 0 THEN $5::text ELSE $6 END AS debit,
        CASE WHEN number % 2 = 0 THEN $6 ELSE $5 END AS credit,
        $7::timestamptz + $8::interval * CASE WHEN $9::boolean THEN random() ELSE number::float / $10::int END AS moment
    FROM generate_series($3::int, $4::int) AS number
), made AS (
    INSERT INTO transactions (ledger, id, seq, status, metadata, effective_at, recorded_at, version)
    SELECT $1, id, seq, 'posted', '{}', moment, now(), seq FROM line
), moved AS (
    INSERT INTO postings (ledger, seq, posting, debit, credit, currency, scale, amount, effective_at)
    SELECT $1, seq, 0, debit, credit, 'USD', 2, 100, moment FROM line
), told AS (
    INSERT INTO journal (actor, seq, epoch, hash, event)
    SELECT 'ledger:' || $1, seq, 1, '', convert_to(json_build_object('balances', json_build_array(json_build_object(
        'account', $5, 'posted_debits', '1.00', 'posted_credits', '1.00', 'pending_debits', '0.00',
        'pending_credits', '0.00'
    )))::text, 'UTF8') FROM line
)
UPDATE actors SET seq = $2 + $4 WHERE actor = 'ledger:' || $1
"""
TOUCH: Final = "UPDATE accounts SET version = $2 WHERE ledger = $1"

_ledgers: dict[tuple[int, bool], Ledger] = {}


async def measure(daybook: Daybook, postings: int, *, backdated: bool, reads: int) -> dict[str, dict[str, Any]]:
    """Latencies of three questions about an account of so many postings, one after the other."""
    key = (postings, backdated)
    ledger = _ledgers[key] if key in _ledgers else await _history(daybook, postings, backdated=backdated)
    _ledgers[key] = ledger
    head = await daybook.db.fetchval(HEAD, ledger.actor)
    await daybook.log_in()
    dated = "backdated" if backdated else "in order"
    figures = {}
    for title, question in QUESTIONS.items():
        path = f"/v1/ledgers/{ledger.id}/accounts/{ledger.accounts[0]}"
        asked = [request("GET", path + question(head), daybook.headers) for _ in range(reads)]
        run = await drive(daybook.port, asked, connections=1, expected=200)
        latencies = {"p50_ms": run.percentile_ms(50), "p99_ms": run.percentile_ms(99)}
        figures[f"{title}, {postings} {dated}"] = {"rate": run.rate, **latencies}
    return figures


def _moment(share: float) -> str:
    return (START + SPAN * share).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seq(head: int) -> int:
    return head - random.randrange(head // 2)


def _statement(head: int) -> str:
    begin = random.uniform(0, 0.9)
    return f"/statement?from={_moment(begin)}&to={_moment(begin + 0.1)}&seq={_seq(head)}"


QUESTIONS: Final[Mapping[str, Callable[[int], str]]] = {
    "as recorded": lambda head: f"?seq={_seq(head)}",
    "as effective": lambda head: f"?effective_at={_moment(random.random())}&seq={_seq(head)}",
    "statement": _statement,
}


async def _history(daybook: Daybook, postings: int, *, backdated: bool) -> Ledger:
    ledger = await daybook.new_ledger(2)
    base = await daybook.db.fetchval(HEAD, ledger.actor)
    write = partial(daybook.db.execute, WRITE, ledger.id, base, timeout=120)
    for first in range(1, postings + 1, STEP):
        last = min(first + STEP - 1, postings)
        await write(first, last, *ledger.accounts, START, SPAN, backdated, postings)
    await daybook.db.execute(TOUCH, ledger.id, base + postings)
    await daybook.db.execute("ANALYZE postings, transactions, journal, accounts")
    connection = daybook.stack.connection
    names = ("database_url", "redis_url", "kafka_servers")
    settings = parse({f"DAYBOOK_{name.upper()}": connection[name] for name in names} | {"DAYBOOK_SECRET_KEY": "x" * 32})
    async with await open_pool(settings, application="benchmark", size=1) as pool:
        await Snapshots(pool, quiet=timedelta(0), time_s=SEAL_S).run()
    await daybook.db.execute("ANALYZE sealed_runs, sealed_chunks")
    return ledger

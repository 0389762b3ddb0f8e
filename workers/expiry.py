"""Ends transactions whose time is over. The service itself asks for it, once, by a command for each of them.

A command like any other, so it takes its turn behind those that came before: what was captured or voided meanwhile
refuses it. Its idempotency key names the transaction; two sweeps at once, or one after a long pause, ask for nothing
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import asyncpg
import msgspec
import structlog
from asyncpg import Record
from uuid_utils.compat import uuid7

from domain.catalog import KIND_OF
from domain.ledger.commands import ExpireTransaction
from domain.ledger.handlers import weight
from domain.ledger.model import SERVICE
from infrastructure.command_log import CommandLog, Draft, Key, Receipt, Submission
from infrastructure.metrics import meter

log = structlog.get_logger(__name__)

KIND: Final = KIND_OF[ExpireTransaction]
AT_ONCE: Final = 1_000
ROUNDS: Final = 10
MOST_LOOKED_AT: Final = 50_000
"""Overdue transactions among which those are found that nobody has asked for yet. The others wait for their turn."""

# now() and not the clock, which no index can be searched by; commands are accepted later, so not before their time. The
# inner limits keep the keys looked up one by one.
DUE: Final = """
SELECT overdue.ledger, overdue.id FROM (
    SELECT ledger, id, expires_at FROM transactions
    WHERE status = 'pending' AND expires_at <= now() ORDER BY expires_at LIMIT $2
) AS overdue
LEFT JOIN LATERAL (
    SELECT true AS asked FROM idempotency_keys
    WHERE principal = $3 AND actor = 'ledger:' || overdue.ledger AND key = 'expire:' || overdue.id LIMIT 1
) AS earlier ON true
WHERE earlier.asked IS NULL
ORDER BY overdue.expires_at LIMIT $1
"""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Expiry:
    """Looks for them. `ring` wakes a worker for an actor."""

    pool: asyncpg.Pool[Record]
    ring: Callable[[str], None]

    async def run(self) -> int:
        """One sweep, bounded. Answers how many transactions it found that are to end."""
        found = 0
        for _ in range(ROUNDS):
            due = await self.pool.fetch(DUE, AT_ONCE, MOST_LOOKED_AT, SERVICE)
            found += len(due)
            if due:
                await self._submit([_submission(row) for row in due])
            if len(due) < AT_ONCE:
                break
        return found

    async def _submit(self, submissions: Sequence[Submission]) -> None:
        answers = await CommandLog(self.pool).append(submissions)
        written = [
            submission.actor
            for submission, answer in zip(submissions, answers, strict=True)
            if isinstance(answer, Receipt) and answer.accepted_at is not None
        ]
        refused = [answer for answer in answers if not isinstance(answer, Receipt)]
        for actor in dict.fromkeys(written):
            self.ring(actor)
        if written:
            meter.command_accepted(KIND, len(written))
            log.info("expiring", transactions=len(written))
        if refused:
            log.error("not_expiring", transactions=len(refused), error=repr(refused[0]))


def _submission(row: Record) -> Submission:
    ledger, transaction = row["ledger"], row["id"]
    command = ExpireTransaction(transaction=transaction)
    payload, job = _encode(command), uuid7()
    resource = f"/v1/ledgers/{ledger}/transactions/{transaction}"
    return Submission(
        f"ledger:{ledger}",
        SERVICE,
        f"expire-{transaction}",
        (Draft(job, KIND, payload, weight(command), resource),),
        (Key(f"expire:{transaction}", sha256(payload).digest(), job),),
    )

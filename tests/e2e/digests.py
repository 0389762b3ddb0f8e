"""What the daybook holds, as digests: equal ones mean that nothing was changed in between."""

from __future__ import annotations

from tests.conftest import run_sql
from tests.e2e.client import PATIENCE_S
from tests.stack import Stack, wait_for

# The journal is in its actors' heads, which chain all their events. Left out is when something was last used.
TABLES = {
    "actors": "*",
    "commands": "id, status, attempts, seq",
    "idempotency_keys": "*",
    "batches": "id",
    "ledger_reservations": "*",
    "users": "*",
    "credentials": "*",
    "pending_credentials": "*",
    "grants": "*",
    "sessions": "id, user_id, generation, expires_at, ended_at, end_reason",
    "api_keys": "id, user_id, name, scopes, ledgers, expires_at, revoked_at",
    "signing_keys": "*",
    "exports": "id, ledger, principal, request",
}
DIGEST = " UNION ALL ".join(
    f"SELECT '{table}', concat_ws(' rows, ', count(*), md5(string_agg(row::text, ',' ORDER BY row::text))) "
    f"FROM (SELECT {columns} FROM {table}) AS row"
    for table, columns in TABLES.items()
)
UNFINISHED = "SELECT count(*) FROM commands WHERE status = 'accepted'"


def digest(stack: Stack) -> dict[str, str]:
    """A digest a table, once all mailboxes are empty."""
    url = stack.connection["database_url"]
    wait_for(lambda: run_sql(url, UNFINISHED) == "0", seconds=PATIENCE_S, what="empty mailboxes")
    return dict(line.split("|", 1) for line in run_sql(url, DIGEST).splitlines())

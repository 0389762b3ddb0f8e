"""The users a second time, from their journals alone: the other half of `daybook verify`.

Users that are older than their journals have no event that registers them. Of those only what events have changed since
can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from cli.chain import Chain, Json, Wrong, compare_head, pages
from cli.findings import Counts, Findings
from infrastructure.postgres import Db

AT_ONCE: Final = 1_000

# Those with a journal, and those with a row; nearly all have both.
PAGE: Final = """
SELECT id, 'user:' || id AS actor, actors.seq IS NOT NULL AS is_actor
FROM (
    (SELECT substr(actor, 6)::uuid AS id FROM actors
        WHERE actor LIKE 'user:%' AND actor > 'user:' || $1::uuid ORDER BY actor LIMIT $2)
    UNION (SELECT id FROM users WHERE id > $1 ORDER BY id LIMIT $2)
) AS either LEFT JOIN actors ON actors.actor = 'user:' || id
ORDER BY id LIMIT $2
"""
USERS: Final = "SELECT id, username, roles, status, created_at, version FROM users WHERE id = ANY ($1::uuid[])"
EVENTS: Final = "SELECT coalesce(sum(seq), 0)::bigint FROM actors WHERE actor LIKE 'user:%'"


class Person:
    """One user, made event by event."""

    def __init__(self, user: UUID, actor: str, findings: Findings) -> None:
        self.chain = Chain(actor, actor, findings)
        self.user = user
        # what the journal says of the row; one who is older than it is active until an event says otherwise
        self.expected: Json = {"status": "active", "version": 0}
        self._kinds: dict[str, Callable[[Json, Json], None]] = {
            "UserRegistered": self._registered,
            "UserUpdated": self._updated,
            "PasswordChanged": lambda _data, _event: None,
            "UserDisabled": self._disabled,
        }

    def read(self, seq: int, event: Json) -> None:
        """Takes an event. Raises Wrong for one that can't be."""
        kind = self._kinds.get(event["type"])
        if kind is None:
            raise Wrong(f"{event['type']} is of no kind that is known here")
        if event["balances"]:
            raise Wrong("shows balances, which no user has")
        kind(event["data"], event)
        self.expected["version"] = seq

    def _registered(self, data: Json, event: Json) -> None:
        if event["seq"] != 1:
            raise Wrong("registers the user again")
        self.expected |= {"username": data["username"], "roles": data["roles"]}
        self.expected["created_at"] = datetime.fromisoformat(event["recorded_at"])

    def _updated(self, data: Json, _event: Json) -> None:
        self.expected["roles"] = data["roles"]

    def _disabled(self, _data: Json, _event: Json) -> None:
        self.expected["status"] = "disabled"


async def count_user_events(db: Db) -> int:
    """How many events the journals of all users should have."""
    counted: int = await db.fetchval(EVENTS)
    return counted


async def audit_users(db: Db, findings: Findings, counts: Counts, advance: Callable[[int], None]) -> None:
    """Compares every user with its journal. `db` must be in a REPEATABLE READ transaction."""
    last = UUID(int=0)
    while people := await db.fetch(PAGE, last, AT_ONCE):
        rows: dict[UUID, Any] = {row["id"]: row for row in await db.fetch(USERS, [each["id"] for each in people])}
        for each in people:
            person = Person(each["id"], each["actor"], findings)
            if each["is_actor"]:
                await _read_journal(db, person, counts, advance)
            _compare(person, rows.get(person.user), findings)
        counts.users += len(rows)
        last = people[-1]["id"]


async def _read_journal(db: Db, person: Person, counts: Counts, advance: Callable[[int], None]) -> None:
    async for lines in pages(db, person.chain.actor):
        for line in lines:
            person.chain.enter(line, person.read)
        counts.events += len(lines)
        advance(len(lines))
    await compare_head(db, person.chain)


def _compare(person: Person, row: Json | None, findings: Findings) -> None:
    if row is not None:
        findings.compare("user", person.chain.name, person.expected, dict(row))
    elif person.chain.seq:
        # a registration that was refused leaves an actor without events
        findings.add("user", f"{person.chain.name}: is missing")

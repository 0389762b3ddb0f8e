"""What was granted in a ledger, a second time: from its journal alone, and compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Final
from uuid import UUID

from cli.chain import Json, Wrong
from cli.findings import Counts, Findings
from infrastructure.postgres import Db

GRANTS: Final = """
SELECT user_id, role, granted_at, seq FROM grants WHERE ledger = $1 AND user_id > $2 ORDER BY user_id LIMIT $3
"""
RESERVED: Final = "SELECT owner FROM ledger_reservations WHERE ledger = $1"
AT_ONCE: Final = 2_000

_KEEP: Final = "CREATE TABLE grants (user TEXT PRIMARY KEY, role TEXT, granted_at TEXT, seq INTEGER) WITHOUT ROWID"
_PUT: Final = "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)"
_TAKE: Final = "DELETE FROM grants WHERE user = ? RETURNING role, granted_at, seq"
_OWNER: Final = "SELECT 1 FROM grants WHERE role = 'owner' LIMIT 1"
_LEFT: Final = "SELECT user FROM grants ORDER BY user"
_ROLES: Final = ("owner", "writer", "reader")
_FIRST: Final = UUID(int=0)


class Register:
    """Who has which role, on disk, as the journal makes it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute(_KEEP)

    def give(self, user: str, role: str, recorded_at: str, seq: int) -> None:
        """Raises Wrong for a role that there is not, and when nobody is left who owns the ledger."""
        if role not in _ROLES:
            raise Wrong(f"grants {role}, which is no role")
        self._db.execute(_PUT, (str(UUID(user)), role, recorded_at, seq))
        self._must_be_owned()

    def take(self, user: str) -> None:
        """Raises Wrong where nothing was granted, and when nobody is left who owns the ledger."""
        if self.pop(UUID(user)) is None:
            raise Wrong(f"takes from {user} what was not granted")
        self._must_be_owned()

    def pop(self, user: UUID) -> Json | None:
        """What the user has, as it must be stored; it is forgotten here."""
        row = self._db.execute(_TAKE, (str(user),)).fetchone()
        if row is None:
            return None
        role, granted_at, seq = row
        return {"role": role, "granted_at": datetime.fromisoformat(granted_at), "seq": seq}

    def left(self) -> Iterator[str]:
        """The users who have anything."""
        return (row[0] for row in self._db.execute(_LEFT))

    def close(self) -> None:
        self._db.close()

    def _must_be_owned(self) -> None:
        if self._db.execute(_OWNER).fetchone() is None:
            raise Wrong("leaves nobody who owns the ledger")


async def compare_grants(
    db: Db, ledger: str, register: Register, findings: Findings, counts: Counts, *, created: bool
) -> None:
    """Each grant that is stored, in every field. Before a ledger is created, who has reserved its id owns it."""
    reserver = None if created else await db.fetchval(RESERVED, ledger)
    after = _FIRST
    while rows := await db.fetch(GRANTS, ledger, after, AT_ONCE):
        for row in rows:
            place = f"{ledger} {row['user_id']}"
            counts.grants += 1
            expected = {"role": "owner"} if row["user_id"] == reserver else register.pop(row["user_id"])
            if expected is None:
                findings.add("grant", f"{place}: is there, but not in the journal")
            else:
                findings.compare("grant", place, expected, dict(row))
        after = rows[-1]["user_id"]
    for user in register.left():
        findings.add("grant", f"{ledger} {user}: is missing")

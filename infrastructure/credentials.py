"""What comes beside a command to a user: a new password's hash, and the end of the user's sessions.

Both count from the moment the command is accepted: logins take the newest hash on its way (`infrastructure.users`), and
the sessions end in the transaction that writes the command down. The hash is taken over when the command is applied;
if it is refused or set aside, the hash goes, and with it the sessions that began with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import msgspec

from infrastructure.postgres import Db
from infrastructure.sessions import end_sessions_of

# A turn locks this row; here it only has to exist. Users that are older than their journals get theirs now.
MAKE_ACTOR: Final = "INSERT INTO actors (actor) VALUES ($1) ON CONFLICT DO NOTHING"

# Users are locked for the moment of a flush or a login. Whoever holds one longer hangs, and nobody should with it.
WAIT_BRIEFLY: Final = "SET LOCAL lock_timeout = '2s'"

PUT: Final = "INSERT INTO pending_credentials (command, user_id, password_hash) VALUES ($1, $2, $3)"

# Of several passwords on their way, the one whose command was applied last stays.
TAKE_OVER: Final = """
WITH taken AS (
    DELETE FROM pending_credentials WHERE command = ANY ($1::uuid[]) RETURNING command, user_id, password_hash
)
INSERT INTO credentials (user_id, password_hash, changed_at)
SELECT user_id, password_hash, accepted_at FROM taken JOIN commands ON commands.id = command
ORDER BY position DESC LIMIT 1
ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash, changed_at = excluded.changed_at
"""

TAKE_BACK: Final = "DELETE FROM pending_credentials WHERE command = ANY ($1::uuid[])"


class Beside(msgspec.Struct, frozen=True):
    """What is written in the transaction that accepts a command to `user`.

    `ends_sessions` says why the user's sessions end with it; empty, they go on.
    """

    user: UUID
    password_hash: str | None = None
    ends_sessions: str = ""

    def __repr__(self) -> str:
        """Without the hash: a repr may be logged."""
        return f"Beside({self.user})"


async def write_beside(db: Db, actor: str, command: UUID, beside: Beside) -> None:
    """Writes it, in the caller's transaction."""
    await db.execute(MAKE_ACTOR, actor)
    if beside.ends_sessions:
        await db.execute(WAIT_BRIEFLY)
        await end_sessions_of(db, {beside.user}, beside.ends_sessions)
    if beside.password_hash is not None:
        await db.execute(PUT, command, beside.user, beside.password_hash)


async def take_over(db: Db, commands: Sequence[UUID]) -> None:
    """Makes the password that the last of `commands` brought the user's own, in the transaction that applies them."""
    await db.execute(TAKE_OVER, commands)


async def take_back(db: Db, user: UUID, commands: Collection[UUID]) -> list[UUID]:
    """Throws away what `commands` brought, which are not applied; the ids of the sessions that end with it."""
    gone = await db.execute(TAKE_BACK, list(commands))
    return [] if gone == "DELETE 0" else await end_sessions_of(db, {user}, "the password was not changed")

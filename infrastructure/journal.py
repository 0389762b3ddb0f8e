"""The journal as its subscribers read it: pages of exact bytes, and each subscriber's durable position by actor.

`behind` has one row for each actor a subscriber has not caught up with; no row means caught up. A turn upserts the row
with its new head; a delivery leases it by token, publishes outside any transaction, and moves it by compare-and-set.
The two never lose each other's work: whoever comes second waits for the first one's row lock and decides again on
what was committed. So a row is deleted only while nothing lies beyond it, and one that was deleted is inserted afresh.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from domain.catalog import EVENTS
from domain.messages import Balance, Entry
from infrastructure.postgres import Connection, Db

LEASE_S: Final = 30
"""Seconds after which a delivery that said nothing is taken for dead, and another may take its place."""

BACKOFF_CAP_S: Final = 60
ERROR_CHARACTERS: Final = 500
_REPLAY_ACTORS: Final = 1_000

# The first entry comes whatever its size, so that a page always gets on.
PAGE: Final = """
SELECT seq, epoch, event FROM (
    SELECT seq, epoch, event, sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS bytes_before
    FROM (SELECT seq, epoch, event FROM journal WHERE actor = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS next
) AS measured WHERE bytes_before < $4 ORDER BY seq
"""

KNOWN: Final = "SELECT name FROM subscribers ORDER BY name"

# Turns read `subscribers` in their transactions, so this waits for those under way, and those to come wait for this:
# no turn can commit events that a new subscriber would neither find in the journal nor be told of.
LOCK_SUBSCRIBERS: Final = "LOCK TABLE subscribers IN ACCESS EXCLUSIVE MODE"

REGISTER: Final = """
INSERT INTO subscribers (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO NOTHING RETURNING name
"""

FROM_THE_START: Final = """
INSERT INTO behind (subscriber, actor, position, head)
SELECT name, actors.actor, 0, actors.seq FROM unnest($1::text[]) AS name CROSS JOIN actors WHERE actors.seq > 0
"""

FORGET_POSITIONS: Final = "DELETE FROM behind WHERE subscriber = $1"

FORGET: Final = "DELETE FROM subscribers WHERE name = $1 RETURNING name"

TAKE_LEASE: Final = """
UPDATE behind SET lease = $3, leased_until = clock_timestamp() + make_interval(secs => $4)
WHERE subscriber = $1 AND actor = $2
    AND coalesce(leased_until, '-infinity') <= clock_timestamp()
    AND coalesce(retry_at, '-infinity') <= clock_timestamp()
RETURNING position, head, failures
"""

FINISH: Final = """
DELETE FROM behind WHERE subscriber = $1 AND actor = $2 AND lease = $3 AND position = $4 AND head <= $5
"""

ADVANCE: Final = """
UPDATE behind SET position = $5, leased_until = clock_timestamp() + make_interval(secs => $7), since = $6,
    failures = 0, retry_at = NULL, last_error = NULL
WHERE subscriber = $1 AND actor = $2 AND lease = $3 AND position = $4
"""

RELEASE: Final = """
UPDATE behind SET lease = NULL, leased_until = NULL WHERE subscriber = $1 AND actor = $2 AND lease = $3
"""

FAIL: Final = """
UPDATE behind SET lease = NULL, leased_until = NULL, failures = failures + 1, last_error = $4,
    retry_at = clock_timestamp() + make_interval(secs => least($5, 0.5 * 2 ^ least(failures, 20)))
WHERE subscriber = $1 AND actor = $2 AND lease = $3
"""

LAGGING: Final = """
SELECT subscriber, actor FROM behind
WHERE subscriber = ANY($1::text[]) AND since <= clock_timestamp() - make_interval(secs => $2::int / 1000.0)
    AND coalesce(leased_until, '-infinity') <= clock_timestamp()
    AND coalesce(retry_at, '-infinity') <= clock_timestamp()
ORDER BY since LIMIT $3
"""

LAG: Final = """
SELECT subscribers.name AS subscriber, count(behind.actor) AS actors,
    coalesce(sum(greatest(behind.head - behind.position, 0)), 0)::bigint AS events,
    greatest(coalesce(extract(epoch FROM clock_timestamp() - min(behind.since)), 0), 0)::float8 AS oldest_s,
    count(*) FILTER (WHERE behind.failures > 0) AS failing,
    max(behind.last_error) AS error
FROM subscribers LEFT JOIN behind ON behind.subscriber = subscribers.name
GROUP BY subscribers.name ORDER BY subscribers.name
"""

REPLAYABLE: Final = """
SELECT actor, seq FROM actors WHERE seq > $1 AND actor > $2 AND ($3::text IS NULL OR actor = $3)
    AND ($4::text IS NULL OR actor LIKE $4 || ':%') ORDER BY actor LIMIT $5
"""

# The lease is taken away: a delivery under way finds its token gone and stops.
SET_BACK: Final = """
INSERT INTO behind (subscriber, actor, position, head)
SELECT $1, line.actor, $4, line.seq FROM unnest($2::text[], $3::bigint[]) AS line (actor, seq) ORDER BY line.actor
ON CONFLICT (subscriber, actor) DO UPDATE SET position = least(behind.position, excluded.position),
    head = greatest(behind.head, excluded.head), since = clock_timestamp(),
    lease = NULL, leased_until = NULL, failures = 0, retry_at = NULL, last_error = NULL
"""


class Line(msgspec.Struct, frozen=True):
    """One journal entry as it is delivered: `event` holds its exact bytes."""

    seq: int
    epoch: int
    event: bytes


class Lease(msgspec.Struct, frozen=True):
    """The sole right to deliver an actor's journal to a subscriber, behind `position`, for `LEASE_S` seconds."""

    subscriber: str
    actor: str
    token: UUID
    position: int
    failures: int


class Lag(msgspec.Struct, frozen=True):
    """How far a subscriber is behind: actors, events, and seconds since the oldest event it still lacks.

    The age is an upper bound: it counts from the last event delivered before that one.
    """

    subscriber: str
    actors: int
    events: int
    oldest_s: float
    failing: int
    error: str | None


class Label(msgspec.Struct, frozen=True):
    """What an event's own bytes say of it, without its contents."""

    id: str
    type: str
    recorded_at: str
    correlation_id: str


class _Envelope(msgspec.Struct, frozen=True):
    actor: str
    epoch: int
    seq: int
    id: str
    type: str
    recorded_at: str
    command: UUID
    correlation_id: str
    data: msgspec.Raw
    balances: tuple[Balance, ...]


read_label: Final = msgspec.json.Decoder(Label).decode
_read_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_read_data: Final = {name: msgspec.json.Decoder(event).decode for name, event in EVENTS.items()}


def read_entry(event: bytes) -> Entry:
    """Reads an event's bytes. Raises msgspec.ValidationError, or KeyError for a type this code doesn't know."""
    envelope = _read_envelope(event)
    fields = {name: getattr(envelope, name) for name in _Envelope.__struct_fields__ if name != "data"}
    return Entry(data=_read_data[envelope.type](envelope.data), **fields)


# -- pages ------------------------------------------------------------------------------------------------------------


async def page(db: Db, actor: str, after: int, *, lines: int, size: int) -> list[Line]:
    """The entries behind `after`, in order: at most `lines`, and no more once they have `size` bytes."""
    return [Line(*row) for row in await db.fetch(PAGE, actor, after, lines, size)]


# -- subscribers ------------------------------------------------------------------------------------------------------


async def register_subscribers(db: Connection, names: Iterable[str]) -> list[str]:
    """Makes sure that every name is a subscriber; answers which are new.

    A new one is behind from position 0 on every actor that has a journal. Repeating it costs one SELECT; a new name
    makes turns wait until those under way have ended and the rows are written.
    """
    wanted = set(names)
    if wanted <= {row["name"] for row in await db.fetch(KNOWN)}:
        return []
    async with db.transaction():
        await db.execute(LOCK_SUBSCRIBERS)
        new = sorted(row["name"] for row in await db.fetch(REGISTER, sorted(wanted)))
        await db.execute(FROM_THE_START, new)
    return new


async def forget_subscriber(db: Connection, name: str) -> bool:
    """Removes a subscriber and its positions; False when there is none of that name."""
    async with db.transaction():
        await db.execute(LOCK_SUBSCRIBERS)
        await db.execute(FORGET_POSITIONS, name)
        return await db.fetchval(FORGET, name) is not None


# -- a delivery's position --------------------------------------------------------------------------------------------


async def lease(db: Db, subscriber: str, actor: str, seconds: int = LEASE_S) -> Lease | None:
    """Takes the lease; None when there is nothing to deliver, another holds it, or its time to retry has not come."""
    token = uuid7()
    row = await db.fetchrow(TAKE_LEASE, subscriber, actor, token, seconds)
    return None if row is None else Lease(subscriber, actor, token, row["position"], row["failures"])


async def finish(db: Db, held: Lease, position: int) -> bool:
    """Ends the lease at `position` if nothing lies beyond it: the subscriber has caught up."""
    deleted = await db.execute(FINISH, held.subscriber, held.actor, held.token, held.position, position)
    return deleted == "DELETE 1"


async def advance(db: Db, held: Lease, position: int, since: datetime, seconds: int = LEASE_S) -> Lease | None:
    """Moves to `position`, whose event was recorded at `since`, and prolongs the lease; None when it was lost."""
    moved = await db.execute(ADVANCE, held.subscriber, held.actor, held.token, held.position, position, since, seconds)
    return Lease(held.subscriber, held.actor, held.token, position, 0) if moved == "UPDATE 1" else None


async def release(db: Db, held: Lease) -> None:
    """Gives the lease back; whoever is rung next goes on."""
    await db.execute(RELEASE, held.subscriber, held.actor, held.token)


async def fail(db: Db, held: Lease, error: str) -> None:
    """Gives the lease back and bars the actor to this subscriber for 0.5 s, doubled each time up to `BACKOFF_CAP_S`."""
    await db.execute(FAIL, held.subscriber, held.actor, held.token, error[:ERROR_CHARACTERS], float(BACKOFF_CAP_S))


# -- who is behind ----------------------------------------------------------------------------------------------------


async def lagging(db: Db, subscribers: Sequence[str], older_than_ms: int, limit: int) -> list[tuple[str, str]]:
    """Subscribers and actors that nobody delivers though it is time to, the longest behind first."""
    return [(row["subscriber"], row["actor"]) for row in await db.fetch(LAGGING, subscribers, older_than_ms, limit)]


async def lag(db: Db) -> list[Lag]:
    """Every subscriber's lag, by name. The cost grows with the actors behind, not with those that exist."""
    return [Lag(*row) for row in await db.fetch(LAG)]


async def set_back(
    db: Db, subscriber: str, *, from_seq: int, actor: str | None, actor_type: str | None = None, dry_run: bool = False
) -> AsyncIterator[Mapping[str, int]]:
    """Sets the subscriber back so that it gets every event from `from_seq` on again, of one actor, a type, or all.

    Yields, a thousand actors at a time, how many events each will get. A position further back already stays.
    """
    position, last = max(from_seq, 1) - 1, ""
    while rows := await db.fetch(REPLAYABLE, position, last, actor, actor_type, _REPLAY_ACTORS):
        heads: dict[str, int] = {row["actor"]: row["seq"] for row in rows}
        if not dry_run:
            await db.execute(SET_BACK, subscriber, list(heads), list(heads.values()), position)
        yield {name: head - position for name, head in heads.items()}
        last = rows[-1]["actor"]

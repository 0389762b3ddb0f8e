"""Loads what a turn needs of a ledger, and saves what its events changed, in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.currency import Currencies
from domain.decision import Link
from domain.ledger.events import AccountOpened, LedgerCreated, PeriodClosed
from domain.ledger.handlers import touches
from domain.ledger.model import Account, Ledger, Member, Profile, Touches
from domain.messages import Recorded
from infrastructure import schedules
from infrastructure.currencies import ISO_SCALES
from infrastructure.postgres import Db
from infrastructure.repositories import transactions

PROFILE: Final = "SELECT id, name, owner, metadata, created_at, version, closed_before FROM ledgers WHERE id = $1"

MEMBERS: Final = """
SELECT users.id, users.status = 'active' AS active, users.roles, grants.role
FROM users LEFT JOIN grants ON grants.user_id = users.id AND grants.ledger = $1
WHERE users.id = ANY ($2::uuid[])
"""

# Held until the commit: whoever reads these grants in order to cache them (`infrastructure.grants`) waits for it.
LOCK_GRANTS: Final = """
SELECT FROM grants WHERE ledger = $1 AND user_id = ANY ($2::uuid[]) ORDER BY user_id FOR UPDATE
"""

OWNERS: Final = """
SELECT users.id, true AS active, users.roles, grants.role
FROM grants JOIN users ON users.id = grants.user_id
WHERE grants.ledger = $1 AND grants.role = 'owner' AND users.status = 'active' LIMIT $2
"""

# Money comes and goes as text: int() of it costs a fifth of what the driver's Decimals do.
ACCOUNTS: Final = """
SELECT name, currency, scale, type, min_balance::text, max_balance::text, metadata, opened_at, version, status,
    posted_debits::text, posted_credits::text, pending_debits::text, pending_credits::text
FROM accounts WHERE ledger = $1 AND name = ANY ($2::text[])
"""

CURRENCIES: Final = "SELECT code, scale FROM currencies WHERE ledger = $1 AND code = ANY ($2::text[])"

CREATE: Final = """
INSERT INTO ledgers (id, name, metadata, owner, version, created_at) VALUES ($1, $2, $3, $4, $5, $6)
"""

UPDATE: Final = "UPDATE ledgers SET metadata = $2, version = $3 WHERE id = $1"

GRANT: Final = """
INSERT INTO grants (ledger, user_id, role, granted_at, seq)
SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[])
ON CONFLICT (ledger, user_id) DO UPDATE
    SET role = excluded.role, granted_at = excluded.granted_at, seq = excluded.seq
"""

REVOKE: Final = "DELETE FROM grants WHERE ledger = $1 AND user_id = ANY ($2::uuid[])"

KEEP_CURRENCIES: Final = """
INSERT INTO currencies (ledger, code, scale) SELECT $1, * FROM unnest($2::text[], $3::smallint[])
"""

OPEN_ACCOUNTS: Final = """
INSERT INTO accounts (ledger, name, currency, scale, type, min_balance, max_balance, metadata, opened_at, version,
    posted_debits, posted_credits, opened_seq, status, pending_debits, pending_credits)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::smallint[], $5::text[], $6::numeric[], $7::numeric[], $8::jsonb[],
    $9::timestamptz[], $10::bigint[], $11::numeric[], $12::numeric[], $13::bigint[], $14::text[], $15::numeric[],
    $16::numeric[])
"""

COUNT_ACCOUNTS: Final = "UPDATE ledgers SET accounts = accounts + $2 WHERE id = $1"

MOVE_ACCOUNTS: Final = """
UPDATE accounts SET posted_debits = moved.debits::numeric, posted_credits = moved.credits::numeric,
    version = moved.version
FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) AS moved (name, debits, credits, version)
WHERE accounts.ledger = $1 AND accounts.name = moved.name
"""

# Of accounts whose holds, status or metadata are new as well.
CHANGE_ACCOUNTS: Final = """
UPDATE accounts SET posted_debits = changed.posted_debits::numeric, posted_credits = changed.posted_credits::numeric,
    pending_debits = changed.pending_debits::numeric, pending_credits = changed.pending_credits::numeric,
    status = changed.status, metadata = changed.metadata, version = changed.version
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::bigint[])
    AS changed (name, posted_debits, posted_credits, pending_debits, pending_credits, status, metadata, version)
WHERE accounts.ledger = $1 AND accounts.name = changed.name
"""

CLOSE_PERIODS: Final = """
INSERT INTO periods (ledger, seq, before, closed_at)
SELECT $1, *, $4::timestamptz FROM unnest($2::bigint[], $3::timestamptz[])
"""

CLOSE_BEFORE: Final = "UPDATE ledgers SET closed_before = $2 WHERE id = $1"

_ACCOUNT_CHANGE = ("ledger", "account", "seq", "status", "metadata")
_PENDING_SUMS = ("ledger", "account", "seq", "pending_debits", "pending_credits")

_json = msgspec.json.Encoder().encode


async def load(db: Db, ledger_id: str, commands: Iterable[Recorded], *, locks: bool = True) -> Ledger:
    """Everything that `commands` will ask of the ledger, in as few statements as they need."""
    needed = Touches.none()
    principals, positions = set(), {}
    for recorded in commands:
        touches(recorded.command, needed)
        principals.add(recorded.principal)
        positions[recorded.id] = recorded.position
    if locks and needed.users:
        await db.execute(LOCK_GRANTS, ledger_id, sorted(needed.users))
    return await assemble(db, ledger_id, needed, principals, positions)


async def assemble(
    db: Db, ledger_id: str, needed: Touches, principals: set[UUID], positions: Mapping[UUID, int]
) -> Ledger:
    """What is `needed`, who the `principals` are there, and where in the mailbox the turn's own commands stand."""
    row = await db.fetchrow(PROFILE, ledger_id)
    named = await transactions.load(db, ledger_id, needed.transactions)
    for transaction in named.values():
        needed.accounts.update(account for line in transaction.lines for account in (line.debit, line.credit))
    return Ledger(
        id=ledger_id,
        profile=None if row is None else _profile(row),
        currencies=Currencies(await _scales(db, ledger_id, needed.currencies), ISO_SCALES),
        accounts=await _accounts(db, ledger_id, needed.accounts),
        references=await transactions.references(db, ledger_id, needed.references),
        members=await _members(db, ledger_id, principals, needed.users),
        named=needed.transactions,
        transactions=named,
        waiting=await transactions.waiting(db, ledger_id, needed.transactions, positions),
        closed_before=None if row is None else row["closed_before"],
        schedules=await schedules.statuses(db, ledger_id, needed.schedules),
    )


async def append(db: Db, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
    """Writes the rows that `links` add. The ledger may have gone on behind them."""
    await transactions.append(db, ledger, links, now)


async def save(db: Db, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
    """Writes what `links`, all that there are, changed. The caller's transaction makes it one with the journal."""
    await _save_profile(db, ledger, links)
    await _save_grants(db, ledger)
    kept = ledger.currencies.first_used
    if kept:
        await db.execute(KEEP_CURRENCIES, ledger.id, list(kept), list(kept.values()))
    await _save_accounts(db, ledger, links)
    await _save_changes(db, ledger)
    await _save_periods(db, ledger.id, links, now)
    await transactions.save(db, ledger, links)
    if ledger.schedules:
        await schedules.save(db, ledger.id, links, now)


def views(ledger: Ledger) -> list[str]:
    """The cached views that the turn's events made old, by their names within the ledger."""
    return [
        *(f"account:{name}" for name in ledger.changed | ledger.opened),
        *(f"transaction:{transaction}" for transaction in ledger.altered),
        *(f"grant:{user}" for user in ledger.granted),
    ]


async def _scales(db: Db, ledger_id: str, codes: set[str]) -> dict[str, int]:
    if not codes:
        return {}
    return {row["code"]: row["scale"] for row in await db.fetch(CURRENCIES, ledger_id, sorted(codes))}


async def _members(db: Db, ledger_id: str, principals: set[UUID], named: set[UUID]) -> dict[UUID, Member]:
    rows = await db.fetch(MEMBERS, ledger_id, sorted(principals | named))
    if named:
        # no turn can take ownership from more users than its commands name: one owner more than those is enough
        rows += await db.fetch(OWNERS, ledger_id, len(named) + 1)
    return {row["id"]: Member(row["active"], frozenset(row["roles"]), row["role"]) for row in rows}


async def _accounts(db: Db, ledger_id: str, names: set[str]) -> dict[str, Account]:
    if not names:
        return {}
    return {row["name"]: _account(row) for row in await db.fetch(ACCOUNTS, ledger_id, sorted(names))}


def _profile(row: Record) -> Profile:
    return Profile(
        row["id"], row["name"], row["owner"], msgspec.json.decode(row["metadata"]), row["created_at"], row["version"]
    )


def _account(row: Record) -> Account:
    return Account(
        name=row["name"],
        currency=row["currency"],
        scale=row["scale"],
        type=row["type"],
        min_balance=_minor(row["min_balance"]),
        max_balance=_minor(row["max_balance"]),
        metadata=msgspec.json.decode(row["metadata"]),
        opened_at=row["opened_at"],
        version=row["version"],
        status=row["status"],
        posted_debits=int(row["posted_debits"]),
        posted_credits=int(row["posted_credits"]),
        pending_debits=int(row["pending_debits"]),
        pending_credits=int(row["pending_credits"]),
    )


def _minor(text: str | None) -> int | None:
    return None if text is None else int(text)


async def _save_profile(db: Db, ledger: Ledger, links: Sequence[Link]) -> None:
    profile = ledger.profile
    if profile is None:
        return
    if isinstance(links[0].entry.data, LedgerCreated):
        await _create(db, profile)
    elif links[0].entry.seq <= profile.version:
        await db.execute(UPDATE, profile.id, _json(profile.metadata).decode(), profile.version)


async def _save_grants(db: Db, ledger: Ledger) -> None:
    revoked = [user for user, grant in ledger.granted.items() if grant.role is None]
    if revoked:
        await db.execute(REVOKE, ledger.id, revoked)
    granted = [(user, grant) for user, grant in ledger.granted.items() if grant.role is not None]
    if granted:
        await db.execute(
            GRANT,
            ledger.id,
            [user for user, _ in granted],
            [grant.role for _, grant in granted],
            [grant.granted_at for _, grant in granted],
            [grant.seq for _, grant in granted],
        )


async def _create(db: Db, profile: Profile) -> None:
    await db.execute(
        CREATE,
        profile.id,
        profile.name,
        _json(profile.metadata).decode(),
        profile.owner,
        profile.version,
        profile.created_at,
    )


async def _save_accounts(db: Db, ledger: Ledger, links: Sequence[Link]) -> None:
    opened = [ledger.accounts[name] for name in sorted(ledger.opened)]
    if opened:
        seqs = {link.entry.data.name: link.entry.seq for link in links if isinstance(link.entry.data, AccountOpened)}
        await db.execute(
            OPEN_ACCOUNTS,
            ledger.id,
            [account.name for account in opened],
            [account.currency for account in opened],
            [account.scale for account in opened],
            [account.type for account in opened],
            [account.min_balance for account in opened],
            [account.max_balance for account in opened],
            [_json(account.metadata).decode() for account in opened],
            [account.opened_at for account in opened],
            [account.version for account in opened],
            [account.posted_debits for account in opened],
            [account.posted_credits for account in opened],
            [seqs[account.name] for account in opened],
            [account.status for account in opened],
            [account.pending_debits for account in opened],
            [account.pending_credits for account in opened],
        )
        await db.execute(COUNT_ACCOUNTS, ledger.id, len(opened))
    more = {change.account for changes in (ledger.pending_sums, ledger.accounts_before) for change in changes}
    await _move_accounts(db, ledger, sorted(ledger.changed - ledger.opened - more))
    await _change_accounts(db, ledger, sorted(more - ledger.opened))


async def _move_accounts(db: Db, ledger: Ledger, names: Sequence[str]) -> None:
    moved = [ledger.accounts[name] for name in names]
    if moved:
        await db.execute(
            MOVE_ACCOUNTS,
            ledger.id,
            [account.name for account in moved],
            [str(account.posted_debits) for account in moved],
            [str(account.posted_credits) for account in moved],
            [account.version for account in moved],
        )


async def _change_accounts(db: Db, ledger: Ledger, names: Sequence[str]) -> None:
    changed = [ledger.accounts[name] for name in names]
    if changed:
        await db.execute(
            CHANGE_ACCOUNTS,
            ledger.id,
            [account.name for account in changed],
            [str(account.posted_debits) for account in changed],
            [str(account.posted_credits) for account in changed],
            [str(account.pending_debits) for account in changed],
            [str(account.pending_credits) for account in changed],
            [account.status for account in changed],
            [_json(account.metadata).decode() for account in changed],
            [account.version for account in changed],
        )


async def _save_changes(db: Db, ledger: Ledger) -> None:
    """What accounts were until now, and what they have pending from now on: for those who ask of the past."""
    if ledger.accounts_before:
        records = [
            (ledger.id, was.account, was.seq, was.status, _json(was.metadata).decode())
            for was in ledger.accounts_before
        ]
        await db.copy_records_to_table("account_changes", records=records, columns=_ACCOUNT_CHANGE)
    if ledger.pending_sums:
        sums = [(ledger.id, one.account, one.seq, one.debits, one.credits) for one in ledger.pending_sums]
        await db.copy_records_to_table("pending_sums", records=sums, columns=_PENDING_SUMS)


async def _save_periods(db: Db, ledger_id: str, links: Sequence[Link], now: datetime) -> None:
    closed = [
        (link.entry.seq, datetime.fromisoformat(link.entry.data.before))
        for link in links
        if isinstance(link.entry.data, PeriodClosed)
    ]
    if closed:
        seqs, ends = map(list, zip(*closed, strict=True))
        await db.execute(CLOSE_PERIODS, ledger_id, seqs, ends, now)
        await db.execute(CLOSE_BEFORE, ledger_id, ends[-1])

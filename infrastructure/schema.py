"""The tables, as SQLAlchemy Core metadata. Migrations must reproduce exactly this (`make check` compares).

Tables that grow are keyed by actor (or ledger) first, so that sharding them by actor stays open.
Money is `numeric(38,0)` minor units with two-sided CHECKs: a one-sided one lets NaN through.
"""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
    }
)

TIME = DateTime(timezone=True)
# Names that lists are sorted by and prefixes looked up in: byte order, whatever the database's own collation is. Not
# for columns that others are joined to: an index does not serve an equality between two collations.
SORTED = Text(collation="C")
MONEY = Numeric(38, 0)

# -- identity ---------------------------------------------------------------------------------------------------------

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("roles", ARRAY(Text), nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("created_at", TIME, nullable=False, server_default=text("now()")),
    # the last seq of the user's journal that changed it
    Column("version", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("status IN ('active', 'disabled')", name="status"),
    # names that differ in case only are taken; and who is left as administrator
    Index("users_name", text('lower(username COLLATE "C")')),
    Index("users_admins", "id", postgresql_where=text("status = 'active' AND 'admin' = ANY (roles)")),
)

credentials = Table(
    "credentials",
    metadata,
    Column("user_id", Uuid, ForeignKey("users.id"), primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("changed_at", TIME, nullable=False, server_default=text("now()")),
)

# A password on its way: written with the command that brings it, taken over when the command applies. Commands, events
# and logs never hold one.
pending_credentials = Table(
    "pending_credentials",
    metadata,
    Column("command", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False, index=True),
    Column("password_hash", Text, nullable=False),
)

# Keys that sign access tokens, sealed under the secret key. A retired one verifies until its tokens have expired.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("algorithm", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("public_key", LargeBinary),
    Column("created_at", TIME, nullable=False, server_default=text("now()")),
    Column("retired_at", TIME),
    CheckConstraint("algorithm IN ('HS256', 'EdDSA')", name="algorithm"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    # null: every ledger that its owner was granted
    Column("ledgers", ARRAY(Text)),
    Column("created_at", TIME, nullable=False, server_default=text("now()")),
    Column("expires_at", TIME),
    Column("last_used_at", TIME),
    Column("revoked_at", TIME),
    Index(None, "user_id", "id", postgresql_where=text("revoked_at IS NULL")),
)

# A session is a family of refresh tokens: token number `generation` is the only one that rotates.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False, index=True),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("created_at", TIME, nullable=False, server_default=text("now()")),
    Column("rotated_at", TIME, nullable=False, server_default=text("now()")),
    Column("expires_at", TIME, nullable=False),
    Column("ended_at", TIME),
    Column("end_reason", Text),
    Column("address", Text),
    Column("user_agent", Text),
    Column("last_used_at", TIME, nullable=False, server_default=text("now()")),
    Index("sessions_of_user", "user_id", "id", postgresql_where=text("ended_at IS NULL")),
)

grants = Table(
    "grants",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("user_id", Uuid, ForeignKey("users.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("granted_at", TIME, nullable=False, server_default=text("now()")),
    # of the event that granted it; a creator's is the ledger's first, made ahead of it when the id was reserved
    Column("seq", BigInteger, nullable=False, server_default="1"),
    PrimaryKeyConstraint("ledger", "user_id"),
    Index(None, "user_id", "ledger"),
    Index("grants_newest", "ledger", "seq"),
    Index("grants_of_owners", "ledger", postgresql_where=text("role = 'owner'")),
    CheckConstraint("role IN ('owner', 'writer', 'reader')", name="role"),
)

# -- the daybook ------------------------------------------------------------------------------------------------------

daybook_position = Sequence("daybook_position", metadata=metadata, data_type=BigInteger)

actors = Table(
    "actors",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("epoch", Integer, nullable=False, server_default="1"),
    Column("seq", BigInteger, nullable=False, server_default="0"),
    Column("head", LargeBinary, nullable=False, server_default=text(r"'\x" + "00" * 32 + "'::bytea")),
    # recorded_at never decreases with seq, whatever the clocks of the workers say
    Column("recorded_at", TIME, nullable=False, server_default=text("'-infinity'::timestamptz")),
    postgresql_with={"fillfactor": "50"},
)

commands = Table(
    "commands",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("actor", Text, nullable=False),
    # drawn from daybook_position when the command joins the mailbox: the order in which it applies
    Column("position", BigInteger),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("weight", Integer, nullable=False, server_default="1"),
    Column("principal", Uuid, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("resource", Text),
    Column("batch", Uuid),
    Column("accepted_at", TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("execute_at", TIME),
    Column("finished_at", TIME),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("seq", BigInteger),
    Column("problem", LargeBinary),
    # in an atomic entry of the mailbox, whose commands share one position: their order there
    Column("line", Integer),
    # which Celery task refused it or set it aside; of those that succeeded `turns` tells
    Column("task", Text),
    CheckConstraint(
        "status IN ('scheduled', 'accepted', 'succeeded', 'rejected', 'failed', 'cancelled')", name="status"
    ),
    Index("commands_mailbox", "actor", "position", postgresql_where=text("status = 'accepted'")),
    Index("commands_of_actor", "actor", "id"),
    Index("commands_of_principal", "principal", "id"),
    Index("commands_dead", "id", postgresql_where=text("status = 'failed'")),
    # what joins the mailbox next, and how much of an actor's is still to come
    Index("commands_due", "execute_at", "id", postgresql_where=text("status = 'scheduled'")),
    Index("commands_scheduled", "actor", postgresql_where=text("status = 'scheduled'")),
    postgresql_with={"fillfactor": "80", "autovacuum_vacuum_scale_factor": "0.05"},
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("command", Uuid, nullable=False),
    PrimaryKeyConstraint("principal", "actor", "key"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("principal", Uuid, nullable=False),
    Column("jobs", ARRAY(Uuid), nullable=False),
    Column("accepted_at", TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("atomic", Boolean, nullable=False, server_default="false"),
)

# What a turn leaves before it decides, on a connection of its own: see workers/turn.py on poison.
turn_marks = Table(
    "turn_marks",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("turn", Uuid, nullable=False),
    Column("width", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("suspect_position", BigInteger, nullable=False),
    Column("running", Boolean, nullable=False),
    # how often the one entry of its width has run out of time
    Column("late", Integer, nullable=False, server_default="0"),
    postgresql_with={"fillfactor": "50"},
)

# -- the journal and who reads it -------------------------------------------------------------------------------------

journal = Table(
    "journal",
    metadata,
    Column("actor", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("event", LargeBinary, nullable=False),
    PrimaryKeyConstraint("actor", "seq"),
)

# Append-only, for whoever is connected: a row trigger misses TRUNCATE, so there is one for the statement too.
JOURNAL_RULES = (
    """
    CREATE FUNCTION journal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the journal is append-only: % refused', TG_OP USING ERRCODE = 'integrity_constraint_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER journal_keeps_rows BEFORE UPDATE OR DELETE ON journal
        FOR EACH ROW EXECUTE FUNCTION journal_is_append_only()
    """,
    """
    CREATE TRIGGER journal_keeps_all BEFORE TRUNCATE ON journal
        FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only()
    """,
)
for _rule in JOURNAL_RULES:
    # DDL() formats with %, and so does the exception's text
    event.listen(journal, "after_create", DDL(_rule.replace("%", "%%")))  # type: ignore[no-untyped-call]

subscribers = Table(
    "subscribers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("registered_at", TIME, nullable=False, server_default=text("now()")),
)

# One row for each actor a subscriber has not caught up with: `position` is delivered, `head` is not yet.
behind = Table(
    "behind",
    metadata,
    Column("subscriber", Text, ForeignKey("subscribers.name"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("since", TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("lease", Uuid),
    Column("leased_until", TIME),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("retry_at", TIME),
    Column("last_error", Text),
    PrimaryKeyConstraint("subscriber", "actor"),
    postgresql_with={"fillfactor": "50"},
)

# -- projections of the ledger ----------------------------------------------------------------------------------------

ledger_reservations = Table(
    "ledger_reservations",
    metadata,
    Column("ledger", Text, primary_key=True),
    Column("owner", Uuid, ForeignKey("users.id"), nullable=False),
    Column("command", Uuid, nullable=False),
)

ledgers = Table(
    "ledgers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("owner", Uuid, nullable=False),
    Column("accounts", BigInteger, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False),
    Column("created_at", TIME, nullable=False),
    # the end of the last closed period: nothing takes effect before
    Column("closed_before", TIME),
    Index("ledgers_newest", "created_at", "id"),
)

periods = Table(
    "periods",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("before", TIME, nullable=False),
    Column("closed_at", TIME, nullable=False),
    PrimaryKeyConstraint("ledger", "seq"),
)

currencies = Table(
    "currencies",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("code", SORTED, nullable=False),
    Column("scale", SmallInteger, nullable=False),
    PrimaryKeyConstraint("ledger", "code"),
    CheckConstraint("scale BETWEEN 0 AND 18", name="scale"),
)


def _total(name: str) -> Column[Decimal]:
    return Column(name, MONEY, nullable=False, server_default="0")


_TOTALS = ("posted_debits", "posted_credits", "pending_debits", "pending_credits")

accounts = Table(
    "accounts",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("name", SORTED, nullable=False),
    Column("currency", Text, nullable=False),
    Column("scale", SmallInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="open"),
    Column("min_balance", MONEY),
    Column("max_balance", MONEY),
    *(_total(name) for name in _TOTALS),
    Column("metadata", JSONB, nullable=False),
    Column("opened_at", TIME, nullable=False),
    Column("version", BigInteger, nullable=False),
    # of the event that opened it: before, there was none
    Column("opened_seq", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("ledger", "name"),
    CheckConstraint("type IN ('asset', 'expense', 'liability', 'equity', 'income')", name="type"),
    CheckConstraint("status IN ('open', 'frozen', 'closed')", name="status"),
    CheckConstraint("min_balance <= 0 AND min_balance > -1e38", name="min_balance"),
    CheckConstraint("max_balance >= 0 AND max_balance < 1e38", name="max_balance"),
    *(CheckConstraint(f"{name} >= 0 AND {name} < 1e38", name=name) for name in _TOTALS),
    postgresql_with={"fillfactor": "50"},
)

transactions = Table(
    "transactions",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("reference", Text),
    Column("description", Text),
    Column("metadata", JSONB, nullable=False),
    Column("effective_at", TIME, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("expires_at", TIME),
    Column("reverses", Uuid),
    Column("reversed_by", Uuid),
    # whether it was its expiry that ended it, which "captured" does not tell
    Column("expired", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("ledger", "id"),
    UniqueConstraint("ledger", "seq"),
    Index("transactions_expiring", "expires_at", postgresql_where=text("status = 'pending'")),
    Index("transactions_held", "ledger", "status", "seq", postgresql_where=text("status <> 'posted'")),
    Index("transactions_reference", "ledger", "reference", unique=True, postgresql_where=text("reference IS NOT NULL")),
    Index("transactions_effective", "ledger", "effective_at", "seq"),
    CheckConstraint("status IN ('posted', 'pending', 'captured', 'voided', 'expired')", name="status"),
)

# What moved: a posting of a transaction, or what a capture took of one, at the seq of the event that moved it.
postings = Table(
    "postings",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("posting", SmallInteger, nullable=False),
    Column("debit", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("scale", SmallInteger, nullable=False),
    Column("amount", MONEY, nullable=False),
    Column("effective_at", TIME, nullable=False),
    PrimaryKeyConstraint("ledger", "seq", "posting"),
    Index("postings_of_debit", "ledger", "debit", "seq"),
    Index("postings_of_credit", "ledger", "credit", "seq"),
    CheckConstraint("amount > 0 AND amount < 1e38", name="amount"),
    CheckConstraint("debit <> credit", name="two_accounts"),
)

# The postings of a transaction that was pending once, at its own seq: what they were to move, what of it was posted and
# what is still held.
holds = Table(
    "holds",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("posting", SmallInteger, nullable=False),
    Column("debit", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("scale", SmallInteger, nullable=False),
    Column("amount", MONEY, nullable=False),
    Column("posted", MONEY, nullable=False, server_default="0"),
    Column("held", MONEY, nullable=False),
    PrimaryKeyConstraint("ledger", "seq", "posting"),
    Index("holds_of_debit", "ledger", "debit", "seq"),
    Index("holds_of_credit", "ledger", "credit", "seq"),
    CheckConstraint("amount > 0 AND amount < 1e38", name="amount"),
    CheckConstraint("posted >= 0 AND held >= 0 AND posted + held <= amount", name="posted"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    # room for what becomes of each, without touching an index
    postgresql_with={"fillfactor": "50"},
)

captures = Table(
    "captures",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("transaction", Uuid, nullable=False),
    # minor units, one a posting
    Column("amounts", ARRAY(MONEY), nullable=False),
    Column("effective_at", TIME, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    PrimaryKeyConstraint("ledger", "seq"),
    Index("captures_of_transaction", "ledger", "transaction", "seq"),
)

# What an account had pending from each event on that changed it.
pending_sums = Table(
    "pending_sums",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("pending_debits", MONEY, nullable=False),
    Column("pending_credits", MONEY, nullable=False),
    PrimaryKeyConstraint("ledger", "account", "seq"),
)

# What an account was until the event at a seq changed it: what it is now is with the account.
account_changes = Table(
    "account_changes",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    PrimaryKeyConstraint("ledger", "account", "seq"),
)

# Movements of an account in runs: as many as `infrastructure.snapshots` says, consecutive, up to the run's last seq.
# What they come to is with the run; a part of it is found in its chunks. Made of postings, and made again at will.
sealed_runs = Table(
    "sealed_runs",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_at", TIME, nullable=False),
    Column("last_at", TIME, nullable=False),
    Column("debits", Numeric, nullable=False),
    Column("credits", Numeric, nullable=False),
    PrimaryKeyConstraint("ledger", "account", "level", "last_seq"),
)

# A run's movements by effective time, a handful a row: when and which, and what the run comes to up to each of them.
sealed_chunks = Table(
    "sealed_chunks",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("run", BigInteger, nullable=False),
    Column("last_at", TIME, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_posting", SmallInteger, nullable=False),
    # of the movements before these
    Column("debits_before", Numeric, nullable=False),
    Column("credits_before", Numeric, nullable=False),
    Column("times", ARRAY(TIME), nullable=False),
    Column("seqs", ARRAY(BigInteger), nullable=False),
    Column("postings", ARRAY(SmallInteger), nullable=False),
    Column("debits", ARRAY(Numeric), nullable=False),
    Column("credits", ARRAY(Numeric), nullable=False),
    PrimaryKeyConstraint("ledger", "account", "level", "run", "last_at", "last_seq", "last_posting"),
)

# How far a ledger has been looked through for accounts that have a run to be sealed.
sealed_upto = Table(
    "sealed_upto",
    metadata,
    Column("ledger", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

# Turns that wrote events: which worker's task, when, and how far the journal reached then.
turns = Table(
    "turns",
    metadata,
    Column("actor", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    Column("turn", Uuid, nullable=False),
    Column("task", Text),
    Column("worker", Text),
    PrimaryKeyConstraint("actor", "seq"),
    Index("turns_by_time", "actor", "recorded_at", "seq"),
)

# -- schedules --------------------------------------------------------------------------------------------------------

# What follows from the journal, and how far each has got: `next_at` is the first of its times that nothing was made of
# yet, the one with this number; null when there is none left.
schedules = Table(
    "schedules",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("principal", Uuid, nullable=False),
    Column("command", LargeBinary, nullable=False),
    Column("every", Text),
    Column("rrule", Text),
    Column("starts_at", TIME, nullable=False),
    Column("missed", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("created_at", TIME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("next_at", TIME),
    Column("number", BigInteger, nullable=False),
    Column("last_at", TIME),
    Column("resumed_at", TIME),
    PrimaryKeyConstraint("ledger", "id"),
    Index("schedules_newest", "ledger", "seq"),
    Index("schedules_due", "next_at", postgresql_where=text("status = 'active'")),
    CheckConstraint("status IN ('active', 'paused', 'cancelled')", name="status"),
    CheckConstraint("missed IN ('skip', 'once', 'all')", name="missed"),
    CheckConstraint("(every IS NULL) <> (rrule IS NULL)", name="series"),
)

# The times that made a command: none makes two.
schedule_fires = Table(
    "schedule_fires",
    metadata,
    Column("ledger", Text, nullable=False),
    Column("schedule", Uuid, nullable=False),
    Column("fire_at", TIME, nullable=False),
    Column("command", Uuid, nullable=False),
    PrimaryKeyConstraint("ledger", "schedule", "fire_at"),
)

# -- exports ----------------------------------------------------------------------------------------------------------

exports = Table(
    "exports",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("ledger", Text, nullable=False),
    Column("principal", Uuid, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("status", Text, nullable=False, server_default="accepted"),
    # what the file shows is the ledger as it was then
    Column("seq", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False, server_default="0"),
    Column("total", BigInteger),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("problem", Text),
    Column("correlation_id", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("finished_at", TIME),
    Column("expires_at", TIME),
    Column("lease", Uuid),
    Column("leased_until", TIME),
    CheckConstraint("status IN ('accepted', 'running', 'succeeded', 'failed')", name="status"),
    Index("exports_of_ledger", "ledger", "id"),
    Index("exports_unfinished", "id", postgresql_where=text("status IN ('accepted', 'running')")),
    Index("exports_expiring", "expires_at"),
)

export_parts = Table(
    "export_parts",
    metadata,
    Column("export", Uuid, ForeignKey("exports.id", ondelete="CASCADE"), nullable=False),
    Column("part", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("export", "part"),
)

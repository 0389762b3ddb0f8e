"""The spine: users and sessions, the daybook, the journal, and the ledger's projections."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS: Final = (
    "CREATE SEQUENCE daybook_position AS BIGINT",
    """
    CREATE TABLE accounts (
        ledger TEXT NOT NULL,
        name TEXT COLLATE "C" NOT NULL,
        currency TEXT NOT NULL,
        scale SMALLINT NOT NULL,
        type TEXT NOT NULL,
        status TEXT DEFAULT 'open' NOT NULL,
        min_balance NUMERIC(38, 0),
        max_balance NUMERIC(38, 0),
        posted_debits NUMERIC(38, 0) DEFAULT '0' NOT NULL,
        posted_credits NUMERIC(38, 0) DEFAULT '0' NOT NULL,
        pending_debits NUMERIC(38, 0) DEFAULT '0' NOT NULL,
        pending_credits NUMERIC(38, 0) DEFAULT '0' NOT NULL,
        metadata JSONB NOT NULL,
        opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
        version BIGINT NOT NULL,
        CONSTRAINT accounts_pkey PRIMARY KEY (ledger, name),
        CONSTRAINT accounts_type_check CHECK (type IN ('asset', 'expense', 'liability', 'equity', 'income')),
        CONSTRAINT accounts_status_check CHECK (status IN ('open', 'frozen', 'closed')),
        CONSTRAINT accounts_min_balance_check CHECK (min_balance <= 0 AND min_balance > -1e38),
        CONSTRAINT accounts_max_balance_check CHECK (max_balance >= 0 AND max_balance < 1e38),
        CONSTRAINT accounts_posted_debits_check CHECK (posted_debits >= 0 AND posted_debits < 1e38),
        CONSTRAINT accounts_posted_credits_check CHECK (posted_credits >= 0 AND posted_credits < 1e38),
        CONSTRAINT accounts_pending_debits_check CHECK (pending_debits >= 0 AND pending_debits < 1e38),
        CONSTRAINT accounts_pending_credits_check CHECK (pending_credits >= 0 AND pending_credits < 1e38)
    ) WITH (fillfactor = 50)
    """,
    r"""
    CREATE TABLE actors (
        actor TEXT NOT NULL,
        epoch INTEGER DEFAULT '1' NOT NULL,
        seq BIGINT DEFAULT '0' NOT NULL,
        head BYTEA DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'::bytea NOT NULL,
        recorded_at TIMESTAMP WITH TIME ZONE DEFAULT '-infinity'::timestamptz NOT NULL,
        CONSTRAINT actors_pkey PRIMARY KEY (actor)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE batches (
        id UUID NOT NULL,
        actor TEXT NOT NULL,
        principal UUID NOT NULL,
        jobs UUID[] NOT NULL,
        accepted_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT batches_pkey PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE commands (
        id UUID NOT NULL,
        actor TEXT NOT NULL,
        position BIGINT,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        payload BYTEA NOT NULL,
        weight INTEGER DEFAULT '1' NOT NULL,
        principal UUID NOT NULL,
        correlation_id TEXT NOT NULL,
        resource TEXT,
        batch UUID,
        accepted_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        execute_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        attempts SMALLINT DEFAULT '0' NOT NULL,
        seq BIGINT,
        problem BYTEA,
        CONSTRAINT commands_pkey PRIMARY KEY (id),
        CONSTRAINT commands_status_check
            CHECK (status IN ('scheduled', 'accepted', 'succeeded', 'rejected', 'failed', 'cancelled'))
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX commands_dead ON commands (id) WHERE status = 'failed'",
    "CREATE INDEX commands_mailbox ON commands (actor, position) WHERE status = 'accepted'",
    "CREATE INDEX commands_of_actor ON commands (actor, id)",
    "CREATE INDEX commands_of_principal ON commands (principal, id)",
    """
    CREATE TABLE currencies (
        ledger TEXT NOT NULL,
        code TEXT COLLATE "C" NOT NULL,
        scale SMALLINT NOT NULL,
        CONSTRAINT currencies_pkey PRIMARY KEY (ledger, code),
        CONSTRAINT currencies_scale_check CHECK (scale BETWEEN 0 AND 18)
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        principal UUID NOT NULL,
        actor TEXT NOT NULL,
        key TEXT NOT NULL,
        request_hash BYTEA NOT NULL,
        command UUID NOT NULL,
        CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, actor, key)
    )
    """,
    """
    CREATE TABLE journal (
        actor TEXT NOT NULL,
        seq BIGINT NOT NULL,
        epoch INTEGER NOT NULL,
        hash BYTEA NOT NULL,
        event BYTEA NOT NULL,
        CONSTRAINT journal_pkey PRIMARY KEY (actor, seq)
    )
    """,
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
    """
    CREATE TABLE ledgers (
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        metadata JSONB NOT NULL,
        owner UUID NOT NULL,
        accounts BIGINT DEFAULT '0' NOT NULL,
        version BIGINT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT ledgers_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ledgers_newest ON ledgers (created_at, id)",
    """
    CREATE TABLE postings (
        ledger TEXT NOT NULL,
        seq BIGINT NOT NULL,
        posting SMALLINT NOT NULL,
        debit TEXT NOT NULL,
        credit TEXT NOT NULL,
        currency TEXT NOT NULL,
        scale SMALLINT NOT NULL,
        amount NUMERIC(38, 0) NOT NULL,
        CONSTRAINT postings_pkey PRIMARY KEY (ledger, seq, posting),
        CONSTRAINT postings_amount_check CHECK (amount > 0 AND amount < 1e38),
        CONSTRAINT postings_two_accounts_check CHECK (debit <> credit)
    )
    """,
    "CREATE INDEX postings_of_credit ON postings (ledger, credit, seq)",
    "CREATE INDEX postings_of_debit ON postings (ledger, debit, seq)",
    """
    CREATE TABLE subscribers (
        name TEXT NOT NULL,
        registered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT subscribers_pkey PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE transactions (
        ledger TEXT NOT NULL,
        id UUID NOT NULL,
        seq BIGINT NOT NULL,
        status TEXT NOT NULL,
        reference TEXT,
        description TEXT,
        metadata JSONB NOT NULL,
        effective_at TIMESTAMP WITH TIME ZONE NOT NULL,
        recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
        version BIGINT NOT NULL,
        CONSTRAINT transactions_pkey PRIMARY KEY (ledger, id),
        CONSTRAINT transactions_ledger_seq_key UNIQUE (ledger, seq),
        CONSTRAINT transactions_status_check CHECK (status IN ('posted', 'pending', 'captured', 'voided', 'expired'))
    )
    """,
    "CREATE INDEX transactions_effective ON transactions (ledger, effective_at, seq)",
    "CREATE UNIQUE INDEX transactions_reference ON transactions (ledger, reference) WHERE reference IS NOT NULL",
    """
    CREATE TABLE turn_marks (
        actor TEXT NOT NULL,
        turn UUID NOT NULL,
        width INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        suspect_position BIGINT NOT NULL,
        running BOOLEAN NOT NULL,
        CONSTRAINT turn_marks_pkey PRIMARY KEY (actor)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE users (
        id UUID NOT NULL,
        username TEXT NOT NULL,
        roles TEXT[] NOT NULL,
        status TEXT DEFAULT 'active' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT users_pkey PRIMARY KEY (id),
        CONSTRAINT users_status_check CHECK (status IN ('active', 'disabled')),
        CONSTRAINT users_username_key UNIQUE (username)
    )
    """,
    """
    CREATE TABLE behind (
        subscriber TEXT NOT NULL,
        actor TEXT NOT NULL,
        position BIGINT NOT NULL,
        head BIGINT NOT NULL,
        since TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        lease UUID,
        leased_until TIMESTAMP WITH TIME ZONE,
        failures INTEGER DEFAULT '0' NOT NULL,
        retry_at TIMESTAMP WITH TIME ZONE,
        last_error TEXT,
        CONSTRAINT behind_pkey PRIMARY KEY (subscriber, actor),
        CONSTRAINT behind_subscriber_fkey FOREIGN KEY(subscriber) REFERENCES subscribers (name)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE credentials (
        user_id UUID NOT NULL,
        password_hash TEXT NOT NULL,
        changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT credentials_pkey PRIMARY KEY (user_id),
        CONSTRAINT credentials_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
    )
    """,
    """
    CREATE TABLE grants (
        ledger TEXT NOT NULL,
        user_id UUID NOT NULL,
        role TEXT NOT NULL,
        granted_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT grants_pkey PRIMARY KEY (ledger, user_id),
        CONSTRAINT grants_role_check CHECK (role IN ('owner', 'writer', 'reader')),
        CONSTRAINT grants_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
    )
    """,
    "CREATE INDEX grants_user_id_ledger_idx ON grants (user_id, ledger)",
    """
    CREATE TABLE ledger_reservations (
        ledger TEXT NOT NULL,
        owner UUID NOT NULL,
        command UUID NOT NULL,
        CONSTRAINT ledger_reservations_pkey PRIMARY KEY (ledger),
        CONSTRAINT ledger_reservations_owner_fkey FOREIGN KEY(owner) REFERENCES users (id)
    )
    """,
    """
    CREATE TABLE sessions (
        id UUID NOT NULL,
        user_id UUID NOT NULL,
        generation INTEGER DEFAULT '0' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        rotated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        ended_at TIMESTAMP WITH TIME ZONE,
        end_reason TEXT,
        address TEXT,
        user_agent TEXT,
        CONSTRAINT sessions_pkey PRIMARY KEY (id),
        CONSTRAINT sessions_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
    )
    """,
    "CREATE INDEX sessions_user_id_idx ON sessions (user_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        # exec_driver_sql: plain SQL, in which a colon is no parameter
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("Daybook's schema only moves forward: restore a backup instead")

"""The whole ledger: holds and captures, reversals, closed periods, when a posting takes effect, and turns."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS: Final = (
    "ALTER TABLE commands ADD COLUMN line INTEGER",
    "ALTER TABLE commands ADD COLUMN task TEXT",
    "ALTER TABLE batches ADD COLUMN atomic BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE ledgers ADD COLUMN closed_before TIMESTAMP WITH TIME ZONE",
    """
    CREATE TABLE periods (
        ledger TEXT NOT NULL,
        seq BIGINT NOT NULL,
        before TIMESTAMP WITH TIME ZONE NOT NULL,
        closed_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT periods_pkey PRIMARY KEY (ledger, seq)
    )
    """,
    "ALTER TABLE transactions ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE transactions ADD COLUMN reverses UUID",
    "ALTER TABLE transactions ADD COLUMN reversed_by UUID",
    "ALTER TABLE transactions ADD COLUMN expired BOOLEAN DEFAULT false NOT NULL",
    "CREATE INDEX transactions_expiring ON transactions (expires_at) WHERE status = 'pending'",
    "CREATE INDEX transactions_held ON transactions (ledger, status, seq) WHERE status <> 'posted'",
    "ALTER TABLE postings ADD COLUMN effective_at TIMESTAMP WITH TIME ZONE",
    # so far every posting is a transaction's own
    """
    UPDATE postings SET effective_at = transactions.effective_at
    FROM transactions WHERE transactions.ledger = postings.ledger AND transactions.seq = postings.seq
    """,
    "ALTER TABLE postings ALTER COLUMN effective_at SET NOT NULL",
    """
    CREATE TABLE holds (
        ledger TEXT NOT NULL,
        seq BIGINT NOT NULL,
        posting SMALLINT NOT NULL,
        debit TEXT NOT NULL,
        credit TEXT NOT NULL,
        currency TEXT NOT NULL,
        scale SMALLINT NOT NULL,
        amount NUMERIC(38, 0) NOT NULL,
        posted NUMERIC(38, 0) DEFAULT '0' NOT NULL,
        held NUMERIC(38, 0) NOT NULL,
        CONSTRAINT holds_pkey PRIMARY KEY (ledger, seq, posting),
        CONSTRAINT holds_amount_check CHECK (amount > 0 AND amount < 1e38),
        CONSTRAINT holds_posted_check CHECK (posted >= 0 AND held >= 0 AND posted + held <= amount),
        CONSTRAINT holds_two_accounts_check CHECK (debit <> credit)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX holds_of_debit ON holds (ledger, debit, seq)",
    "CREATE INDEX holds_of_credit ON holds (ledger, credit, seq)",
    """
    CREATE TABLE captures (
        ledger TEXT NOT NULL,
        seq BIGINT NOT NULL,
        id UUID NOT NULL,
        transaction UUID NOT NULL,
        amounts NUMERIC(38, 0)[] NOT NULL,
        effective_at TIMESTAMP WITH TIME ZONE NOT NULL,
        recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT captures_pkey PRIMARY KEY (ledger, seq)
    )
    """,
    "CREATE INDEX captures_of_transaction ON captures (ledger, transaction, seq)",
    """
    CREATE TABLE pending_sums (
        ledger TEXT NOT NULL,
        account TEXT NOT NULL,
        seq BIGINT NOT NULL,
        pending_debits NUMERIC(38, 0) NOT NULL,
        pending_credits NUMERIC(38, 0) NOT NULL,
        CONSTRAINT pending_sums_pkey PRIMARY KEY (ledger, account, seq)
    )
    """,
    """
    CREATE TABLE account_changes (
        ledger TEXT NOT NULL,
        account TEXT NOT NULL,
        seq BIGINT NOT NULL,
        status TEXT NOT NULL,
        metadata JSONB NOT NULL,
        CONSTRAINT account_changes_pkey PRIMARY KEY (ledger, account, seq)
    )
    """,
    "ALTER TABLE accounts ADD COLUMN opened_seq BIGINT DEFAULT '0' NOT NULL",
    # those of former releases say so in their events alone
    """
    UPDATE accounts SET opened_seq = opened.seq
    FROM (
        SELECT substr(actor, 8) AS ledger, convert_from(event, 'UTF8')::json #>> '{data,name}' AS name, seq
        FROM journal
        WHERE actor LIKE 'ledger:%' AND convert_from(event, 'UTF8')::json ->> 'type' = 'AccountOpened'
    ) AS opened
    WHERE accounts.ledger = opened.ledger AND accounts.name = opened.name
    """,
    """
    CREATE TABLE sealed_runs (
        ledger TEXT NOT NULL,
        account TEXT NOT NULL,
        level SMALLINT NOT NULL,
        last_seq BIGINT NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL,
        debits NUMERIC NOT NULL,
        credits NUMERIC NOT NULL,
        CONSTRAINT sealed_runs_pkey PRIMARY KEY (ledger, account, level, last_seq)
    )
    """,
    """
    CREATE TABLE sealed_chunks (
        ledger TEXT NOT NULL,
        account TEXT NOT NULL,
        level SMALLINT NOT NULL,
        run BIGINT NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_seq BIGINT NOT NULL,
        last_posting SMALLINT NOT NULL,
        debits_before NUMERIC NOT NULL,
        credits_before NUMERIC NOT NULL,
        times TIMESTAMP WITH TIME ZONE[] NOT NULL,
        seqs BIGINT[] NOT NULL,
        postings SMALLINT[] NOT NULL,
        debits NUMERIC[] NOT NULL,
        credits NUMERIC[] NOT NULL,
        CONSTRAINT sealed_chunks_pkey PRIMARY KEY (ledger, account, level, run, last_at, last_seq, last_posting)
    )
    """,
    """
    CREATE TABLE sealed_upto (
        ledger TEXT NOT NULL,
        seq BIGINT NOT NULL,
        CONSTRAINT sealed_upto_pkey PRIMARY KEY (ledger)
    )
    """,
    """
    CREATE TABLE turns (
        actor TEXT NOT NULL,
        seq BIGINT NOT NULL,
        recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
        turn UUID NOT NULL,
        task TEXT,
        worker TEXT,
        CONSTRAINT turns_pkey PRIMARY KEY (actor, seq)
    )
    """,
    "CREATE INDEX turns_by_time ON turns (actor, recorded_at, seq)",
    # of turns before these were kept: all events of one have its time
    """
    INSERT INTO turns (actor, seq, recorded_at, turn)
    SELECT actor, max(seq), recorded_at, gen_random_uuid()
    FROM (
        SELECT actor, seq, (convert_from(event, 'UTF8')::json ->> 'recorded_at')::timestamptz AS recorded_at
        FROM journal
    ) AS events
    GROUP BY actor, recorded_at
    """,
    """
    CREATE TABLE exports (
        id UUID NOT NULL,
        ledger TEXT NOT NULL,
        principal UUID NOT NULL,
        request BYTEA NOT NULL,
        status TEXT DEFAULT 'accepted' NOT NULL,
        seq BIGINT NOT NULL,
        done BIGINT DEFAULT '0' NOT NULL,
        total BIGINT,
        attempts SMALLINT DEFAULT '0' NOT NULL,
        size BIGINT DEFAULT '0' NOT NULL,
        problem TEXT,
        correlation_id TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        expires_at TIMESTAMP WITH TIME ZONE,
        lease UUID,
        leased_until TIMESTAMP WITH TIME ZONE,
        CONSTRAINT exports_pkey PRIMARY KEY (id),
        CONSTRAINT exports_status_check CHECK (status IN ('accepted', 'running', 'succeeded', 'failed'))
    )
    """,
    "CREATE INDEX exports_of_ledger ON exports (ledger, id)",
    "CREATE INDEX exports_unfinished ON exports (id) WHERE status IN ('accepted', 'running')",
    "CREATE INDEX exports_expiring ON exports (expires_at)",
    """
    CREATE TABLE export_parts (
        export UUID NOT NULL,
        part INTEGER NOT NULL,
        content BYTEA NOT NULL,
        CONSTRAINT export_parts_pkey PRIMARY KEY (export, part),
        CONSTRAINT export_parts_export_fkey FOREIGN KEY(export) REFERENCES exports (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX commands_due ON commands (execute_at, id) WHERE status = 'scheduled'",
    "CREATE INDEX commands_scheduled ON commands (actor) WHERE status = 'scheduled'",
    """
    CREATE TABLE schedules (
        ledger TEXT NOT NULL,
        id UUID NOT NULL,
        seq BIGINT NOT NULL,
        principal UUID NOT NULL,
        command BYTEA NOT NULL,
        every TEXT,
        rrule TEXT,
        starts_at TIMESTAMP WITH TIME ZONE NOT NULL,
        missed TEXT NOT NULL,
        status TEXT DEFAULT 'active' NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        version BIGINT NOT NULL,
        next_at TIMESTAMP WITH TIME ZONE,
        number BIGINT NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE,
        resumed_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT schedules_pkey PRIMARY KEY (ledger, id),
        CONSTRAINT schedules_status_check CHECK (status IN ('active', 'paused', 'cancelled')),
        CONSTRAINT schedules_missed_check CHECK (missed IN ('skip', 'once', 'all')),
        CONSTRAINT schedules_series_check CHECK ((every IS NULL) <> (rrule IS NULL))
    )
    """,
    "CREATE INDEX schedules_newest ON schedules (ledger, seq)",
    "CREATE INDEX schedules_due ON schedules (next_at) WHERE status = 'active'",
    """
    CREATE TABLE schedule_fires (
        ledger TEXT NOT NULL,
        schedule UUID NOT NULL,
        fire_at TIMESTAMP WITH TIME ZONE NOT NULL,
        command UUID NOT NULL,
        CONSTRAINT schedule_fires_pkey PRIMARY KEY (ledger, schedule, fire_at)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("Daybook's schema only moves forward: restore a backup instead")

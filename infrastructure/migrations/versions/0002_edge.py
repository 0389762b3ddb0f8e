"""The edge: versions of users, passwords on their way, signing keys, API keys, and when a session was last used."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS: Final = (
    "ALTER TABLE users ADD COLUMN version BIGINT DEFAULT '0' NOT NULL",
    "ALTER TABLE sessions ADD COLUMN last_used_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "CREATE INDEX sessions_of_user ON sessions (user_id, id) WHERE ended_at IS NULL",
    'CREATE INDEX users_name ON users (lower(username COLLATE "C"))',
    "CREATE INDEX users_admins ON users (id) WHERE status = 'active' AND 'admin' = ANY (roles)",
    """
    CREATE TABLE pending_credentials (
        command UUID NOT NULL,
        user_id UUID NOT NULL,
        password_hash TEXT NOT NULL,
        CONSTRAINT pending_credentials_pkey PRIMARY KEY (command)
    )
    """,
    "CREATE INDEX pending_credentials_user_id_idx ON pending_credentials (user_id)",
    """
    CREATE TABLE signing_keys (
        kid TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        sealed BYTEA NOT NULL,
        public_key BYTEA,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        retired_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT signing_keys_pkey PRIMARY KEY (kid),
        CONSTRAINT signing_keys_algorithm_check CHECK (algorithm IN ('HS256', 'EdDSA'))
    )
    """,
    """
    CREATE TABLE api_keys (
        id UUID NOT NULL,
        user_id UUID NOT NULL,
        name TEXT NOT NULL,
        prefix TEXT NOT NULL,
        secret_hash BYTEA NOT NULL,
        scopes TEXT[] NOT NULL,
        ledgers TEXT[],
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE,
        last_used_at TIMESTAMP WITH TIME ZONE,
        revoked_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT api_keys_pkey PRIMARY KEY (id),
        CONSTRAINT api_keys_secret_hash_key UNIQUE (secret_hash),
        CONSTRAINT api_keys_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
    )
    """,
    "CREATE INDEX api_keys_user_id_id_idx ON api_keys (user_id, id) WHERE revoked_at IS NULL",
    "ALTER TABLE grants ADD COLUMN seq BIGINT DEFAULT '1' NOT NULL",
    "CREATE INDEX grants_newest ON grants (ledger, seq)",
    "CREATE INDEX grants_of_owners ON grants (ledger) WHERE role = 'owner'",
    # so far there are the creators' alone: they were granted when the ledger's first event was recorded
    "UPDATE grants SET granted_at = created_at FROM ledgers WHERE id = ledger",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("Daybook's schema only moves forward: restore a backup instead")

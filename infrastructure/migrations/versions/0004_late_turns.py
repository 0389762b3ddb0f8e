"""Marks count how often an entry that is alone in its turn has run out of time."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE turn_marks ADD COLUMN late INTEGER DEFAULT 0 NOT NULL")


def downgrade() -> None:
    raise NotImplementedError("Daybook's schema only moves forward: restore a backup instead")

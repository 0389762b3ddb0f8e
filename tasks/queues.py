"""Which queues there are, and which serves which type of actor: known without any settings."""

from __future__ import annotations

from typing import Final

QUEUES: Final = ("ledgers", "identity", "events", "maintenance", "exports")
QUEUE_OF_ACTOR: Final = {"ledger": "ledgers", "user": "identity"}
TIME_LIMITS_S: Final = {"tasks.exports.run": 3_600}
"""Of the tasks that may take longer than the others."""

"""Which queues there are, and which serves which type of actor: known without any settings."""

from __future__ import annotations

from typing import Final

QUEUES: Final = ("ledgers", "identity", "events", "maintenance")
QUEUE_OF_ACTOR: Final = {"ledger": "ledgers", "user": "identity"}

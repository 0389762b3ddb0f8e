"""An actor's journal, read line by line as plain JSON: are its seqs dense, its hashes right, its events its own?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, Final

from asyncpg import Record

from cli.findings import Findings
from infrastructure.postgres import Db

Json = dict[str, Any]

LINES: Final = 2_000
BYTES: Final = 8 << 20

ACTOR: Final = "SELECT epoch, seq, head, recorded_at FROM actors WHERE actor = $1"
JOURNAL: Final = """
SELECT seq, epoch, hash, event FROM (
    SELECT seq, epoch, hash, event, sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS bytes_before
    FROM (SELECT seq, epoch, hash, event FROM journal WHERE actor = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS following
) AS measured WHERE bytes_before < $4 ORDER BY seq
"""


class Wrong(Exception):
    """An event can't be as it is."""


class Chain:
    """One actor's journal as far as it was read. Findings call the actor `name`."""

    def __init__(self, actor: str, name: str, findings: Findings) -> None:
        self.actor = actor
        self.name = name
        self.findings = findings
        self.seq = 0
        self.epoch = 0
        self.hash = bytes(32)
        self.recorded_at = ""

    def enter(self, row: Record, take: Callable[[int, Json], None]) -> None:
        """Takes the next line. `take` gets its seq and event, and raises Wrong for one that can't be."""
        seq, event = row["seq"], row["event"]
        place = f"{self.name}/{seq}"
        if seq != self.seq + 1:
            self.findings.add("seq", f"{place}: follows {self.seq}")
        digest = hashlib.sha256(self.hash + event).digest()
        if digest != row["hash"]:
            self.findings.add("hash", f"{place}: {row['hash'].hex()}, SHA-256 of what is there is {digest.hex()}")
        # going on from what is stored: one changed event is one finding, and not all that follow
        self.seq, self.hash = seq, row["hash"]
        try:
            content = json.loads(event)
            self._check_label(place, row, content)
            take(seq, content)
        except (Wrong, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            said = str(error) if isinstance(error, Wrong) else f"can't be read: {error!r}"
            self.findings.add("event", f"{place}: {said}")

    def _check_label(self, place: str, row: Record, event: Json) -> None:
        seq, epoch = row["seq"], row["epoch"]
        named = {"actor": self.actor, "epoch": epoch, "seq": seq, "id": f"{self.actor}/{epoch}/{seq}"}
        self.findings.compare("event", place, named, event)
        if epoch < self.epoch or event["recorded_at"] < self.recorded_at:
            self.findings.add("event", f"{place}: is older than the one before it")
        self.epoch, self.recorded_at = epoch, event["recorded_at"]


async def pages(db: Db, actor: str) -> AsyncIterator[list[Record]]:
    """The actor's journal from its first line on."""
    after = -1
    while rows := await db.fetch(JOURNAL, actor, after, LINES, BYTES):
        yield rows
        after = rows[-1]["seq"]


async def compare_head(db: Db, chain: Chain) -> None:
    """Compares what the actor's row says of the journal's end with where it ended."""
    row = await db.fetchrow(ACTOR, chain.actor)
    if row is None:
        chain.findings.add("actor", f"{chain.name}: has no actor")
        return
    expected: Json = {"seq": chain.seq, "head": chain.hash}
    if chain.recorded_at:
        expected["recorded_at"] = datetime.fromisoformat(chain.recorded_at)
    chain.findings.compare("actor", chain.name, expected, dict(row))
    if row["epoch"] < chain.epoch:
        chain.findings.add("actor", f"{chain.name}: epoch is {row['epoch']}, the journal has {chain.epoch}")

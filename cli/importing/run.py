"""The import itself: rows in batches to the service, in line order, and what became of each.

A batch is sent when the one before it has been accepted, since the order of requests on their way at once is not
kept; only their outcomes are waited for side by side, at most `in_flight` batches behind.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import msgspec

from cli.importing.mapping import Item
from cli.importing.service import Service, ServiceError, describe, problem_of

# Well below the 16 MiB that the service takes at once.
MOST_BYTES: Final = 8 << 20
# An account that somebody opened before is as good as one that was opened now.
_ALREADY: Final = {("open_account", "account_exists")}
_IN_COMMAND: Final = re.compile(r"#/commands/(\d+)(?:/|\Z)")
_FINISHED_BADLY: Final = ("rejected", "failed", "cancelled")


class Refused(msgspec.Struct, frozen=True):
    """A row that was not posted, and why."""

    item: Item
    code: str
    detail: str


class Totals(msgspec.Struct):
    """What became of the rows. `earlier` were posted before this run, by an earlier one or an equal row."""

    posted: int = 0
    earlier: int = 0
    opened: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)


class _Batch(msgspec.Struct, frozen=True):
    id: UUID
    items: Sequence[Item]
    jobs: Sequence[UUID]

    def is_replay(self, index: int) -> bool:
        """Whether the job is older than this batch: ids grow with time, and a batch has its own before its jobs."""
        return self.jobs[index] < self.id


def batches(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Groups for one request each, in order: at most `most` commands and MOST_BYTES."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and (len(group) == most or size + len(item.body) > MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item.body) + 1
    if group:
        yield group


class Importer:
    """Sends batches to one ledger. `refuse` is told every refusal, `advance` how many rows are done."""

    def __init__(
        self,
        service: Service,
        ledger: str,
        *,
        in_flight: int,
        refuse: Callable[[Refused], None],
        advance: Callable[[int], object],
    ) -> None:
        self._service = service
        self._ledger = ledger
        self._in_flight = in_flight
        self._refuse_row = refuse
        self._advance = advance
        self._unfinished: deque[_Batch] = deque()
        self._run = uuid4().hex
        self._sent = 0
        self.totals = Totals()

    def run(self, groups: Iterable[Sequence[Item]]) -> None:
        """Sends all groups and waits for their outcomes. Raises ServiceError."""
        for group in groups:
            self._submit(self._distinct(group))
            if len(self._unfinished) >= self._in_flight:
                self._settle(self._unfinished.popleft())
        while self._unfinished:
            self._settle(self._unfinished.popleft())

    def refuse(self, refused: Refused) -> None:
        """Counts a row that is not posted."""
        self.totals.refused[refused.code] += 1
        self._refuse_row(refused)

    def _distinct(self, group: Sequence[Item]) -> list[Item]:
        """The group without rows equal to an earlier one of it."""
        first: dict[str, Item] = {}
        for item in group:
            first.setdefault(item.key, item)
        distinct = list(first.values())
        self.totals.earlier += len(group) - len(distinct)
        self._advance(len(group) - len(distinct))
        return distinct

    def _submit(self, items: Sequence[Item]) -> None:
        """Sends the items as one batch; those that make the service refuse the request are left out."""
        while items:
            self._sent += 1
            answer = self._service.post(
                f"/v1/ledgers/{self._ledger}/commands",
                b"\n".join(item.body for item in items),
                media_type="application/x-ndjson",
                # so that a request repeated for want of an answer is known to be the same
                headers={"idempotency-key": f"import:{self._run}:{self._sent}"},
            )
            if answer.status_code == 202:
                accepted = answer.json()
                self._unfinished.append(_Batch(UUID(accepted["batch"]), items, [UUID(job) for job in accepted["jobs"]]))
                return
            items = self._without_faulty(items, answer)

    def _without_faulty(self, items: Sequence[Item], answer: httpx.Response) -> list[Item]:
        faults = _faults(answer)
        if not faults:
            raise ServiceError(f"Ledger {self._ledger!r}: {describe(answer)}")
        code = problem_of(answer)["code"]
        if code == "idempotency_key_reused":
            raise ServiceError(
                f"Line {items[min(faults)].line} was imported before with another mapping. Import with the mapping of "
                "that time, or map --reference, which keeps rows from being posted twice whatever the mapping."
            )
        for index, detail in faults.items():
            self._settle_one(items[index], Refused(items[index], code, detail), replayed=False)
        return [item for index, item in enumerate(items) if index not in faults]

    def _settle(self, batch: _Batch) -> None:
        """Waits until the batch is finished and counts what became of it."""
        path = f"/v1/batches/{batch.id}"
        while True:
            answer = self._service.get(path, headers={"prefer": "wait=30"})
            if answer.status_code != 200:
                raise ServiceError(f"{path}: {describe(answer)}")
            view = answer.json()
            if view["done"]:
                break
            time.sleep(0.1)
        problems = self._problems(batch, view)
        for index, item in enumerate(batch.items):
            problem = problems.get(batch.jobs[index])
            refused = None if problem is None else Refused(item, *problem)
            self._settle_one(item, refused, replayed=batch.is_replay(index))

    def _settle_one(self, item: Item, refused: Refused | None, *, replayed: bool) -> None:
        if refused is not None and (item.kind, refused.code) in _ALREADY:
            refused, replayed = None, True
        if refused is not None:
            self.refuse(refused)
        elif item.kind == "open_account":
            self.totals.opened += not replayed
        elif replayed:
            self.totals.earlier += 1
        else:
            self.totals.posted += 1
        self._advance(item.kind == "post_transaction")

    def _problems(self, batch: _Batch, view: dict[str, Any]) -> dict[UUID, tuple[str, str]]:
        """Code and detail for each job that came to nothing."""
        found = {UUID(refusal["job"]): _told(refusal["problem"]) for refusal in view["refusals"]}
        for status in _FINISHED_BADLY:
            # a batch shows its first 100 refusals; the others are among the ledger's jobs
            if view["counts"][status] > (len(found) if status == "rejected" else 0):
                found |= self._jobs(status, set(batch.jobs))
        return found

    def _jobs(self, status: str, wanted: set[UUID]) -> dict[UUID, tuple[str, str]]:
        """What became of those `wanted` that have this status; pages of newest first, down to the oldest of them."""
        found: dict[UUID, tuple[str, str]] = {}
        oldest = min(wanted)
        query = {"ledger": self._ledger, "status": status, "limit": "1000"}
        while True:
            answer = self._service.get("/v1/jobs", query=query)
            if answer.status_code != 200:
                raise ServiceError(f"/v1/jobs: {describe(answer)}")
            page = answer.json()
            for job in page["items"]:
                if (job_id := UUID(job["id"])) in wanted:
                    found[job_id] = _told(job["problem"]) if job["problem"] else (status, "")
            if page["next"] is None or UUID(page["items"][-1]["id"]) < oldest:
                return found
            query["cursor"] = page["next"]


def _told(problem: dict[str, Any]) -> tuple[str, str]:
    return problem["code"], problem["detail"]


def _faults(answer: httpx.Response) -> dict[int, str]:
    """Which commands of the request are at fault, by index, and why; empty when it is something else."""
    found: dict[int, str] = {}
    for error in problem_of(answer).get("errors") or ():
        match = _IN_COMMAND.match(error["pointer"])
        if match:
            found.setdefault(int(match[1]), f"{error['pointer']}: {error['detail']}")
    return found

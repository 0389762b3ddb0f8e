"""`make bench`: starts a stack of its own, measures it beside plain Postgres in several rounds, prints and saves."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from tests.benchmarks import bare, history, machine, per_task, product, report
from tests.benchmarks.pgledger import Pgledger, pgledger
from tests.benchmarks.product import Daybook
from tests.benchmarks.reference import Reference, reference
from tests.conftest import temporary_state
from tests.stack import Stack, running_stack

FOLDER: Final = Path(__file__).resolve().parents[2] / "bench"
# what the API with the bare route may not do is what is not measured: limit one client to 5,000 requests a second
NO_LIMIT: Final = {f"DAYBOOK_REQUEST_RATE_{whose}": "1000000" for whose in ("ADDRESS", "USER", "OPERATOR", "ADMIN")}

Taken = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured at a time."""

    bulk: int = 20_000
    single: int = 6_000
    waits: int = 200
    tasks: int = 1_500
    reads: int = 10_000
    seconds: int = 8
    histories: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    questions: int = 200

    @classmethod
    def quick(cls) -> Sizes:
        return cls(
            bulk=5_000,
            single=1_500,
            waits=50,
            tasks=300,
            reads=2_000,
            seconds=3,
            histories=(1_000, 20_000),
            questions=50,
        )


@dataclass(frozen=True)
class Bench:
    """What a measurement works with."""

    daybook: Daybook
    reference: Reference
    pgledger: Pgledger | None
    sizes: Sizes

    async def reference_of(self, accounts: int) -> Taken:
        found = await asyncio.to_thread(self.reference.rate, accounts, self.sizes.seconds)
        return {f"floor, {accounts} accounts": found}

    async def pgledger_of(self, accounts: int) -> Taken:
        if self.pgledger is None:
            return {}
        found = await asyncio.to_thread(self.pgledger.rate, accounts, self.sizes.seconds)
        return {f"pgledger, {accounts} accounts": found}

    async def bulk_of(self, accounts: int) -> Taken:
        return {f"bulk, {accounts} accounts": await product.bulk(self.daybook, accounts, self.sizes.bulk)}

    async def atomic_of(self, accounts: int) -> Taken:
        found = await product.bulk(self.daybook, accounts, self.sizes.bulk, atomic=True)
        return {f"bulk atomic, {accounts} accounts": found}

    async def holds_of(self, accounts: int) -> Taken:
        return {f"bulk holds, {accounts} accounts": await product.holds(self.daybook, accounts, self.sizes.bulk // 2)}

    async def single_of(self, accounts: int) -> Taken:
        return {f"single, {accounts} accounts": await product.single(self.daybook, accounts, self.sizes.single)}

    async def awaited(self) -> Taken:
        return {"awaited, 2 accounts": await product.awaited(self.daybook, 2, self.sizes.single // 2)}

    async def tasks(self) -> Taken:
        broker = self.daybook.stack.connection["redis_url"]
        return {"one task per transfer": await per_task.measure(broker, self.reference, 2, self.sizes.tasks)}

    async def idle(self) -> Taken:
        return {"idle wait": await product.idle_wait(self.daybook, self.sizes.waits)}

    async def reads(self) -> Taken:
        with bare.running({**_environment(self.daybook.stack), **NO_LIMIT}) as port:
            cached, plain = await product.reads(self.daybook, port, bare.PATH, self.sizes.reads)
        return {"cached balance": cached, "bare route": plain}

    async def past(self) -> Taken:
        found: Taken = {}
        for backdated in (False, True):
            for postings in self.sizes.histories:
                reads = self.sizes.questions
                found |= await history.measure(self.daybook, postings, backdated=backdated, reads=reads)
        return found


Measurement = Callable[[Bench], Awaitable[Taken]]

# What is divided by one another is measured side by side. Idle is what has not just been busy.
MEASUREMENTS: Final[dict[str, Measurement]] = {
    "idle": lambda bench: bench.idle(),
    "floor": lambda bench: bench.reference_of(2),
    "pgledger": lambda bench: bench.pgledger_of(2),
    "bulk": lambda bench: bench.bulk_of(2),
    "atomic": lambda bench: bench.atomic_of(2),
    "holds": lambda bench: bench.holds_of(2),
    "single": lambda bench: bench.single_of(2),
    "tasks": lambda bench: bench.tasks(),
    "floor-1000": lambda bench: bench.reference_of(1_000),
    "pgledger-1000": lambda bench: bench.pgledger_of(1_000),
    "bulk-1000": lambda bench: bench.bulk_of(1_000),
    "single-1000": lambda bench: bench.single_of(1_000),
    "awaited": lambda bench: bench.awaited(),
    "reads": lambda bench: bench.reads(),
    "past": lambda bench: bench.past(),
}

LAST: Final = "past"
"""Millions of rows would be in the way of all else: measured at the end, and once."""


def _environment(stack: Stack) -> dict[str, str]:
    """What makes another process belong to the stack."""
    connection = stack.connection
    names = ("database_url", "redis_url", "kafka_servers")
    secret = json.loads((stack.state / "secrets.json").read_text())["secret_key"]
    return {**{f"DAYBOOK_{name.upper()}": connection[name] for name in names}, "DAYBOOK_SECRET_KEY": secret}


async def _run(stack: Stack, chosen: argparse.Namespace, console: Console) -> dict[str, list[dict[str, Any]]]:
    figures: dict[str, list[dict[str, Any]]] = defaultdict(list)
    sizes = Sizes.quick() if chosen.quick else Sizes()
    async with AsyncExitStack() as exits:
        database = exits.enter_context(reference(stack.connection["database_url"]))
        peer = None
        if chosen.pgledger is not None:
            peer = exits.enter_context(pgledger(stack.connection["database_url"], chosen.pgledger))
        daybook = await exits.enter_async_context(product.connected(stack, keys=chosen.keys))
        bench = Bench(daybook, database, peer, sizes)
        for number in range(chosen.rounds):
            for name in chosen.only or MEASUREMENTS:
                if name == LAST and number + 1 < chosen.rounds:
                    continue
                console.log(f"round {number + 1} of {chosen.rounds}: {name}")
                await daybook.quiet()
                for title, found in (await MEASUREMENTS[name](bench)).items():
                    figures[title].append(found)
    return figures


@contextmanager
def _stack(console: Console) -> Iterator[Stack]:
    with temporary_state() as state:
        console.log("starting a stack of its own")
        with running_stack(state) as stack:
            yield stack


def main() -> int:
    """Runs the benchmark; 0 when every target that was measured is reached."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured, in turns")
    parser.add_argument("--quick", action="store_true", help="less of everything: to see that it runs, not to compare")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, help="these measurements alone")
    parser.add_argument(
        "--pgledger", type=Path, metavar="CHECKOUT", help="measure pgledger, too: the targets' reference"
    )
    parser.add_argument("--keys", action="store_true", help="send every transfer with an idempotency key")
    chosen = parser.parse_args()
    facts = {**machine.facts(), "rounds": chosen.rounds, "quick": chosen.quick, "idempotency_keys": chosen.keys}
    console = Console()
    os.environ.pop("DAYBOOK_ADMIN_PASSWORD", None)
    with _stack(console) as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_run(stack, chosen, console))
    report.show(figures, console)
    for path in report.save(FOLDER, figures, facts):
        console.print(f"saved {path.relative_to(FOLDER.parent)}")
    return 0 if report.all_met(figures) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Real transactions of a bank, imported through the running service, against the balances the bank itself recorded."""

from __future__ import annotations

import csv
import gzip
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.stack import Stack

BANK: Final = Path(__file__).resolve().parents[1] / "data" / "bank-transactions.csv.gz"
ROWS: Final = 23_976
LEDGER: Final = "bank"
TOPIC: Final = "daybook.ledger.events"
EVENTS_S: Final = 60.0

MAPPING: Final = """
debit = "operations:{operation or purpose|slug}"
credit = "bank:{account_id}"
amount = "{amount}"
reference = "{transaction_id}"
description = "{purpose}"
effective_at = "{date}T00:00:00Z"
currency = "CZK"

[swap_when]
direction = "debit"

[[open]]
prefix = "bank:"
type = "liability"

[[open]]
prefix = "operations:"
type = "asset"
"""

Row = dict[str, str]
Line = dict[str, Any]


def daybook(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the `daybook` command beside the running product."""
    connection = stack.connection
    names = ("database_url", "redis_url", "kafka_servers")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    environment |= {f"DAYBOOK_{name.upper()}": connection[name] for name in names}
    environment["DAYBOOK_SECRET_KEY"] = secrets.token_urlsafe(48)
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
        timeout=300,
    )


def import_bank(stack: Stack, bank: Path, mapping: Path) -> str:
    """Imports the file; what was printed, with single spaces. Fails unless every row is posted."""
    connection = str(stack.state / "connection.json")
    options = ("--ledger", LEDGER, "--create-ledger", "--mapping", str(mapping), "--connection", connection)
    done = daybook(stack, "import", str(bank), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank's transactions: see tests/data/README.md."""
    path = tmp_path_factory.mktemp("bank") / "transactions.csv"
    path.write_bytes(gzip.decompress(BANK.read_bytes()))
    return path


@pytest.fixture(scope="module")
def rows(bank: Path) -> list[Row]:
    with bank.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == ROWS
    return found


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "mapping.toml"
    path.write_text(MAPPING)
    return path


@pytest.fixture(scope="module")
def summary(stack: Stack, bank: Path, rows: list[Row], mapping: Path) -> str:
    """What the import said, which everything else here looks at the outcome of."""
    return import_bank(stack, bank, mapping)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    connection = stack.connection
    login = {name: connection[name] for name in ("username", "password")}
    with httpx.Client(base_url=f"{connection['api']}", timeout=30) as http:
        token = http.post("/auth/login", json=login).raise_for_status().json()["access_token"]
        http.headers["authorization"] = f"Bearer {token}"
        yield http


@pytest.fixture(scope="module")
def journal(client: httpx.Client, summary: str) -> list[Line]:
    """All lines of the journal."""
    lines: list[Line] = []
    while True:
        query = {"after": str(len(lines)), "limit": "1000"}
        page = client.get(f"/v1/ledgers/{LEDGER}/journal", params=query).raise_for_status().content.splitlines()
        lines.extend(msgspec.json.decode(line) for line in page)
        if not page:
            return lines


def test_every_row_is_posted_and_every_account_opened(summary: str, rows: list[Row]) -> None:
    banks = {row["account_id"] for row in rows}
    operations = {row["operation"] or row["purpose"] for row in rows}
    opened = len(banks) + len(operations)
    assert summary == f"posted now {ROWS:,} posted earlier 0 accounts opened {opened} refused 0"


def test_the_journal_is_dense_and_chained(journal: list[Line], summary: str) -> None:
    assert [line["seq"] for line in journal] == list(range(1, len(journal) + 1))
    previous = bytes(32)
    for line in journal:
        assert line["previous_hash"] == previous.hex()
        previous = sha256(previous + line["event"].encode()).digest()
        assert line["hash"] == previous.hex()


def test_every_balance_of_the_bank_is_found_again_in_the_journal(journal: list[Line], rows: list[Row]) -> None:
    events = [msgspec.json.decode(line["event"]) for line in journal]
    posted = [event for event in events if event["type"] == "TransactionPosted"]
    assert [event["data"]["reference"] for event in posted] == [row["transaction_id"] for row in rows]
    wrong = [
        (row, found)
        for row, event in zip(rows, posted, strict=True)
        if (found := _balances(event)[f"bank:{row['account_id']}"]) != row["balance_after"]
    ]
    assert not wrong, f"{len(wrong)} differ, the first: {wrong[0]}"


def test_final_balances_in_the_accounts_list_are_the_banks(client: httpx.Client, rows: list[Row], summary: str) -> None:
    expected = {f"bank:{row['account_id']}": row["balance_after"] for row in rows}
    listed: dict[str, str] = {}
    query = {"prefix": "bank:", "limit": "100"}
    while True:
        page = client.get(f"/v1/ledgers/{LEDGER}/accounts", params=query).raise_for_status().json()
        listed |= {account["name"]: account["balance"] for account in page["items"]}
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert listed == expected
    assert list(listed) == sorted(listed)


def test_the_trial_balance_is_at_zero(client: httpx.Client, summary: str) -> None:
    (item,) = client.get(f"/v1/ledgers/{LEDGER}/trial-balance").raise_for_status().json()["items"]
    assert item["currency"] == "CZK" and item["debits"] == item["credits"] != "0.00" and item["difference"] == "0.00"


def test_every_event_is_in_kafka_in_order_with_the_journals_bytes(stack: Stack, journal: list[Line]) -> None:
    values = _consume(stack, f"ledger:{LEDGER}", len(journal))
    first: dict[int, bytes] = {}
    for value in values:
        seq = msgspec.json.decode(value)["seq"]
        # a repetition has the same bytes; what is new is the next seq
        assert first.setdefault(seq, value) == value
        assert seq <= len(first)
    assert [first[seq].decode() for seq in sorted(first)] == [line["event"] for line in journal]


def test_verify_is_content(stack: Stack, summary: str) -> None:
    done = daybook(stack, "verify", "--ledger", LEDGER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_second_run_posts_nothing_twice_and_says_so(
    stack: Stack, client: httpx.Client, journal: list[Line], bank: Path, mapping: Path
) -> None:
    assert import_bank(stack, bank, mapping) == f"posted now 0 posted earlier {ROWS:,} accounts opened 0 refused 0"
    assert client.get(f"/v1/ledgers/{LEDGER}").raise_for_status().json()["seq"] == len(journal)


def _balances(event: dict[str, Any]) -> dict[str, str]:
    return {item["account"]: item["balance"] for item in event["balances"]}


def _consume(stack: Stack, key: str, count: int) -> list[bytes]:
    """The values of one actor, in their partition's order, until there are `count` different ones."""
    consumer = Consumer(
        {
            "bootstrap.servers": stack.connection["kafka_servers"],
            "group.id": "bank-import-test",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    values: list[bytes] = []
    seen: set[bytes] = set()
    deadline = time.monotonic() + EVENTS_S
    try:
        partitions = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in partitions])
        while len(seen) < count:
            assert time.monotonic() < deadline, f"{len(seen)} of {count} events in Kafka after {EVENTS_S} s"
            for message in consumer.consume(1_000, timeout=0.5):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                value = message.value()
                if (message.key() or b"").decode() == key and value is not None:
                    values.append(value)
                    seen.add(sha256(value).digest())
    finally:
        consumer.close()
    return values

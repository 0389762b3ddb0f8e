"""Readers against writers over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.e2e.client import Client, open_books, posting

WRITERS: Final = 4
READERS: Final = 4
WRITES_EACH: Final = 25


class Acknowledged:
    """The newest version that anybody has been told of."""

    def __init__(self) -> None:
        self.seq = 0
        self._lock = threading.Lock()

    def note(self, seq: int) -> None:
        with self._lock:
            self.seq = max(self.seq, seq)


def race(client: Client, *, by_version: bool) -> None:
    """Writers post 1.00 into one wallet and note each answer's version; readers look at all that shows it meanwhile.

    No reader may see less than had been noted when it asked, nor a balance that does not belong to its version.
    """
    ledger = open_books(client)
    base = f"/v1/ledgers/{ledger}"
    opened = client.read(base)["seq"]
    acknowledged = Acknowledged()
    acknowledged.note(opened)
    looks = 0

    def write(_: int) -> None:
        with client.again() as writer:
            for _ in range(WRITES_EACH):
                acknowledged.note(writer.done(f"{base}/transactions", posting())["version"])

    def look(reader: Client, path: str) -> tuple[int, dict[str, object]]:
        nonlocal looks
        floor = acknowledged.seq
        answer = reader.get(f"{base}/{path}" + (f"?min_version={floor}" if by_version else ""))
        assert answer.status_code == 200, answer.text
        version = int(answer.headers["etag"].strip('"').partition(".")[2])
        assert version >= floor, f"{path}: {version} seen after {floor} was acknowledged"
        looks += 1
        return version, answer.json()

    def read(until: Callable[[], bool]) -> None:
        newest = 0
        with client.again() as reader:
            while not until():
                version, account = look(reader, "accounts/wallets:alice")
                assert version >= newest and version == account["version"]
                newest = version
                assert account["balance"] == f"{version - opened}.00"
                version, page = look(reader, "transactions")
                assert _count(page) == min(100, version - opened)
                version, page = look(reader, "balances")
                assert {item["balance"] for item in _items(page)} == {f"{version - opened}.00"}
                look(reader, "accounts")

    with ThreadPoolExecutor(WRITERS + READERS) as threads:
        writing = [threads.submit(write, number) for number in range(WRITERS)]
        reading = [threads.submit(read, lambda: all(one.done() for one in writing)) for _ in range(READERS)]
        for one in (*writing, *reading):
            one.result()
    assert client.read(f"{base}/accounts/wallets:alice")["balance"] == f"{WRITERS * WRITES_EACH}.00"
    assert looks > WRITES_EACH


def _items(page: dict[str, object]) -> list[dict[str, object]]:
    items = page["items"]
    assert isinstance(items, list)
    return items


def _count(page: dict[str, object]) -> int:
    return len(_items(page))

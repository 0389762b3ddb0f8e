"""Every limit of what may be sent, at its edge and one past it: one table, over HTTP, against a real database.

A row that is refused names its status, its code and where it points, and leaves the daybook as it was: no command, no
key, no batch, no reservation, nothing in Redis but counters. A row that is taken makes one command, as it was sent.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import uvloop
from uuid_utils.compat import uuid7

from api import decoding
from api.decoding import BODY_LIMIT, BULK_LIMIT
from infrastructure.settings import Settings
from tests.edge.test_pipeline import Site, a_site
from tests.service import ADD_SESSION, ADD_USER
from tests.stack import wait_for

LEDGER: Final = "books"
BASE: Final = f"/v1/ledgers/{LEDGER}"
STATE: Final = """
SELECT (SELECT count(*) FROM commands), (SELECT count(*) FROM idempotency_keys), (SELECT count(*) FROM batches),
    (SELECT count(*) FROM ledger_reservations), (SELECT count(*) FROM journal), (SELECT count(*) FROM sessions),
    (SELECT count(*) FROM users), (SELECT count(*) FROM api_keys)
"""


@dataclass
class Door:
    """The service on a port, its event loop in a thread, and somebody who owns the ledger `books`."""

    site: Site
    loop: asyncio.AbstractEventLoop
    token: str
    keys: int = 0
    connection: http.client.HTTPConnection | None = None
    known: tuple[int, ...] = ()

    def state(self) -> tuple[int, ...]:
        return tuple(self.fetch(STATE))

    def fetch(self, sql: str, *arguments: object) -> Any:
        pool = self.site.app.state["services"].pool

        async def read() -> Any:
            return await pool.fetchrow(sql, *arguments)

        return asyncio.run_coroutine_threadsafe(read(), self.loop).result(30)

    def send(self, row: Row) -> tuple[int, dict[str, str], bytes]:
        self.keys += 1
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": f"key-{self.keys}"}
        if row.body is not None:
            headers["Content-Type"] = "application/json"
        given = {name: value for name, value in {**headers, **row.headers}.items() if value is not None}
        body = row.content()
        chunked = not isinstance(body, bytes | None)
        if chunked:
            given["Transfer-Encoding"] = "chunked"
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=60)
        # closed after each answer that says so, and then opened again
        self.connection.request(row.method, row.path, body, given, encode_chunked=chunked)
        answer = self.connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@dataclass(frozen=True)
class Row:
    """A request and its answer. A header that is None is left out; a body that can be called is sent in chunks."""

    name: str
    status: int
    code: str = ""
    pointers: tuple[str, ...] = ()
    body: Any = None
    path: str = f"{BASE}/transactions"
    method: str = "POST"
    headers: Mapping[str, str | None] = field(default_factory=dict)

    def content(self) -> Any:
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return self.body() if callable(self.body) else json.dumps(self.body).encode()


@pytest.fixture(scope="module")
def door(shared_settings: Settings) -> Iterator[Door]:
    ready, done = threading.Event(), threading.Event()
    opened: list[Door] = []

    async def serve() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            async with a_site(shared_settings, monkeypatch) as site:
                services = site.app.state["services"]
                user, session = uuid7(), uuid7()
                await services.pool.execute(ADD_USER, user, "ada", ["user"])
                await services.pool.execute(ADD_SESSION, session, user)
                token = services.tokens.issue(user, session, 3_600)
                opened.append(Door(site, asyncio.get_running_loop(), token))
                ready.set()
                await asyncio.to_thread(done.wait)

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not ready.wait(1):
            assert thread.is_alive()
        status, _, body = opened[0].send(
            Row("", 202, body={"id": LEDGER, "name": "Books"}, path="/v1/ledgers", headers={"Idempotency-Key": "first"})
        )
        assert status == 202, body
        yield opened[0]
        opened[0].connection.close()
    finally:
        done.set()
        thread.join()


def posting(amount: Any = "1", debit: Any = "a", credit: Any = "b") -> dict[str, Any]:
    return {"debit": debit, "credit": credit, "amount": amount}


def post(**members: Any) -> dict[str, Any]:
    return {"postings": [posting()], **members}


def expecting(**members: Any) -> dict[str, Any]:
    return {"preconditions": [{"account": "a", **members}]}


def account(**members: Any) -> dict[str, Any]:
    return {"name": "a", "currency": "USD", "type": "asset", **members}


def invalid(name: str, pointer: str, body: Any, path: str = f"{BASE}/transactions", **headers: str) -> Row:
    return Row(name, 422, "validation_failed", (pointer,), body, path, headers=headers)


def malformed(name: str, body: Any, *pointers: str, path: str = f"{BASE}/transactions", **headers: str) -> Row:
    return Row(name, 400, "malformed_request", pointers, body, path, headers=headers)


def refused_query(name: str, pointer: str, path: str) -> Row:
    return Row(name, 422, "validation_failed", (pointer,), path=path, method="GET")


ACCOUNTS: Final = f"{BASE}/accounts"
ID: Final = "019a0b6c-7d2e-7c31-9f44-5b0e8a1d2c3f"
TRANSACTION: Final = f"{BASE}/transactions/{ID}"
CURRENCIES: Final = f"{BASE}/currencies"
COMMANDS: Final = f"{BASE}/commands"
LINES: Final = {"Content-Type": "application/x-ndjson"}


def nested(depth: int) -> bytes:
    """A transaction so many levels deep, the deepest where nothing is expected."""
    inner = "[" * (depth - 2) + "]" * (depth - 2)
    return f'{{"postings":[{json.dumps(posting())}],"metadata":{{"k":{inner}}}}}'.encode()


def padded(body: Any, size: int) -> bytes:
    """JSON of exactly so many bytes."""
    return json.dumps(body).encode().ljust(size)


def in_chunks(raw: bytes) -> Callable[[], Iterator[bytes]]:
    """The same without saying beforehand how long it is."""
    return lambda: (raw[start : start + 65_536] for start in range(0, len(raw), 65_536))


AMOUNTS: Final = [
    *("0", "0.00", "-1", "-0", "+1", "01", "00", "1.", ".5", "1..0", "1.0.0", "1e5", "1E5", "0x1", "1_000", "1,000"),
    *(" 1", "1 ", "1\n", "\t1", "", "NaN", "nan", "Infinity", "-Infinity", "inf", "１２", "٣", "१", "1²", "½", "Ⅷ"),
    *("1" + "0" * 38, "9" * 39, "0." + "0" * 18 + "1", "1." + "1" * 19, "0.000000000000000000", "1" * 10_000),
    *(1, 1.5, 0, -1, True, [], {}, ["1"], 10**30, 10**400),
]

TIMES: Final = [
    *("2026-01-01T00:00:00+0200", "2026-01-01T00:00:00+02", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00 Z"),
    *("2026-01-01T00:00:00", "2026-01-01T00:00Z", "2026-01-01", "20260101T000000Z", "2026-001T00:00:00Z"),
    *("2026-01-01T00:00:60Z", "2016-12-31T23:59:60Z", "2026-01-01T24:00:00Z", "2026-02-29T00:00:00Z"),
    *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-2026-01-01T00:00:00Z", "2026-1-1T00:00:00Z"),
    *("2026-01-01T00:00:00.Z", "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+02:60"),
    *("２０２６-01-01T00:00:00Z", "2026-01-01T00:00:00Z ", " 2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n"),
    *("2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "now", "", 1_767_225_600, 1.5, True, [], {}),
]

# what a line may not hold, by what it would do there
UNSEEN: Final = {
    "line feed": "\n",
    "carriage return": "\r",
    "tab": "\t",
    "escape": "\x1b",
    "delete": "\x7f",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "soft hyphen": "\xad",
    "joiner": "\u200d",
    "zero-width space": "\u200b",
    "non-joiner": "\u200c",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "right-to-left mark": "\u200f",
    "right-to-left override": "\u202e",
    "embedding": "\u202a",
    "isolate": "\u2066",
    "pop": "\u202c",
    "pop isolate": "\u2069",
    "arabic mark": "\u061c",
    "hangul filler": "\u3164",
    "annotation": "\ufff9",
    "grapheme joiner": "\u034f",
    "mongolian separator": "\u180e",
    "tag": "\U000e0041",
}

NAMES: Final = [
    *(
        "",
        ".",
        "..",
        "a:..",
        "..:a",
        "a::b",
        ":a",
        "a:",
        "A",
        "a b",
        "a/b",
        "a\\b",
        "a*",
        "a?",
        "a%",
        "a'",
        'a"',
        "a;--",
    ),
    *("a\n", "a\0", "а", "wаllets", "ａ", "é", "e\u0301", "ı", "ß", "\u200ba", "\u202ea", "😀", "a" * 65),
    *(":".join("a" * 9), 1, True, [], {}),
]

LEDGERS: Final = [
    *("", "-a", "A", "a_b", "a.b", "a:b", "a/b", "..", "a b", "a\n", "bооks", "ａ", "a" * 64, "a*", "a'--", 1, [], {}),
]

CODES: Final = ["", "US", "usd", "U$D", "USDUSDUSDUSDUSDUS", "1USD", "ＵＳＤ", "UЅD", "USD\n", " USD", 1, [], {}]

REFUSED: Final = [
    # -- values
    *(invalid(f"amount {each!r:.40}", "#/postings/0/amount", post(postings=[posting(each)])) for each in AMOUNTS[:-1]),
    invalid("amount of 400 digits", "#/postings/0/amount", post(postings=[posting(10**400)])),
    invalid("a number of 5,000 digits", "#", b'{"postings":' + b"9" * 5_000 + b"}"),
    *(invalid(f"time {each!r:.40}", "#/effective_at", post(effective_at=each)) for each in TIMES),
    *(invalid(f"debit {each!r:.40}", "#/postings/0/debit", post(postings=[posting(debit=each)])) for each in NAMES),
    *(invalid(f"account {each!r:.40}", "#/name", account(name=each), ACCOUNTS) for each in NAMES),
    *(invalid(f"ledger {each!r:.40}", "#/id", {"id": each, "name": "Books"}, "/v1/ledgers") for each in LEDGERS),
    *(invalid(f"currency {each!r:.40}", "#/code", {"code": each, "scale": 2}, CURRENCIES) for each in CODES),
    *(
        invalid(f"scale {each!r}", "#/scale", {"code": "GOLD", "scale": each}, CURRENCIES)
        for each in (-1, 19, "2", 2.5)
    ),
    *(
        invalid(f"{limit} {each!r:.30}", f"#/{limit}", account(**{limit: each}), ACCOUNTS)
        for limit, refused in {
            "min_balance": ("1", "-0", "-0.0", "+0", "--1", "-01", "-1e3", "-" + "9" * 39, 0, "-1." + "1" * 19),
            "max_balance": ("-1", "-0", "+1", "01", "1e3", "9" * 39, 0, "1." + "1" * 19),
        }.items()
        for each in refused
    ),
    invalid("the same account twice", "#/postings/0", post(postings=[posting(credit="a")])),
    invalid("no type", "#/type", account(type="cash"), ACCOUNTS),
    # -- text
    *(invalid(f"reference: {name}", "#/reference", post(reference=f"a{each}b")) for name, each in UNSEEN.items()),
    *(
        invalid(f"metadata's key: {name}", f"#/metadata/a{each}b", post(metadata={f"a{each}b": "c"}))
        for name, each in UNSEEN.items()
    ),
    *(
        invalid(f"ledger's name: {name}", "#/name", {"id": "other", "name": f"a{each}b"}, "/v1/ledgers")
        for name, each in UNSEEN.items()
    ),
    *(
        invalid(f"{name} with NUL", f"#/{name}", post(**{name: "a\0b"}))
        for name in ("reference", "description", "effective_at")
    ),
    invalid("a value of metadata with NUL", "#/metadata/k", post(metadata={"k": "a\0b"})),
    Row(
        *("a key of metadata with NUL", 422, "validation_failed", ("#/metadata", "#/metadata/a\0b")),
        post(metadata={"a\0b": "v"}),
    ),
    *(
        invalid(f"{name} with half a character", f"#/{name}", post(**{name: "a\ud800b"}))
        for name in ("reference", "description")
    ),
    malformed("half a character in UTF-8", b'{"description":"\xed\xa0\x80"}'),
    # -- lengths and numbers
    invalid("reference of 256", "#/reference", post(reference="r" * 256)),
    invalid("no reference to speak of", "#/reference", post(reference="")),
    invalid("description of 1,001", "#/description", post(description="d" * 1_001)),
    invalid("metadata of 51", "#/metadata", post(metadata={f"k{number}": "v" for number in range(51)})),
    invalid("metadata's key of 41", f"#/metadata/{'k' * 41}", post(metadata={"k" * 41: "v"})),
    invalid("metadata's key of none", "#/metadata/", post(metadata={"": "v"})),
    invalid("metadata's value of 501", "#/metadata/k", post(metadata={"k": "v" * 501})),
    *(invalid(f"metadata's value {each!r}", "#/metadata/k", post(metadata={"k": each})) for each in (1, True, [], {})),
    invalid("ledger's name of 201", "#/name", {"id": "other", "name": "n" * 201}, "/v1/ledgers"),
    invalid("no postings", "#/postings", post(postings=[])),
    invalid("1,001 postings", "#/postings", post(postings=[posting()] * 1_001)),
    invalid("10,000 postings", "#/postings", post(postings=[posting()] * 10_000)),
    invalid("no commands", "#/commands", {"commands": []}, COMMANDS),
    invalid("10,001 commands", "#/commands", {"commands": [{"kind": "open_account", **account()}] * 10_001}, COMMANDS),
    *(invalid(f"key {each[:9]}", "Idempotency-Key", post(), **{"Idempotency-Key": each}) for each in ("", "k" * 256)),
    # -- members
    *(malformed(f"member {each}", post(**{each: 1}), f"#/{each}") for each in ("owner_id", "seq", "id", "status", "x")),
    malformed("member of a posting", post(postings=[{**posting(), "currency": "USD"}]), "#/postings/0/currency"),
    malformed("member of an account", account(balance="1"), "#/balance", path=ACCOUNTS),
    malformed("member of a ledger", {"id": "other", "name": "n", "owner": "x"}, "#/owner", path="/v1/ledgers"),
    malformed("member twice", b'{"postings":[],"postings":[]}'),
    malformed("member twice, spelled in two ways", b'{"reference":"a","\\u0072eference":"b"}'),
    malformed("member twice, far in", b'{"postings":[{"debit":"a","credit":"b","amount":"1","amount":"2"}]}'),
    malformed("member twice, one null", b'{"reference":null,"reference":"a"}'),
    invalid("no member at all", "#/postings", {}),
    invalid("no body", "#/postings", b""),
    *(invalid(f"{each!r} for an object", "#", json.dumps(each).encode()) for each in ([], "a", 1, True, None)),
    # -- holds, and what becomes of transactions and accounts
    *(
        invalid(name, pointer, post(**members))
        for name, pointer, members in (
            ("an end of what is not held", "#/expires_at", {"expires_at": "2999-01-01T00:00:00Z"}),
            ("an end in the past", "#/expires_at", {"pending": True, "expires_at": "2026-01-01T00:00:00Z"}),
            ("an end that is none", "#/expires_at", {"pending": True, "expires_at": "soon"}),
            ("pending in words", "#/pending", {"pending": "yes"}),
            ("all, at most nothing", "#/postings/0/up_to", {"postings": [{**posting("available"), "up_to": "0"}]}),
            ("an amount with a most", "#/postings/0", {"postings": [{**posting("1"), "up_to": "1"}]}),
            ("AVAILABLE", "#/postings/0/amount", {"postings": [posting("AVAILABLE")]}),
            ("nothing expected", "#/preconditions/0", {"preconditions": [{"account": "a"}]}),
            ("no bound", "#/preconditions/0/balance", {"preconditions": [{"account": "a", "balance": {}}]}),
            ("less than none", "#/preconditions/0/balance/eq", expecting(balance={"eq": "-0.00"})),
            ("a number", "#/preconditions/0/available/gte", expecting(available={"gte": 1})),
            ("no version", "#/preconditions/0/version", expecting(version=0)),
            ("101 of them", "#/preconditions", {"preconditions": expecting(version=1)["preconditions"] * 101}),
        )
    ),
    malformed("an unknown bound", post(**expecting(balance={"lt": "1"})), "#/preconditions/0/balance/lt"),
    *(
        invalid(f"capture of {body}", pointer, body, f"{TRANSACTION}/capture")
        for pointer, body in (
            ("#/amount", {"amount": "0"}),
            ("#/amount", {"amount": "available"}),
            ("#/amounts", {"amounts": []}),
            ("#/amounts", {"amounts": ["0", "0.00"]}),
            ("#/amounts", {"amount": "1", "amounts": ["1"]}),
            ("#/amounts/1", {"amounts": ["1", "-1"]}),
            ("#/final", {"final": "no"}),
            ("#/effective_at", {"effective_at": "2999-01-01T00:00:00Z"}),
        )
    ),
    malformed("a transaction in the body, too", {"transaction": ID}, "#/transaction", path=f"{TRANSACTION}/void"),
    malformed("an account in the body, too", {"account": "a"}, "#/account", path=f"{ACCOUNTS}/a/freeze"),
    malformed("a reversal's postings", post(), "#/postings", path=f"{TRANSACTION}/reverse"),
    invalid("a reversal to come", "#/effective_at", {"effective_at": "2999-01-01T00:00:00Z"}, f"{TRANSACTION}/reverse"),
    invalid("a reversal's long reference", "#/reference", {"reference": "x" * 256}, f"{TRANSACTION}/reverse"),
    invalid("no end of a period", "#/before", {}, f"{BASE}/periods"),
    invalid("an end of a period without a time", "#/before", {"before": "2026-01-01"}, f"{BASE}/periods"),
    invalid("a period before all years", "#/before", {"before": "0001-01-01T00:00:00Z"}, f"{BASE}/periods"),
    *(
        Row(f"{name} of {path}", 422, "validation_failed", (pointer,), body, path, "PATCH")
        for path in (f"{ACCOUNTS}/a", TRANSACTION)
        for name, pointer, body in (
            ("no metadata", "#/metadata", {}),
            ("null as metadata", "#/metadata", {"metadata": None}),
            ("a number as metadata", "#/metadata/k", {"metadata": {"k": 1}}),
            ("51 new keys", "#/metadata", {"metadata": dict.fromkeys(map(str, range(51)), "v")}),
        )
    ),
    # -- syntax
    malformed("33 levels", nested(33)),
    malformed("5,000 levels", nested(5_000)),
    malformed("100,000 levels that never end", b"[" * 100_000),
    invalid("32 levels", "#/metadata/k", nested(32)),
    *(
        malformed(f"syntax: {name}", raw)
        for name, raw in {
            "cut short": b'{"postings":',
            "something behind": b"{} x",
            "two documents": b"{}{}",
            "byte order mark": b"\xef\xbb\xbf{}",
            "UTF-16": '{"a":1}'.encode("utf-16"),
            "latin-1": '{"a":"ü"}'.encode("latin-1"),
            "overlong UTF-8": b'{"a":"\xc0\x80"}',
            "NaN": b'{"a":NaN}',
            "Infinity": b'{"a":-Infinity}',
            "single quotes": b"{'a':1}",
            "a comma too many": b'{"a":1,}',
            "a comment": b"{}//",
            "a raw control character": b'{"a":"\x1f"}',
            "a raw NUL": b'{"a":"\0"}',
            "NUL behind": b"{}\0",
            "an unknown escape": b'{"a":"\\x41"}',
            "a leading zero": b'{"a":01}',
            "a plus": b'{"a":+1}',
            "nothing but space": b"  ",
        }.items()
    ),
    malformed("a line that is cut short", b'{"kind":', "#/commands/0", path=COMMANDS, **LINES),
    # -- sizes
    Row("1 MiB and a byte", 413, "payload_too_large", (), padded(post(), BODY_LIMIT + 1)),
    Row("1 MiB and a byte, in chunks", 413, "payload_too_large", (), in_chunks(padded(post(), BODY_LIMIT + 1))),
    Row("16 MiB and a byte", 413, "payload_too_large", (), padded({}, BULK_LIMIT + 1), COMMANDS),
    Row("16 MiB and a byte, in chunks", 413, "payload_too_large", (), in_chunks(padded({}, BULK_LIMIT + 1)), COMMANDS),
    Row(
        "too large and of no type",
        413,
        "payload_too_large",
        (),
        b" " * (BODY_LIMIT + 1),
        headers={"Content-Type": None},
    ),
    # -- types and codings
    *(
        Row(f"type {each}", 415, "unsupported_media_type", (), post(), headers={"Content-Type": each})
        for each in (
            *(
                None,
                "",
                "text/plain",
                "text/json",
                "application/xml",
                "application/x-www-form-urlencoded",
                "*/*",
                "json",
            ),
            *("application/json, text/plain", "application/json; charset=utf-16", "application/json; charset=latin-1"),
            *("application/jsonx", "application/ json", "application/x-ndjson", "application/problem+json"),
            "multipart/form-data; boundary=x",
        )
    ),
    *(
        Row(f"coding {each}", 415, "unsupported_media_type", (), post(), headers={"Content-Encoding": each})
        for each in ("gzip", "deflate", "br", "zstd", "identity", "x", "", "gzip, gzip")
    ),
    Row("coding of nothing", 415, "unsupported_media_type", (), b"", headers={"Content-Encoding": "gzip"}),
    # -- queries
    invalid("a parameter nobody knows", "#/x", post(), f"{BASE}/transactions?x=1"),
    invalid("a word for true", "#/validate_only", post(), f"{BASE}/transactions?validate_only=yes"),
    *(
        refused_query(f"limit={each}", "#/limit", f"/v1/jobs?limit={each}")
        for each in ("0", "-1", "1001", "abc", "%EF%BC%91%EF%BC%90", "1e2", "1.0", "+5", "%205", "0x5", "", "9" * 5_000)
    ),
    *(
        refused_query(f"{each} of accounts", f"#/{each.partition('=')[0]}", f"{ACCOUNTS}?{each}")
        for each in (
            *("limit=0", "limit=1001", "limit=1&limit=2", "min_version=-1", "min_version=9" + "9" * 30, "x=1"),
            *("currency=usd", "prefix=%00", "prefix=" + "a" * 520, "LIMIT=5", "effective_at=2026-01-01T00:00:00"),
            *("recorded_at=now", "recorded_at=", "seq=-1", "seq=x", "seq=9" + "9" * 30, "seq=1&seq=1"),
        )
    ),
    *(
        refused_query(f"{name}={each}", f"#/{name}", f"{BASE}/transactions?{name}={each}")
        for name in ("from", "to")
        for each in (
            "2026-01-01T00:00:00%2B0200",
            "2026-01-01%2000:00:00Z",
            "2026-01-01",
            "x",
            "2026-01-01T00:00:00+02:00",
        )
    ),
    refused_query("a reference with NUL", "#/reference", f"{BASE}/transactions?reference=%00"),
    refused_query("a status nobody has", "#/status", f"{BASE}/transactions?status=lost"),
    *(
        Row(f"cursor {each}", 400, "malformed_request", ("#/cursor",), path=f"{path}?cursor={each}", method="GET")
        for path in ("/v1/jobs", "/v1/ledgers", ACCOUNTS)
        for each in ("x", "", "AAAA", "..", "%27--", "A" * 3_000, "eyJhIjoxfQ", "%C3%A9")
    ),
    *(
        Row(f"no UTF-8 in a query: {each}", 400, "malformed_request", path=f"{path}?{each}", method="GET")
        for path in ("/v1/jobs", ACCOUNTS)
        for each in ("limit=%ff", "%c3%28=1")
    ),
    # -- paths
    *(
        Row(f"path {path[:40]}", 404, "not_found", path=path, method="GET")
        for path in (
            *(
                "/v1/ledgers/..",
                "/v1/ledgers/../ledgers",
                "/v1/ledgers/%2e%2e",
                "/v1/ledgers/%2E%2E/jobs",
                "/v1/./jobs",
            ),
            *("/v1/ledgers/a%00b", "/v1/jobs/%00", "/v1/ledgers/a%2Fb", "/v1/ledgers/a%5Cb", "/v1/ledgers/%0d%0aX:y"),
            *(
                "/v1/ledgers/%C3%A9",
                "/v1/ledgers/%ff",
                "/v1/ledgers/%zz",
                "/v1/ledgers/b%D0%BE%D0%BEks",
                "/v1/ledgers/*",
            ),
            *("/v1/ledgers/'%20OR%20'1'='1", "/v1/ledgers/;--", "/v1/ledgers/a:b", "/v1/ledgers/" + "a" * 5_000),
            *(f"{ACCOUNTS}/..", f"{ACCOUNTS}/%2e%2e", f"{ACCOUNTS}/a%00", f"{ACCOUNTS}/*", f"{ACCOUNTS}/a%0d%0ab"),
            *(f"{ACCOUNTS}/{'a' * 5_000}", f"{BASE}/transactions/'--", f"{BASE}/transactions/%00", f"{BASE}/none"),
            *("/v1/jobs/00000000-0000-0000-0000-00000000000g", "/v1/jobs/{}", "/v1/jobs/*", "/v1/batches/%2a"),
            *(f"{TRANSACTION}/none", f"{ACCOUNTS}/a/none"),
            *("/problems/..", "/problems/%2e%2e%2f", "/problems/%00", "/docs/../v1", "/.%2e/etc/passwd", "/%00"),
        )
    ),
    *(
        Row(f"nothing that could be: {method} {path[:60]}", 404, "not_found", body={}, path=path, method=method)
        for method, path in (
            *(("POST", f"{BASE}/transactions/{each}/void") for each in ("0", "x", ID + "0", "0" * 32, "%00", "..")),
            *(("POST", f"{ACCOUNTS}/{each}/close") for each in ("A", "a::b", "%C3%A9", "a%00", "x" * 600)),
            *(("PATCH", f"{each}/A") for each in (ACCOUNTS, f"{BASE}/transactions")),
        )
    ),
    Row("a job's id in another writing", 404, "not_found", path="/v1/jobs/0" * 16, method="GET"),
    # -- who has no business here may not learn what is wrong with the request
    Row("no token, and junk", 401, "unauthorized", (), b"{", headers={"Authorization": None}),
    Row("a strange token, and junk", 401, "unauthorized", (), b"{", headers={"Authorization": "Bearer x"}),
    # -- logging in
    invalid("a user's name with NUL", "#/username", {"username": "a\0", "password": "x"}, "/auth/login"),
    invalid("a user's name without end", "#/username", {"username": "a" * 1_025, "password": "x"}, "/auth/login"),
    invalid("a password that is none", "#/password", {"username": "a", "password": 1}, "/auth/login"),
    malformed(
        "more than a name and a password", {"username": "a", "password": "b", "otp": "c"}, "#/otp", path="/auth/login"
    ),
    # -- API keys
    *(
        invalid(f"key's name: {name}", "#/name", {"name": f"a{each}b", "scopes": ["ledger:read"]}, "/v1/api-keys")
        for name, each in {"line feed": "\n", "override": "\u202e"}.items()
    ),
    *(
        invalid(
            f"key's end {each}",
            "#/expires_at",
            {"name": "a", "scopes": ["ledger:read"], "expires_at": each},
            "/v1/api-keys",
        )
        for each in ("2999-01-01T00:00:00+0200", "2999-01-01 00:00:00Z", "2999-01-01")
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_refused(door: Door, row: Row) -> None:
    before = door.known or door.state()
    status, headers, body = door.send(row)
    assert status == row.status, body[:500]
    problem = json.loads(body)
    assert problem["code"] == row.code, body[:500]
    assert tuple(fault["pointer"] for fault in problem["errors"] or ()) == row.pointers, body[:500]
    assert (headers["content-type"], problem["job"]) == ("application/problem+json", None)
    door.known = door.state()
    assert door.known == before


# -- what is taken ----------------------------------------------------------------------------------------------------

SEEN: Final = "Größe e\u0301 ñ 日本語 עברית العربية हिन्दी 😀 ❤\ufe0f \xa0'\";--*?[]{}$(rm)\\ %s <b> :*\\r\\n"

TAKEN: Final = [
    *(
        Row(f"amount {each[:40]}", 202, body=post(postings=[posting(each)]))
        for each in ("1", "0.1", "10.50", "9" * 38, "9" * 38 + "." + "9" * 18, "0." + "0" * 17 + "1")
    ),
    *(
        Row(f"time {each}", 202, body=post(effective_at=each))
        for each in (
            *("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.1Z", "2024-02-29T00:00:00Z"),
            *("2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00-12:00", "2026-01-01t00:00:00z", "0001-01-02T00:00:00Z"),
        )
    ),
    *(
        Row(f"account {each[:30]}", 202, body=account(name=each), path=ACCOUNTS)
        for each in ("a", "...", "-", "a.b_c-d:e", "a" * 64, ":".join(["a" * 64] * 8))
    ),
    Row("reference of 255", 202, body=post(reference="r" * 255)),
    Row("reference of 255 beyond ASCII", 202, body=post(reference="😀" * 255)),
    Row("what is seen", 202, body=post(reference=SEEN, description=SEEN, metadata={SEEN[:20]: SEEN})),
    Row("description of 1,000", 202, body=post(description="d" * 1_000)),
    Row("description of several lines", 202, body=post(description="a\r\n\tb\u200d\u202e\x1b")),
    Row("metadata of 50", 202, body=post(metadata={f"k{number}": "v" for number in range(50)})),
    Row("metadata's key of 40 and value of 500", 202, body=post(metadata={"k" * 40: "v" * 500})),
    Row("metadata's value of several lines", 202, body=post(metadata={"k": "a\nb"})),
    Row("1,000 postings", 202, body=post(postings=[posting()] * 1_000)),
    Row("nulls", 202, body=post(reference=None, metadata={"a": None}, whatever=None)),
    Row("1 MiB", 202, body=padded(post(), BODY_LIMIT)),
    Row("1 MiB in chunks", 202, body=in_chunks(padded(post(), BODY_LIMIT))),
    Row("16 MiB", 202, body=padded({"commands": [{"kind": "post_transaction", **post()}]}, BULK_LIMIT), path=COMMANDS),
    Row("key of 255", 202, body=post(), headers={"Idempotency-Key": "k" * 255}),
    Row(
        "key of what means something elsewhere",
        202,
        body=post(),
        headers={"Idempotency-Key": "'; DROP TABLE x;--*?:{}"},
    ),
    *(
        Row(f"type {each}", 202, body=post(), headers={"Content-Type": each})
        for each in (
            *(
                "application/json",
                "APPLICATION/JSON",
                "application/json;charset=utf-8",
                'application/json; charset="UTF-8"',
            ),
            "application/json; a=b; charset=utf-8",
        )
    ),
    Row(
        "one line", 202, body=json.dumps({"kind": "post_transaction", **post()}).encode(), path=COMMANDS, headers=LINES
    ),
    *(
        Row(f"traceparent {each[:20]}", 202, body=post(), headers={"traceparent": each})
        for each in ("junk", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "f" * 5_000)
    ),
    *(
        Row(f"correlation id {each[:20]}", 202, body=post(), headers={"X-Correlation-ID": each})
        for each in ('","level":"error', "a" * 10_000, "%0d%0aforged", "a b")
    ),
]


@pytest.mark.parametrize("row", TAKEN, ids=lambda row: row.name)
def test_taken(door: Door, row: Row) -> None:
    before = door.known or door.state()
    status, headers, body = door.send(row)
    assert status == row.status, body[:500]
    after = door.known = door.state()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    if "correlation id" in row.name:
        assert headers["x-correlation-id"].isalnum()
    if isinstance(row.body, dict):
        job = json.loads(body)["id"]
        stored = json.loads(
            door.fetch("SELECT convert_from(payload, 'UTF8') FROM commands WHERE id = $1::uuid", job)[0]
        )
        for name in row.body.keys() & {"reference", "description", "postings"}:
            assert stored.get(name) == row.body[name]


def test_many_bodies_at_once_fill_no_memory(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being received leaves no room for another, and makes some when it is given up."""
    monkeypatch.setattr(decoding, "MOST_HELD", 300_000)
    connection = http.client.HTTPConnection("127.0.0.1", door.site.port, timeout=60)
    connection.putrequest("POST", f"{BASE}/transactions")
    connection.putheader("Authorization", f"Bearer {door.token}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b" " * 250_000)
    wait_for(lambda: decoding._Intake.held == 250_000, seconds=30, what="the slow one is received")
    other = Row("", 0, body=padded(post(), 200_000))
    status, headers, body = door.send(other)
    assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "unavailable", "1")
    connection.close()
    wait_for(lambda: decoding._Intake.held == 0, seconds=30, what="the slow one is given up")
    assert door.send(other)[0] == 202

"""`daybook import` against a service of a few lines: what it sends, how it bears trouble, what it reports."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from cli.importing import run, service
from cli.importing.command import Columns, Login, import_file
from cli.importing.mapping import MappingError, OpenRule, Plan, RowError, Translator
from cli.importing.templates import Template, TemplateError

COLUMNS = ("id", "account", "kind", "amount")
ROWS = """id,account,kind,amount
1,alice,in,100.00
2,bob,in,50.00
3,alice,out,30.00
"""
MAPPING = Columns(
    debit="cash",
    credit="wallets:{account}",
    amount="{amount}",
    reference="{id}",
    swap_when=("kind=out",),
    open=("wallets:=liability,currency=USD,min=0", "cash=asset,currency=USD"),
)

Answer = tuple[int, dict[str, Any], dict[str, str]]


@dataclass
class Stub:
    """Accepts bulk requests, remembers keys, refuses what `refuse` says; `script` answers come first, in order."""

    refuse: Callable[[dict[str, Any]], str | None] = lambda _: None
    script: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[list[dict[str, Any]]] = field(default_factory=list)
    jobs: dict[str, UUID] = field(default_factory=dict)
    requested: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: dict[str, list[str]] = field(default_factory=dict)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    url: str = ""
    token: int = 0

    def answer(self, method: str, target: str, headers: dict[str, str], raw: bytes) -> Answer:
        path = urlsplit(target).path
        self.requests.append((method, target, headers))
        if path.startswith("/auth/"):
            return self._auth(path)
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"code": "unauthorized", "detail": "no", "errors": []}, {}
        if self.script:
            return self.script.pop(0)
        if path.endswith("/commands"):
            return self._accept([json.loads(line) for line in raw.splitlines()], headers["idempotency-key"])
        if path == "/v1/jobs":
            return 200, self._page(parse_qs(urlsplit(target).query)), {}
        return 200, self._batch(path.rpartition("/")[2]), {}

    def _auth(self, path: str) -> Answer:
        if path == "/auth/logout":
            return 204, {}, {}
        self.token += 1
        return 200, {"access_token": str(self.token), "refresh_token": f"r{self.token}"}, {}

    def _accept(self, commands: list[dict[str, Any]], key: str) -> Answer:
        self.bodies.append(commands)
        if key not in self.requested:
            batch = str(uuid7())
            jobs = [str(self._job(command)) for command in commands]
            self.batches[batch] = jobs
            self.requested[key] = {"batch": batch, "jobs": jobs}
        return 202, self.requested[key], {}

    def _job(self, command: dict[str, Any]) -> UUID:
        job = self.jobs.setdefault(command["idempotency_key"], uuid7())
        code = self.refuse(command)
        if code is not None:
            self.problems[str(job)] = {"code": code, "detail": f"{code}!"}
        return job

    def _batch(self, batch: str) -> dict[str, Any]:
        refused = [(index, job) for index, job in enumerate(self.batches[batch]) if job in self.problems]
        return {
            "done": True,
            "counts": {"rejected": len(refused), "failed": 0, "cancelled": 0},
            "refusals": [{"job": job, "index": i, "problem": self.problems[job]} for i, job in refused[:100]],
            "refusals_total": len(refused),
        }

    def _page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        assert query["ledger"] == ["acme"] and query["status"] == ["rejected"]
        before = query.get("cursor", ["g"])[0]
        older = sorted((job for job in self.problems if job < before), reverse=True)
        items = [{"id": job, "problem": self.problems[job]} for job in older[:50]]
        return {"items": items, "next": items[-1]["id"] if len(older) > 50 else None}

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [command for body in self.bodies for command in body if command["kind"] == kind]


@pytest.fixture
def stub() -> Iterator[Stub]:
    served = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, content, extra = served.answer(self.command, self.path, headers, raw)
            body = b"" if status == 204 else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, not made."""
    pauses: list[float] = []
    monkeypatch.setitem(service.Service.__init__.__kwdefaults__, "pause", pauses.append)
    return pauses


def import_(stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, columns: Columns = MAPPING, **options: Any) -> int:
    """The status that the import ends with."""
    monkeypatch.setenv("THE_PASSWORD", "secret")
    login = Login(url=stub.url, username="ada", password_env="THE_PASSWORD")
    with pytest.raises(SystemExit) as ended:
        import_file(file, ledger="acme", columns=columns, login=login, **options)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_rows_become_commands_in_order_with_each_account_opened_before_its_first_use(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_(stub, file, monkeypatch) == 0
    told = [
        (c["kind"], c.get("name") or (c["postings"][0]["debit"], c["postings"][0]["credit"])) for c in stub.bodies[0]
    ]
    assert told == [
        ("open_account", "cash"),
        ("open_account", "wallets:alice"),
        ("post_transaction", ("cash", "wallets:alice")),
        ("open_account", "wallets:bob"),
        ("post_transaction", ("cash", "wallets:bob")),
        ("post_transaction", ("wallets:alice", "cash")),
    ]
    assert stub.sent("open_account")[1] | {"idempotency_key": ""} == {
        "kind": "open_account",
        "name": "wallets:alice",
        "currency": "USD",
        "type": "liability",
        "min_balance": "0",
        "idempotency_key": "",
    }
    summary = " ".join(capsys.readouterr().out.split())
    assert summary == "posted now 3 posted earlier 0 accounts opened 3 refused 0"


def test_a_second_run_posts_nothing_twice_and_says_so(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_(stub, file, monkeypatch)
    with file.open("a") as more:
        more.write("4,carol,in,1.00\n")
    capsys.readouterr()
    assert import_(stub, file, monkeypatch) == 0
    summary = " ".join(capsys.readouterr().out.split())
    assert summary == "posted now 1 posted earlier 3 accounts opened 1 refused 0"
    assert len(stub.jobs) == 8


def test_rows_without_reference_are_told_apart_by_file_and_line() -> None:
    plan = Plan(debit="cash", credit="wallets:{account}", amount="{amount}")
    row = ("1", "alice", "in", "1.00")
    here, there = (Translator(plan, COLUMNS, source * 32, 1) for source in "ab")
    keys = [here.items(2, row)[0].key, here.items(3, row)[0].key, there.items(2, row)[0].key]
    assert len(set(keys)) == 3
    assert Translator(plan, COLUMNS, "a" * 32, 1).items(2, row)[0].key == keys[0]


def test_another_attempt_has_other_keys_but_only_where_references_guard_it() -> None:
    plan = Plan(debit="cash", credit="wallets:{account}", amount="{amount}", reference="{id}")
    row = ("1", "alice", "in", "1.00")
    first, second = (Translator(plan, COLUMNS, "", attempt).items(2, row)[0].key for attempt in (1, 2))
    assert first != second
    with pytest.raises(MappingError, match="--attempt needs --reference"):
        Translator(Plan(debit="a", credit="b", amount="1"), COLUMNS, "", 2)


def test_batches_are_sent_one_after_another_and_few_are_unfinished(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert import_(stub, file, monkeypatch, batch=2, in_flight=2) == 0
    assert [len(body) for body in stub.bodies] == [2, 2, 2]
    order = ["get" if "/batches/" in target else "send" for _, target, _ in stub.requests if "/v1/" in target]
    assert order == ["send", "send", "get", "send", "get", "get"]


def test_a_repeated_request_has_the_same_key_and_waits_as_long_as_it_is_told(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    stub.script = [
        (503, {"code": "mailbox_full", "detail": "full"}, {"retry-after": "7"}),
        (429, {"code": "rate_limited", "detail": "slowly"}, {"retry-after": "3"}),
    ]
    assert import_(stub, file, monkeypatch) == 0
    assert no_pauses[0] == 7 and no_pauses[1] == 3
    keys = [headers["idempotency-key"] for _, target, headers in stub.requests if target.endswith("/commands")]
    assert len(keys) == 3 and len(set(keys)) == 1
    assert "posted now                 3" in capsys.readouterr().out


def test_a_service_that_stays_away_is_given_up(stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 100_000, 50))
    monkeypatch.setitem(service.Service.__init__.__kwdefaults__, "clock", lambda: next(times))
    stub.script = [(503, {"code": "unavailable", "detail": "away"}, {})] * 20
    assert import_(stub, file, monkeypatch) == 2
    assert 3 < len([1 for _, target, _ in stub.requests if target.endswith("/commands")]) < 10


def test_an_expired_token_is_refreshed(stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.script = [(401, {"code": "unauthorized", "detail": "expired"}, {})]
    assert import_(stub, file, monkeypatch) == 0
    assert [target for _, target, _ in stub.requests if "/auth/" in target] == [
        "/auth/login",
        "/auth/refresh",
        "/auth/logout",
    ]


def test_refusals_are_counted_shown_and_written_with_their_rows(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stub.refuse = lambda command: "insufficient_funds" if command.get("reference") == "3" else None
    with file.open("a") as more:
        more.write("4,alice,in,0\n5,alice,in\n")
    assert import_(stub, file, monkeypatch, refusals=tmp_path / "out.csv") == 1
    told = capsys.readouterr().out
    assert "row_invalid                      2" in told and "insufficient_funds               1" in told
    assert "line 4: insufficient_funds: insufficient_funds!" in told
    with (tmp_path / "out.csv").open(newline="") as written:
        rows = sorted(csv.reader(written))
    assert [row[:2] + row[3:] for row in rows] == [
        ["4", "insufficient_funds", "3", "alice", "out", "30.00"],
        ["5", "row_invalid", "4", "alice", "in", "0"],
        ["6", "row_invalid", "5", "alice", "in"],
        ["line", "code", *COLUMNS],
    ]


def test_more_refusals_than_a_batch_shows_are_found_among_the_jobs(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("id,account,kind,amount\n" + "".join(f"{number},bob,out,1\n" for number in range(1, 251)))
    stub.refuse = lambda command: "insufficient_funds" if command["kind"] == "post_transaction" else None
    assert import_(stub, file, monkeypatch) == 1
    assert "insufficient_funds             250" in capsys.readouterr().out
    assert len([1 for _, target, _ in stub.requests if target.startswith("/v1/jobs?")]) == 5


def test_an_account_that_was_there_before_is_no_refusal(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.refuse = lambda command: "account_exists" if command.get("name") == "cash" else None
    assert import_(stub, file, monkeypatch) == 0
    assert "accounts opened            2" in capsys.readouterr().out


def test_a_command_the_service_can_not_take_is_left_out(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = {"pointer": "#/commands/4/effective_at", "detail": "lies in the future"}
    stub.script = [(422, {"code": "validation_failed", "detail": "1 error", "errors": [fault]}, {})]
    assert import_(stub, file, monkeypatch) == 1
    assert [command["reference"] for command in stub.sent("post_transaction")] == ["1", "3"]
    assert "line 3: validation_failed: #/commands/4/effective_at: lies in the future" in capsys.readouterr().out


def test_another_mapping_for_a_file_without_references_ends_the_import(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = {"pointer": "#/commands/2", "detail": "the key was used with another request"}
    stub.script = [(422, {"code": "idempotency_key_reused", "detail": "no", "errors": [fault]}, {})]
    assert import_(stub, file, monkeypatch) == 2
    assert "Line 2 was imported before with another mapping" in capsys.readouterr().err


def test_equal_rows_of_one_request_are_sent_once_in_the_first_ones_place(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(ROWS + "1,alice,in,100.00\n")
    assert import_(stub, file, monkeypatch) == 0
    assert [command["reference"] for command in stub.sent("post_transaction")] == ["1", "2", "3"]
    assert "posted earlier             1" in capsys.readouterr().out


def test_a_dry_run_shows_the_first_commands_and_sends_nothing(
    stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_(stub, file, monkeypatch, dry_run=True) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [command["kind"] for command in shown].count("post_transaction") == 3
    assert stub.requests == []


def test_a_mapping_file_says_the_same_as_options_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(
        """
        debit = "cash"
        credit = "wallets:{account}"
        amount = "{amount}"
        [swap_when]
        kind = "out"
        [[open]]
        prefix = "wallets:"
        type = "liability"
        currency = "USD"
        """
    )
    plan = Columns(mapping=path, amount="{amount|comma}").plan()
    assert plan == Plan(
        debit="cash",
        credit="wallets:{account}",
        amount="{amount|comma}",
        swap_when={"kind": "out"},
        open=[OpenRule("wallets:", "liability", "USD")],
    )
    path.write_text("debbit = 'cash'")
    with pytest.raises(MappingError, match="debbit"):
        Plan.load(path)


def test_negative_amounts_can_exchange_debit_and_credit() -> None:
    plan = Plan(debit="cash", credit="wallets:{account}", amount="{amount}", signed=True)
    item = Translator(plan, COLUMNS, "", 1).items(2, ("1", "alice", "in", "-5.00"))[0]
    assert json.loads(item.body)["postings"] == [{"debit": "wallets:alice", "credit": "cash", "amount": "5.00"}]
    with pytest.raises(RowError, match="amount"):
        unsigned = Plan(debit="cash", credit="wallets:{account}", amount="{amount}")
        Translator(unsigned, COLUMNS, "", 1).items(2, ("1", "alice", "in", "-5.00"))


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("bank:{account}", "bank:Ünal  GmbH"),
        ("bank:{account|slug}", "bank:unal-gmbh"),
        ("{blank or 'none'}", "none"),
        ("{blank or account|lower}", "ünal  gmbh"),
        ("{amount|comma}", "-1234.50"),
        ("{booked|date %d.%m.%Y}T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("{booked|time %d.%m.%Y}", "2024-02-29T00:00:00+00:00"),
        ("{blank|date %Y}", ""),
    ],
)
def test_templates(template: str, filled: str) -> None:
    row = {"account": " Ünal  GmbH ", "blank": " ", "amount": "-1.234,50", "booked": "29.02.2024"}
    assert Template.parse(template, list(row)).fill(row) == filled


@pytest.mark.parametrize("template", ["{nothing}", "{id", "id}", "{id|backwards}", "{}"])
def test_templates_that_make_no_sense(template: str) -> None:
    with pytest.raises(TemplateError):
        Template.parse(template, COLUMNS)


def test_batches_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MOST_BYTES", 250)
    items = [run.Item(number, "post_transaction", str(number), b"x" * 100) for number in range(5)]
    assert [len(group) for group in run.batches(items, 1_000)] == [2, 2, 1]

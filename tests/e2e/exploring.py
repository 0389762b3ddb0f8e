"""schemathesis over a running service: requests made from its own description, answers held against it.

Somebody's requests must not end what others explore with, so `Explorer` keeps a few ids out of paths, and logs out with
tokens of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final
from uuid import uuid4

import httpx
import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from tests.e2e.people import Person

Json = dict[str, Any]

FRAMING: Final = frozenset(("allow", "connection", "content-length", "content-type", "date", "transfer-encoding"))
"""Headers that need no description."""
FARTHEST: Final = 50
"""The highest `min_version` that is asked for again and again: what is higher costs a second each."""


@dataclass
class Report:
    """What was sent, what came back, and what was wrong with it."""

    seed: int
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    succeeded: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, recorder: ScenarioRecorder) -> None:
        """Takes over what one scenario recorded."""
        for case_id, interaction in recorder.interactions.items():
            if interaction.response is None:
                continue
            status = interaction.response.status_code
            self.sent += 1
            self.statuses[status] += 1
            if status < 300:
                self.succeeded.add(recorder.cases[case_id].value.operation.label)
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    operation = recorder.cases[case_id].value.operation.label
                    name = f"{operation}: {check.name}: {failure.message[:600]}"
                    self.failures[name] += 1
                    self.samples.setdefault(name, check.failure_info.code_sample)

    def __str__(self) -> str:
        lines = [
            f"{self.sent} requests with seed {self.seed}: {dict(sorted(self.statuses.items()))}",
            *self.errors,
        ]
        for name, times in self.failures.most_common(20):
            lines += [f"{times} × {name}", f"    {self.samples[name][:1_000]}"]
        return "\n".join(lines)


@dataclass
class Explorer:
    """Somebody, or several in turn, who tries everything. `tokens`: None is nobody.

    `names` are values for what paths name, `spared` are ids that may stand in no path. Tokens of the guest are spent.
    """

    address: str
    tokens: Sequence[str | None]
    names: Mapping[str, Sequence[str]]
    spared: frozenset[str]
    guest: Person

    def explore(self, seed: int, examples: int, *phases: str) -> Report:
        """Sends requests. `examples` for each operation and phase, as far as the phase counts in those."""
        report = Report(seed)
        schema = schemathesis.openapi.from_url(
            f"{self.address}/openapi.json", config=self._config(seed, examples, phases)
        )
        # it answers for as long as one listens
        schema = schema.exclude(path="/v1/ledgers/{ledger}/events")
        tokens = cycle(self.tokens)

        class Identity:
            def get(self, case: schemathesis.Case, context: schemathesis.AuthContext) -> str | None:
                return next(tokens)

            def set(self, case: schemathesis.Case, data: str, context: schemathesis.AuthContext) -> None:
                case.headers["Authorization"] = f"Bearer {data}"

        # asked for each request: they come from different ones
        schema.auth(refresh_interval=None)(Identity)
        with self._hooks():
            for event in from_schema(schema).execute():
                if isinstance(event, events.ScenarioFinished):
                    report.add(event.recorder)
                elif isinstance(event, events.NonFatalError):
                    report.errors.append(f"{event.label}: {event.info.message}")
                elif isinstance(event, events.FatalError):
                    report.errors.append(repr(event.exception))
        return report

    def _fresh(self) -> str:
        """The token of a session that nobody needs."""
        known = {"username": self.guest.username, "password": self.guest.password}
        token: str = httpx.post(f"{self.address}/auth/login", json=known).raise_for_status().json()["access_token"]
        return token

    def _config(self, seed: int, examples: int, phases: Sequence[str]) -> schemathesis.Config:
        every = ("examples", "coverage", "fuzzing", "stateful")
        bound = {f"path.{name}": {"dictionary": name, "probability": 0.8} for name in self.names}
        content = {
            "seed": seed,
            "base-url": self.address,
            "request-timeout": 40,
            "continue-on-failure": True,
            "dictionaries": {
                **{name: {"values": list(values)} for name, values in self.names.items()},
                "preferences": {"values": ["wait=2", "wait=0", "respond-async, wait=1", "wait=x"]},
                "versions": {"values": [0, 1, 2, 3]},
                "codes": {"values": ["USD", "EUR"]},
            },
            "parameters": {
                **bound,
                "header.Prefer": {"dictionary": "preferences", "probability": 0.7},
                "query.min_version": {"dictionary": "versions", "probability": 0.9},
                "body.currency": {"dictionary": "codes", "probability": 0.7},
            },
            "generation": {
                "database": "none",
                "no-shrink": True,
                "max-examples": examples,
                "with-security-parameters": False,
            },
            "phases": {
                **{name: {"enabled": name in phases} for name in every},
                "coverage": {"enabled": "coverage" in phases, "generate-duplicate-query-parameters": True},
            },
        }
        return schemathesis.Config.from_dict(content)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Json) -> None:
            for name, value in (case.path_parameters or {}).items():
                if value in self.spared:
                    case.path_parameters[name] = str(uuid4())
            if case.operation.path == "/auth/logout" and case.headers.get("Authorization", "")[7:] in self.tokens:
                case.headers["Authorization"] = f"Bearer {self._fresh()}"
            version = (case.query or {}).get("min_version")
            if isinstance(version, int) and version > FARTHEST and case.operation.path != "/v1/ledgers/{ledger}":
                case.query["min_version"] = FARTHEST

        schemathesis.hook(before_call)
        schemathesis.hook(filter_failure)
        try:
            yield
        finally:
            GLOBAL_HOOK_DISPATCHER.unregister(before_call)
            GLOBAL_HOOK_DISPATCHER.unregister(filter_failure)


def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Whether a failure is one: a request can fit its description and still be refused, for these reasons alone."""
    if type(failure).__name__ == "AcceptedNegativeData":
        # null counts as absent, wherever it stands; and a rehearsal has no use for a key, whatever that is
        query = case.query or {}
        key = "Idempotency-Key" in failure.message and "validate_only" in query
        return "None" not in repr(case.body) and not key
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = json.loads(response.content)
    if problem["code"] not in ("validation_failed", "malformed_request"):
        return False
    said = problem["errors"] or [{"pointer": "", "detail": problem["detail"]}]
    failure.message += f"\n{said}"
    return any(not _is_beyond_description(fault) for fault in said)


# Nothing in a JSON Schema says so: where it points, and how it begins.
_BEYOND: Final = (
    # a cursor was given out before, and every sequence of characters is some cursor
    ("#/cursor", "is none that was given out"),
    ("#/atomic", ""),
    ("#/postings", "debit and credit must name two accounts"),
    ("#/commands", "debit and credit must name two accounts"),
    ("#/commands", 'up_to needs the amount "available"'),
    ("#/commands", "must have "),
    ("#/commands", "must be left out "),
    ("#/commands", "must not all be zero"),
    ("#/commands", "must lie "),
    ("#/", "must not be more than 60 seconds in the future"),
    ("#/", "must not be before"),
    ("#/", "must not be after"),
    ("#/", "must lie in the future"),
    ("#/", "must lie behind execute_at"),
    ("#/expires_at", "must be left out unless the transaction is pending"),
    # of an API key
    ("#/ledgers", "is no ledger that was granted to you"),
    # of an export
    ("#/format", "must be one of"),
    ("#/account", "is required for a statement"),
    ("#/to", "must not be before from"),
    ("#/", "is for a statement only"),
    # of a schedule
    ("", "The schedule "),
    ("#/every", "must be given, or rrule"),
    ("#/every", "must be a second at least"),
    ("#/rrule", "must "),
    ("#/starts_at", "must not be more than"),
    ("#/command/", "must "),
    ("#/command/postings", "debit and credit must name two accounts"),
    ("#/command/postings", 'up_to needs the amount "available"'),
    ("#/amounts", "must be left out beside amount"),
    ("#/amounts", "must not all be zero"),
    ("#/postings", 'up_to needs the amount "available"'),
    ("#/preconditions", "must have "),
    # leap seconds, and what the offset takes out of the years there are
    ("#/", "must be an RFC 3339 time"),
    ("#/metadata", "must not set more than"),
    # 3.0 is an integer to JSON Schema, but written as none
    ("#/", "must be a whole number"),
    ("#", "must be text without NUL"),
    ("#", "must not have NUL"),
)


def _is_beyond_description(fault: Json) -> bool:
    return any(fault["pointer"].startswith(place) and fault["detail"].startswith(says) for place, says in _BEYOND)


# -- what schemathesis does not know by itself -------------------------------------------------------------------------


@schemathesis.serializer("application/x-ndjson")
def as_lines(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """A line, or several."""
    return b"\n".join(json.dumps(line).encode() for line in (value if isinstance(value, list) else [value]))


@schemathesis.deserializer("application/x-ndjson")
def first_line(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """The schema is a line's; there may be none."""
    lines = response.content.splitlines() or [b'{"epoch": 1, "seq": 1, "previous_hash": "", "hash": "", "event": ""}']
    return json.loads(lines[0])


@schemathesis.deserializer("text/plain")
def as_text(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    return response.content.decode()


@schemathesis.check
def nothing_undescribed(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """Every header that came is one that the answer's description has; a problem is one, whatever was asked."""
    if response.status_code >= 400 and case.operation.path != "/health/ready":
        problem = json.loads(response.content)
        assert response.headers["content-type"] == ["application/problem+json"]
        assert (problem["status"], problem["type"]) == (response.status_code, f"/problems/{problem['code']}")
    answer = case.operation.responses.find_by_status_code(response.status_code)
    if response.request.method == case.method.upper() == case.operation.method.upper() and answer is not None:
        undescribed = {*response.headers} - FRAMING - {name.lower() for name, _ in answer.headers.items()}
        assert not undescribed, f"undescribed headers: {sorted(undescribed)}"
    return None

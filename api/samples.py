"""Examples: for a schema, a value that fits it and reads as if somebody had sent it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_ID: Final = "019a0b6c-7d2e-7c31-9f44-5b0e8a1d2c3f"
_TIME: Final = "2026-01-31T12:00:00.000000Z"

# By the name of the member; `Type.member` where members of that name differ.
_VALUES: Final[Mapping[str, Any]] = {
    "access_token": "eyJhbGciOiJIUzI1NiIs…",
    "account": "wallets:alice",
    "actor": "ledger:acme",
    "address": "203.0.113.7",
    "amount": "100.00",
    "available": "60.00",
    "balance": "60.00",
    "code": "POINTS",
    "CurrencyView.code": "POINTS",
    "correlation_id": "c1",
    "counts": {"scheduled": 0, "accepted": 0, "succeeded": 2, "rejected": 0, "failed": 0, "cancelled": 0},
    "credit": "wallets:alice",
    "credits": "100.00",
    "currency": "USD",
    "debit": "assets:bank",
    "debits": "100.00",
    "description": "Deposit",
    "detail": "must be a decimal string above zero",
    "difference": "0.00",
    "epoch": 1,
    "every": "P1D",
    "ScheduleView.status": "active",
    "event": '{"actor":"ledger:acme","epoch":1,"seq":4,…}',
    "events": f"/v1/jobs/{_ID}/events",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "held": "0.00",
    "instance": f"/v1/jobs/{_ID}",
    "kind": "post_transaction",
    "ledger": "acme",
    "ledgers": ["acme"],
    "LedgerView.id": "acme",
    "CreateLedger.id": "acme",
    "CreateLedger.name": "Acme Ltd",
    "LedgerView.name": "Acme Ltd",
    "OpenAccount.name": "wallets:alice",
    "OpenAccount.type": "liability",
    "OpenAccountItem.name": "wallets:alice",
    "AccountView.type": "liability",
    "metadata": {"team": "payments"},
    "missing": [],
    "alg": "EdDSA",
    "BatchView.done": True,
    "BatchView.refusals": [],
    "BatchView.refusals_total": 0,
    "BatchView.total": 2,
    "captures": [],
    "crv": "Ed25519",
    "kid": "2026-01",
    "kty": "OKP",
    "use": "sig",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "NewApiKey.name": "books importer",
    "ApiKeyView.name": "books importer",
    "ApiKeyMade.name": "books importer",
    "current": True,
    "title": "Validation failed",
    "owner": _ID,
    "checks": {"postgres": "ok", "migrations": "ok", "redis": "ok"},
    "name": "wallets:alice",
    "normal_balance": "credit",
    "password": "correct horse battery staple",
    "pending_credits": "0.00",
    "pending_debits": "0.00",
    "pointer": "#/postings/0/amount",
    "posted": "100.00",
    "posted_credits": "100.00",
    "posted_debits": "40.00",
    "prefix": "dbk_3kQ9",
    "previous_hash": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "reference": "dep-1",
    "refresh_token": "dbr_…",
    "resource": f"/v1/ledgers/acme/transactions/{_ID}",
    "role": "writer",
    "roles": ["user"],
    "scale": 2,
    "scopes": ["ledger:read"],
    "secret": "dbk_3kQ9…",
    "self": f"/v1/jobs/{_ID}",
    "seq": 4,
    "status": "posted",
    "AccountView.status": "open",
    "JobView.status": "succeeded",
    "Readiness.status": "ok",
    "Alive.status": "ok",
    "Problem.status": 422,
    "Problem.title": "Validation failed",
    "Problem.type": "/problems/validation_failed",
    "Problem.code": "validation_failed",
    "token_type": "Bearer",
    "type": "liability",
    "expires_in": 900,
    "user_agent": "books/1.0",
    "username": "ada",
    "version": 4,
}

# What may be left out of a request, and mostly is.
_SPARED: Final = frozenset(("amounts", "effective_at", "execute_at", "final"))

# What a type does not require, and a request needs all the same: one of several members.
_NEEDED: Final[Mapping[str, set[str]]] = {"CreateSchedule": {"every"}}

# Members that are null in most answers.
_UNSET: Final = frozenset(
    (
        *("batch", "effective_at", "execute_at", "expires_at", "max_balance", "min_balance"),
        *("next", "problem", "progress", "reversed_by", "reverses", "rrule"),
    )
)


def sample(schema: Schema, components: Mapping[str, Schema], *, whole: bool) -> Any:
    """A value for the schema. `whole`: with the members that may be left out, as answers have them."""
    return _sample(schema, components, "", whole)


def _sample(schema: Schema, components: Mapping[str, Schema], place: str, whole: bool) -> Any:
    if "$ref" in schema:
        return _sample(components[schema["$ref"].rpartition("/")[2]], components, place, whole)
    known = _known(schema, place)
    if known is not None:
        return known
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return _sample(options[0], components, place, whole)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    return _of_type(schema, components, place, whole)


def _known(schema: Schema, place: str) -> Any:
    member = place.rpartition(".")[2]
    value = _VALUES.get(place, _VALUES.get(member, _TIME if member.endswith("_at") else None))
    return value if fits(value, schema) else None


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value is of the schema's type, and one of its values if it lists them."""
    if value is None:
        return False
    options = schema.get("anyOf", (schema,))
    kinds = {"string": str, "integer": int, "array": list, "object": dict, "boolean": bool}
    return any(
        value in option["enum"] if "enum" in option else isinstance(value, kinds.get(option.get("type", ""), ()))
        for option in options
    )


def _of_type(schema: Schema, components: Mapping[str, Schema], place: str, whole: bool) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return _members(schema, components, whole)
    if kind == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return [_sample(items, components, place, whole)]
    if kind == "string":
        return {"uuid": _ID, "date-time": _TIME}.get(schema.get("format", ""), "text")
    return {"integer": schema.get("minimum", 1), "boolean": False}.get(str(kind))


def _members(schema: Schema, components: Mapping[str, Schema], whole: bool) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    title = schema.get("title", "")
    required = set(schema.get("required", ()))
    chosen = required | _NEEDED.get(title, set()) or set(properties) - _SPARED
    wanted = [name for name in properties if whole or name in chosen]
    return {
        name: None
        if whole and name in _UNSET and is_nullable(properties[name])
        else _sample(properties[name], components, f"{title}.{name}", whole)
        for name in wanted
    }


def is_nullable(schema: Schema) -> bool:
    """Whether null is a value of it."""
    return any(option.get("type") == "null" for option in schema.get("anyOf", (schema,)))

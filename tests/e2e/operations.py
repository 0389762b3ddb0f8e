"""Every operation of the API, as it describes itself, and how each is asked so that only authority can refuse it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpx

from tests.e2e.client import Json, fresh, posting, yearly

METHODS = ("get", "post", "put", "patch", "delete")


class Operation(NamedTuple):
    """A method and a path with its placeholders."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def names(self) -> set[str]:
        """What the path names."""
        return set(re.findall(r"\{(\w+)\}", self.path))


def operations(http: httpx.Client) -> list[Operation]:
    """All of them, from the running service's own document."""
    paths: dict[str, Json] = http.get("/openapi.json").raise_for_status().json()["paths"]
    return [
        Operation(method.upper(), path) for path, methods in paths.items() for method in methods if method in METHODS
    ]


def sent(http: httpx.Client, method: str, path: str, **given: Any) -> httpx.Response:
    """The answer; of a stream of events the head alone, since that does not end."""
    with http.stream(method, path, **given) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
    return answer


# What is sent along; what must be new is made anew at each call.
BODIES: Mapping[str, Callable[[], Json]] = {
    "POST /v1/ledgers": lambda: {"id": fresh(), "name": "Books"},
    "POST /v1/ledgers/{ledger}/currencies": lambda: {"code": f"C{secrets.token_hex(6).upper()}", "scale": 2},
    "POST /v1/ledgers/{ledger}/accounts": lambda: {
        "name": f"wallets:{fresh()}",
        "currency": "USD",
        "type": "liability",
    },
    "POST /v1/ledgers/{ledger}/transactions": posting,
    "POST /v1/ledgers/{ledger}/commands": lambda: {"commands": [{"kind": "post_transaction", **posting()}]},
    "PATCH /v1/ledgers/{ledger}": lambda: {"metadata": {"colour": fresh()}},
    "PATCH /v1/ledgers/{ledger}/accounts/{account}": lambda: {"metadata": {"colour": fresh()}},
    "PATCH /v1/ledgers/{ledger}/transactions/{transaction}": lambda: {"metadata": {"colour": fresh()}},
    "POST /v1/ledgers/{ledger}/periods": lambda: {"before": "2001-01-01T00:00:00Z"},
    "POST /v1/ledgers/{ledger}/schedules": yearly,
    "PUT /v1/ledgers/{ledger}/grants/{user}": lambda: {"role": "reader"},
    "POST /v1/ledgers/{ledger}/exports": lambda: {"what": "journal", "format": "csv"},
    "POST /v1/users": lambda: {"username": fresh("user"), "password": secrets.token_urlsafe(12)},
    "PATCH /v1/users/{user}": lambda: {"roles": ["user"]},
    "POST /v1/users/{user}/password": lambda: {"password": secrets.token_urlsafe(12)},
    "POST /v1/users/{user}/disable": dict,
    "POST /v1/jobs/{job}/cancel": dict,
    "POST /v1/jobs/{job}/retry": dict,
    "POST /v1/jobs/retry": dict,
    "POST /v1/api-keys": lambda: {"name": "a key", "scopes": ["ledger:read"]},
}
"""Operations without a body have none here, nor those whose body depends on who asks."""

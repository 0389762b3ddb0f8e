"""What a path and query are about, found before routing: is a login needed, which ledger, which cache entry answers it.

The router decides what a request is; this only says what to ask Redis for on the way, and where no one gets without a
token. A path this does not understand asks for nothing, and its handler finds what it needs by itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from infrastructure.cache import seq_key, view_key

LOGIN: Final = "/auth/login"

_PUBLIC: Final = re.compile(r"/(auth/(login|refresh)|docs|openapi\.json|health|problems|\.well-known)(/.*)?\Z")
_PROTECTED: Final = re.compile(r"/(v1|metrics|auth/(me|logout|sessions))(/.*)?\Z")

_LEDGER: Final = re.compile(
    r"/v1/ledgers/(?P<ledger>[a-z0-9][a-z0-9-]{0,62})"
    r"(?P<rest>/(?:accounts/(?P<account>[a-z0-9_.:-]{1,519})|transactions/(?P<transaction>[0-9a-f-]{36})"
    r"|accounts|transactions|balances|trial-balance|currencies|grants|periods))?"
    r"(?P<more>/.*)?\Z"
)

# Longer ones are neither remembered nor cached.
LONGEST: Final = 1_024


class Target(NamedTuple):
    """`view`, or `tail` of a list's key, says where a GET's answer is cached, if anywhere: see `api.edge`.

    `before` and `after` surround the seq in a list's key.
    """

    public: bool
    protected: bool
    ledger: str | None = None
    view: str = ""
    seq: str = ""
    before: str = ""
    tail: str = ""
    after: str = ""


def target_of(path: str, query: bytes) -> Target:
    """What the request is about. Paths are normalised as the router does it, so that `//v1` is no way in."""
    if len(path) + len(query) > LONGEST:
        return _read(path, None)
    return _remembered(path, query)


def canonical_query(query: bytes) -> str:
    """The parameters sorted and without `min_version`, which does not change what the answer is."""
    if not query:
        return ""
    parts = [part for part in query.decode("latin-1").split("&") if part and not part.startswith("min_version=")]
    return "&".join(sorted(parts))


@lru_cache(maxsize=8_192)
def _remembered(path: str, query: bytes) -> Target:
    return _read(path, query)


def _read(path: str, query: bytes | None) -> Target:
    path = re.sub("/{2,}", "/", path)
    path = path.rstrip("/") or "/"
    public = _PUBLIC.match(path) is not None
    protected = _PROTECTED.match(path) is not None
    match = _LEDGER.match(path)
    if match is None:
        return Target(public, protected)
    ledger: str = match["ledger"]
    if query is None or match["more"] is not None:
        return Target(public, protected, ledger)
    parameters = canonical_query(query)
    if not parameters and match["account"] is not None:
        return Target(public, protected, ledger, view=view_key(ledger, f"account:{match['account']}"))
    if not parameters and match["transaction"] is not None:
        return Target(public, protected, ledger, view=view_key(ledger, f"transaction:{match['transaction']}"))
    tail = f"{path}?{parameters}"
    return Target(public, protected, ledger, seq=seq_key(ledger), before=f"list:{ledger}:", tail=tail, after=f":{tail}")

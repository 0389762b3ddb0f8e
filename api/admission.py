"""The one round trip to Redis that a request costs: it is counted against its limit, and what it will need is read.

A request counts against its principal once this process has verified its token, else against its address. So a client
that sends a new junk token each time is still one address.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from api.targets import LOGIN
from infrastructure.cache import value_of
from infrastructure.grants import grant_key
from infrastructure.rate_limits import Limit, LocalBuckets, Verdict, look_up
from infrastructure.redis import RedisUnavailable, SharedRedis
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from litestar.types import Scope

    from api.edge import Edge

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REFRESH: Final = "/auth/refresh"


class Admission:
    """Limits and look-ups for every request of this process."""

    def __init__(self, settings: Settings, redis: SharedRedis) -> None:
        self._redis = redis
        self._local = LocalBuckets()
        self._login = Limit.of("login", settings.login_rate_address, 60)
        self._address = Limit.of("address", settings.request_rate_address, 1)
        self._principal = Limit.of("principal", settings.request_rate_principal, 1)
        self.account = Limit.of("account", settings.login_rate_account, 60)

    async def admit(self, edge: Edge) -> Verdict:
        """Counts the request and fills `edge` with what Redis knew.

        Raises RedisUnavailable for logins while Redis is down. All else is then counted in this process alone.
        """
        bucket, limit = self._bucket_of(edge)
        verdict = await self._count(edge, bucket, limit)
        edge.limits = (_told(verdict, limit), limit.policy)
        return verdict

    async def _count(self, edge: Edge, bucket: str, limit: Limit) -> Verdict:
        if edge.target.public and edge.path.startswith("/health"):
            # a probe must not wait for what it is about to report on
            return self._local.admit(bucket, limit)
        try:
            found = await self._look_up(edge, bucket, limit)
        except RedisUnavailable:
            if edge.path == LOGIN:
                raise
            return self._local.admit(bucket, limit)
        return Verdict(found[0] == 1, found[1], found[2])

    def _bucket_of(self, edge: Edge) -> tuple[str, Limit]:
        if edge.token is not None:
            return edge.token.bucket, self._principal
        if edge.path in (LOGIN, REFRESH):
            return f"{edge.path[6:]}:{edge.address}", self._login
        return f"address:{edge.address}", self._address

    async def _look_up(self, edge: Edge, bucket: str, limit: Limit) -> list[Any]:
        target = edge.target
        token = edge.token
        if token is None:
            return await look_up(self._redis, bucket, limit, ("", "", ""), "", "", "")
        if target.ledger is not None:
            is_admin = token.principal is not None and token.principal.is_admin
            edge.grant_key = grant_key(target.ledger, token.user_id, is_admin)
        view, seq = (target.view, target.seq) if edge.method == "GET" else ("", "")
        slots = (token.session_key, edge.grant_key, view)
        found = await look_up(self._redis, bucket, limit, slots, seq, target.before, target.after)
        if found[0] == 1:
            edge.session = value_of(found[3])
            edge.grant = value_of(found[4])
            edge.cached = value_of(found[5]) if target.view else found[7]
            newest = value_of(found[6])
            edge.ledger_seq = None if newest is None else newest[2:].decode()
        return found


def _told(verdict: Verdict, limit: Limit) -> tuple[bytes, bytes]:
    """`RateLimit`, as in the IETF's draft 11: how many are left, and when there are none, the seconds to wait."""
    wait = "" if verdict.admitted else f";t={verdict.retry_after_s}"
    return b"ratelimit", f'"{limit.name}";r={verdict.remaining}{wait}'.encode()


def networks(names: tuple[str, ...]) -> tuple[Network, ...]:
    """The trusted proxies: addresses, or networks like `10.0.0.0/8`. Raises ValueError."""
    return tuple(ipaddress.ip_network(name, strict=False) for name in names)


def client_address(scope: Scope, headers: dict[bytes, bytes], proxies: tuple[Network, ...]) -> str:
    """Where the request comes from, as far as that can be believed; an IPv6 client counts as its /64 network.

    `X-Forwarded-For` is read from its right end, and only while the hop to the right of it is a trusted proxy.
    """
    client = scope.get("client")
    address = client[0] if client else "local"
    if proxies and _is_within(address, proxies):
        for hop in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            if not _is_address(hop.strip()):
                break
            address = hop.strip()
            if not _is_within(address, proxies):
                break
    if ":" in address and _is_address(address):
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False).network_address)
    return address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(text: str, proxies: tuple[Network, ...]) -> bool:
    if not _is_address(text):
        return False
    address = ipaddress.ip_address(text)
    return any(address in network for network in proxies)

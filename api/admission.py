"""The one round trip to Redis that a request costs: it is counted against its limit, and what it will need is read.

A request counts against its principal, by the limit of its roles, once this process knows whose token it brings; else
against its address. So a client that sends a new junk token each time is still one address. The first request with a
token counts twice, against both (`api.middleware.authentication`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from api.targets import LOGIN
from infrastructure.cache import of_this_run, value_of
from infrastructure.grants import grant_key, role_in
from infrastructure.rate_limits import Limit, LocalBuckets, Verdict, look_up
from infrastructure.redis import RedisUnavailable, SharedRedis
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from litestar.types import Scope

    from api.edge import Edge

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REFRESH: Final = "/auth/refresh"

_HOP: Final = re.compile(
    r"(?P<v4>[0-9.]+)(:[0-9]+)?|\[(?P<quoted>[0-9A-Fa-f:.]+)\](:[0-9]+)?|(?P<v6>[0-9A-Fa-f:.]+)(%[^,\s]*)?"
)


class Admission:
    """Limits and look-ups for every request of this process."""

    def __init__(self, settings: Settings, redis: SharedRedis) -> None:
        self._redis = redis
        self._local = LocalBuckets()
        self._login = Limit.of("login", settings.login_rate_address, 60)
        self._address = Limit.of("address", settings.request_rate_address, 1)
        self._rates = {
            "user": settings.request_rate_user,
            "operator": settings.request_rate_operator,
            "admin": settings.request_rate_admin,
        }
        self._of_roles: dict[tuple[str, ...], Limit] = {}
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
        token = edge.token
        if token is not None and token.principal is not None:
            return token.bucket, self._limit_of(token.principal.roles)
        if edge.path in (LOGIN, REFRESH):
            return f"{edge.path[6:]}:{edge.address}", self._login
        return f"address:{edge.address}", self._address

    def _limit_of(self, roles: tuple[str, ...]) -> Limit:
        """The limit of a principal: of several roles the most generous counts, and without any it is a user."""
        limit = self._of_roles.get(roles)
        if limit is None:
            quota = max([self._rates[role] for role in roles if role in self._rates] or [self._rates["user"]])
            limit = self._of_roles[roles] = Limit.of("principal", quota, 1)
        return limit

    async def _look_up(self, edge: Edge, bucket: str, limit: Limit) -> list[Any]:
        target = edge.target
        token = edge.token
        if token is None or token.principal is None:
            return await look_up(self._redis, bucket, limit, ("", "", ""), "", "", "")
        if target.ledger is not None:
            edge.grant_key = grant_key(target.ledger, token.user_id, token.principal.is_admin)
        view, seq = (target.view, target.seq) if edge.method == "GET" else ("", "")
        slots = (token.slot_key, edge.grant_key, view)
        found = await look_up(self._redis, bucket, limit, slots, seq, target.before, target.after)
        if found[0] == 1:
            edge.session = of_this_run(found[3], self._redis.server)
            edge.grant = role_in(found[4], self._redis.server)
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


def client_address(scope: Scope, proxies: tuple[Network, ...]) -> str:
    """Where the request comes from, as far as that can be believed; an IPv6 client counts as its /64 network.

    `X-Forwarded-For`, all its lines as one, is read from its right end, and only while the hop to the right of it is a
    trusted proxy. No other header is believed, `Forwarded` neither.
    """
    client = scope.get("client")
    if not client:
        return "local"
    farthest: str = client[0]
    if proxies and _is_within(farthest, proxies):
        for hop in _hops(scope):
            if _address(hop) is None:
                break
            farthest = hop
            if not _is_within(hop, proxies):
                break
    return _known_as(farthest)


@lru_cache(maxsize=4_096)
def _known_as(text: str) -> str:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return text if address is None else str(address)


def _hops(scope: Scope) -> Iterator[str]:
    """Whom the proxies forwarded for, the nearest first."""
    for name, value in reversed(list(scope["headers"])):
        if name == b"x-forwarded-for":
            yield from reversed(value.decode("latin-1").split(","))


def _address(text: str) -> Address | None:
    """What a socket or a proxy calls an address; None for anything else.

    Some proxies add the port, and a socket for both families shows an IPv4 client as an IPv6 one.
    """
    match = _HOP.fullmatch(text.strip())
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(match["v4"] or match["quoted"] or match["v6"])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_within(text: str, proxies: tuple[Network, ...]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in proxies)

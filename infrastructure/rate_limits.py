"""Rate limits: the generic cell rate algorithm in one script, so that no two requests take the same turn.

A bucket is one number: the theoretical arrival time of the next request, in microseconds of Redis's own clock. A
request is admitted while that time is less than one window ahead, and moves it on by the interval. The script reads up
to four slots on the way, so that limit, session, grant and cached answer cost one round trip.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from infrastructure.redis import Script, SharedRedis

# KEYS: bucket, three slots to read, and `seq:{ledger}` (an empty key: nothing).
# ARGV: interval and window in microseconds; what surrounds the seq in a list's key.
# Answers: admitted, requests left, microseconds to wait, the three slots, the seq's slot, the list.
ADMIT: Final = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local slots = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
local tat = tonumber(slots[1] or now)
if tat < now then tat = now end
tat = tat + interval
local spare = now + window - tat
if spare < 0 then return {0, 0, math.ceil(-spare)} end
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
local seq, list = slots[5], false
if seq and string.sub(seq, 1, 2) == 'V:' then
    list = redis.call('GET', ARGV[3] .. string.sub(seq, 3) .. ARGV[4])
end
return {1, math.floor(spare / interval), 0, slots[2], slots[3], slots[4], seq, list}
""")

MOST_BUCKETS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `quota` requests in `window_s` seconds, and after a burst of all of them one each `window_s / quota`."""

    name: str
    quota: int
    window_s: int
    interval_us: int
    window_us: int
    policy: tuple[bytes, bytes]

    @classmethod
    def of(cls, name: str, quota: int, window_s: int) -> Limit:
        interval_us = max(1, window_s * 1_000_000 // quota)
        policy = (b"ratelimit-policy", f'"{name}";q={quota};w={window_s}'.encode())
        return cls(name, quota, window_s, interval_us, interval_us * quota, policy)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request was admitted, how many more would be at once, and how long a refused one should wait."""

    admitted: bool
    remaining: int
    wait_us: int

    @property
    def retry_after_s(self) -> int:
        return max(1, -(-self.wait_us // 1_000_000))


async def admit(redis: SharedRedis, bucket: str, limit: Limit) -> Verdict:
    """Counts one request in `bucket`. Raises RedisUnavailable."""
    found = await look_up(redis, bucket, limit, ("", "", ""), "", "", "")
    return Verdict(found[0] == 1, found[1], found[2])


async def look_up(
    redis: SharedRedis, bucket: str, limit: Limit, slots: tuple[str, str, str], seq: str, before: str, after: str
) -> list[Any]:
    """Counts one request, and reads slots for it: see ADMIT. Raises RedisUnavailable."""
    reply: list[Any] = await redis.run(
        ADMIT, (f"rl:{bucket}", *slots, seq), (limit.interval_us, limit.window_us, before, after)
    )
    return reply


class LocalBuckets:
    """The same in this process alone, for when Redis is down. The least recently used buckets are forgotten."""

    def __init__(self) -> None:
        self._arrivals_us: OrderedDict[str, int] = OrderedDict()

    def admit(self, bucket: str, limit: Limit, now_us: int | None = None) -> Verdict:
        """Counts one request in `bucket`, at `now_us` microseconds of any steady clock."""
        now = time.monotonic_ns() // 1000 if now_us is None else now_us
        tat = max(self._arrivals_us.get(bucket, now), now) + limit.interval_us
        spare = now + limit.window_us - tat
        if spare < 0:
            return Verdict(False, 0, -spare)
        self._arrivals_us[bucket] = tat
        self._arrivals_us.move_to_end(bucket)
        if len(self._arrivals_us) > MOST_BUCKETS:
            self._arrivals_us.popitem(last=False)
        return Verdict(True, spare // limit.interval_us, 0)

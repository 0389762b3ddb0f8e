"""Limits are exact however many requests, connections and processes count at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.embedded import Addresses
from infrastructure.rate_limits import Limit, LocalBuckets, admit, look_up
from infrastructure.redis import SharedRedis
from tests.journals import on_a_loop

SLOW = Limit.of("slow", 50, 3_600)


@on_a_loop
async def test_exact_under_concurrency(servers: Addresses) -> None:
    connections = [SharedRedis(servers.redis_url) for _ in range(4)]
    try:
        bucket = "test:exact"
        verdicts = await asyncio.gather(*(admit(connections[index % 4], bucket, SLOW) for index in range(400)))
        admitted = [verdict for verdict in verdicts if verdict.admitted]
        assert len(admitted) == 50
        assert sorted(verdict.remaining for verdict in admitted) == list(range(50))
        refused = [verdict for verdict in verdicts if not verdict.admitted]
        assert all(60 <= verdict.retry_after_s <= 72 for verdict in refused)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
        async with redis.asyncio.Redis.from_url(servers.redis_url) as client:
            await client.delete("rl:test:exact")


@on_a_loop
async def test_slots_come_along(servers: Addresses) -> None:
    connection = SharedRedis(servers.redis_url)
    async with redis.asyncio.Redis.from_url(servers.redis_url) as client:
        await client.flushall()
        await client.mset({"one": "1", "three": "3", "seq:l": "V:1.7", "list:l:1.7:tail": "[]"})
        # a script that Redis has forgotten is sent again
        await client.script_flush()
        found = await look_up(connection, "test:slots", SLOW, ("one", "two", "three"), "seq:l", "list:l:", ":tail")
        assert found == [1, 49, 0, b"1", None, b"3", b"V:1.7", b"[]"]
        await client.set("seq:l", "X")
        found = await look_up(connection, "test:slots", SLOW, ("", "", ""), "seq:l", "list:l:", ":tail")
        assert found == [1, 48, 0, None, None, None, b"X", None]
        assert 0 < await client.pttl("rl:test:slots") <= 2 * 72_000
        await client.flushall()
    await connection.close()


@given(
    quota=st.integers(1, 100),
    window_s=st.integers(1, 60),
    steps_us=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=200),
)
def test_no_window_admits_more_than_a_burst_and_its_share(quota: int, window_s: int, steps_us: list[int]) -> None:
    limit, buckets, now = Limit.of("any", quota, window_s), LocalBuckets(), 0
    admitted: list[int] = []
    for step in steps_us:
        now += step
        verdict = buckets.admit("bucket", limit, now)
        if verdict.admitted:
            admitted.append(now)
        else:
            # who waits as long as he was told is admitted
            assert LocalBuckets.admit(buckets, "bucket", limit, now + verdict.wait_us).admitted
            admitted.append(now := now + verdict.wait_us)
    assert all(earlier <= later for earlier, later in pairwise(admitted))
    for index, start in enumerate(admitted):
        for count, end in enumerate(admitted[index:], 1):
            assert count <= quota + (end - start) / limit.interval_us + 1


def test_a_quiet_bucket_admits_its_quota_at_once() -> None:
    buckets = LocalBuckets()
    verdicts = [buckets.admit("bucket", SLOW, 0) for _ in range(51)]
    assert [verdict.admitted for verdict in verdicts] == [True] * 50 + [False]
    assert verdicts[0].remaining == 49
    assert verdicts[50].retry_after_s == 72

"""Limits are exact however many requests, connections and processes count at once."""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
from collections.abc import Iterator, Sequence
from itertools import accumulate
from multiprocessing import Queue
from threading import Barrier

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infrastructure.embedded import Addresses
from infrastructure.rate_limits import ADMIT, MOST_BUCKETS, Limit, LocalBuckets, Verdict, admit, look_up
from infrastructure.redis import SharedRedis
from tests.journals import on_a_loop

SLOW = Limit.of("slow", 50, 3_600)
LARGE = Limit.of("large", 2_000, 3_600_000)
PROCESSES = 4


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


def try_many(url: str, bucket: str, start: Barrier, admitted: Queue[int]) -> None:
    """What each of several processes does: twenty requests at once, and again, until nothing is left for anybody."""

    async def run() -> int:
        connection = SharedRedis(url)
        await connection.call("PING")
        start.wait(60)
        count = 0
        while True:
            verdicts = await asyncio.gather(*(admit(connection, bucket, LARGE) for _ in range(20)))
            count += sum(verdict.admitted for verdict in verdicts)
            if not any(verdict.admitted for verdict in verdicts):
                await connection.close()
                return count

    admitted.put(asyncio.run(run()))


def test_exact_under_several_processes(servers: Addresses) -> None:
    spawn = multiprocessing.get_context("spawn")
    bucket, start, admitted = f"test:{secrets.token_hex(4)}", spawn.Barrier(PROCESSES), spawn.Queue()
    processes = [
        spawn.Process(target=try_many, args=(servers.redis_url, bucket, start, admitted), daemon=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    counts = [admitted.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sum(counts) == LARGE.quota
    # they did take them from each other
    assert sum(count > 0 for count in counts) > 1, counts


# -- any schedule -----------------------------------------------------------------------------------------------------

LIMITS = st.builds(Limit.of, st.just("any"), st.integers(1, 100), st.integers(1, 60))
STEPS_US = st.lists(
    st.integers(0, 10) | st.integers(0, 2_000_000) | st.integers(0, 100_000_000), min_size=1, max_size=120
)


@given(LIMITS, STEPS_US)
def test_no_window_admits_more_than_a_burst_and_its_share(limit: Limit, steps_us: list[int]) -> None:
    buckets = LocalBuckets()
    times = list(accumulate(steps_us))
    admitted = [now for now in times if buckets.admit("bucket", limit, now).admitted]
    for index, start in enumerate(admitted):
        for count, end in enumerate(admitted[index:], 1):
            assert count <= limit.quota + (end - start) / limit.interval_us


@given(LIMITS, STEPS_US)
def test_a_client_that_keeps_its_pace_is_never_refused(limit: Limit, steps_us: list[int]) -> None:
    buckets = LocalBuckets()
    for now in accumulate(step + limit.interval_us for step in steps_us):
        assert buckets.admit("bucket", limit, now).admitted


@given(LIMITS, STEPS_US)
def test_who_waits_as_told_is_admitted_and_not_a_moment_earlier(limit: Limit, steps_us: list[int]) -> None:
    buckets, now = LocalBuckets(), 0
    for step in steps_us:
        now += step
        verdict = buckets.admit("bucket", limit, now)
        if verdict.admitted:
            continue
        assert 0 < verdict.wait_us <= limit.interval_us
        assert verdict.retry_after_s * 1_000_000 >= verdict.wait_us > (verdict.retry_after_s - 1) * 1_000_000
        # a refused request costs nothing, so asking again a moment too early changes nothing
        assert buckets.admit("bucket", limit, now + verdict.wait_us - 1).wait_us == 1
        now += verdict.wait_us
        assert buckets.admit("bucket", limit, now).admitted


@given(LIMITS, STEPS_US)
def test_what_is_left_can_be_had(limit: Limit, steps_us: list[int]) -> None:
    buckets, now = LocalBuckets(), 0
    for step in steps_us:
        now += step
        left = buckets.admit("bucket", limit, now).remaining
    assert [buckets.admit("bucket", limit, now).admitted for _ in range(left + 1)] == [True] * left + [False]


@pytest.fixture(scope="module")
def valkey(servers: Addresses) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers.redis_url) as client:
        yield client


# The script itself, run for a whole schedule in one call with the schedule's clock for Redis's own. The keys that it
# makes expire by the real one, which stands still meanwhile.
REPLAY = f"""
local function admit(KEYS, ARGV, time)
{ADMIT.source.replace("local time = redis.call('TIME')", "")}
end
local verdicts = {{}}
for i = 3, #ARGV, 2 do
    verdicts[#verdicts + 1] = admit({{KEYS[1], '', '', '', ''}}, {{ARGV[1], ARGV[2], '', ''}}, {{ARGV[i], ARGV[i + 1]}})
end
redis.call('DEL', KEYS[1])
return verdicts
"""


def replayed(valkey: redis.Redis, limit: Limit, times_us: Sequence[int]) -> list[Verdict]:
    clock = [part for now in times_us for part in divmod(now, 1_000_000)]
    key = f"rl:test:{secrets.token_hex(4)}"
    found = valkey.eval(REPLAY, 1, key, limit.interval_us, limit.window_us, *clock)
    return [Verdict(admitted == 1, remaining, wait_us) for admitted, remaining, wait_us, *_ in found]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(LIMITS, STEPS_US, st.integers(0, 1_000_000))
def test_script_and_process_agree_step_by_step(
    valkey: redis.Redis, limit: Limit, steps_us: list[int], fraction_us: int
) -> None:
    # a clock of our days: as large as the script's numbers get
    times_us = list(accumulate(steps_us, initial=1_800_000_000_000_000 + fraction_us))
    buckets = LocalBuckets()
    assert replayed(valkey, limit, times_us) == [buckets.admit("bucket", limit, now) for now in times_us]


def test_the_replay_has_the_scripts_clock_replaced() -> None:
    assert "TIME" in ADMIT.source
    assert "TIME" not in REPLAY


@on_a_loop
async def test_retry_after_is_true(servers: Addresses) -> None:
    """Against the real clock: who waits as long as the script said is admitted."""
    connection, limit = SharedRedis(servers.redis_url), Limit.of("quick", 4, 1)
    bucket = f"test:{secrets.token_hex(4)}"
    while (verdict := await admit(connection, bucket, limit)).admitted:
        pass
    assert 0 < verdict.wait_us <= 250_000
    await asyncio.sleep(verdict.wait_us / 1_000_000)
    assert (await admit(connection, bucket, limit)).admitted
    await connection.close()


def test_a_quiet_bucket_admits_its_quota_at_once() -> None:
    buckets = LocalBuckets()
    verdicts = [buckets.admit("bucket", SLOW, 0) for _ in range(51)]
    assert [verdict.admitted for verdict in verdicts] == [True] * 50 + [False]
    assert verdicts[0].remaining == 49
    assert verdicts[50].retry_after_s == 72


def test_local_buckets_are_bounded() -> None:
    buckets = LocalBuckets()
    for number in range(MOST_BUCKETS + 10):
        buckets.admit(f"bucket:{number}", SLOW, 0)
    assert len(buckets._arrivals_us) == MOST_BUCKETS
    # the newest are remembered
    assert buckets.admit(f"bucket:{MOST_BUCKETS + 9}", SLOW, 0).remaining == 48

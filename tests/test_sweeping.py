"""The timer of every worker process: what one sweep fails over is in no other's way."""

from __future__ import annotations

import asyncio

import pytest

from workers import sweep


class Enough(Exception):
    """Ends what goes on for ever."""


def test_a_sweep_that_fails_is_in_no_others_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    async def pause(_period_s: float) -> None:
        if len(ran) == 4:
            raise Enough

    async def fails() -> int:
        ran.append("fails")
        raise ConnectionResetError

    async def works() -> int:
        ran.append("works")
        return 0

    monkeypatch.setattr(sweep, "pause", pause)
    with pytest.raises(Enough):
        asyncio.run(sweep.again(1.0, fails, works))
    assert ran == ["fails", "works"] * 2

"""What `daybook events replay` shows while it waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cli import events


class Pool:
    """Answers how much is left, look by look."""

    def __init__(self, *left: int) -> None:
        self._left = iter(left)

    async def fetchval(self, *_: object) -> int:
        return next(self._left)


@pytest.mark.parametrize("left", [(0,), (2, 1, 0), (3, 0)])
def test_progress_ends_at_what_was_to_be_published_however_fast_that_was(
    left: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool: Any = Pool(*left)
    monkeypatch.setattr(events, "_LOOK_S", 0)
    asyncio.run(events._watch(pool, "kafka", None, 2))
    most = max(2, *left)
    assert f"{most}/{most}" in capsys.readouterr().out

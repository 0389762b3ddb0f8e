"""The log: one JSON object a line, whoever writes at the same time."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog

from infrastructure.logs import configure_logging
from infrastructure.settings import Settings


class Writes(io.StringIO):
    """Standard error that remembers what was written in one piece: between two pieces another thread may write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_a_line_is_written_in_one_piece(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Writes()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(settings)
    structlog.get_logger("ours").info("first", number=1)
    logging.getLogger("theirs").warning("second")
    assert [json.loads(piece)["event"] for piece in written.pieces] == ["first", "second"]
    assert all(piece.endswith("}\n") for piece in written.pieces)

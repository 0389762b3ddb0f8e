"""The index of decisions: complete, and by the titles that they have."""

from __future__ import annotations

from pathlib import Path

DECISIONS = Path(__file__).resolve().parents[1] / "docs" / "adr"


def test_every_decision_is_in_the_index_by_its_title() -> None:
    files = sorted(DECISIONS.glob("0*.md"))
    assert files
    lines = [f"- [{file.read_text().splitlines()[0].removeprefix('# ')}]({file.name})" for file in files]
    assert [line for line in (DECISIONS / "README.md").read_text().splitlines() if line.startswith("- [")] == lines

"""The README's tour and the pages of docs/tasks, typed in as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.client import ROOT
from tests.e2e.snippets import blocks_of, run
from tests.stack import Stack

README = ROOT / "README.md"
INDEX = ROOT / "docs" / "tasks" / "README.md"
PAGES = sorted(set(INDEX.parent.glob("*.md")) - {INDEX})


def tour() -> list[str]:
    """The tour's shell blocks, in order."""
    _, _, rest = README.read_text().partition("## Five minutes")
    return blocks_of(rest.partition("\n## ")[0])


def test_the_tour_shows_what_it_says(stack: Stack, tmp_path: Path) -> None:
    run(stack, tour(), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_task_is_done_as_its_page_says(stack: Stack, tmp_path: Path, page: Path) -> None:
    assert f"]({page.name})" in INDEX.read_text(), f"{page.name} is not in the list of tasks"
    run(stack, [tour()[0], *blocks_of(INDEX.read_text()), *blocks_of(page.read_text())], tmp_path)

"""docs/security.md names the tests that prove what it says: each exists, and each threat has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(tests/[a-z0-9_/]+\.py)(?:::(test_\w+))?`")


def written_in(path: str) -> set[str]:
    """The test functions of a file; none if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return set()
    nodes = ast.parse(file.read_text()).body
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in functions if name.startswith("test_")}


def missing(page: str) -> list[str]:
    """What the page names and nobody has written."""
    found = NAMED.findall(page)
    return [
        f"{path}::{name}"
        for path, name in found
        if (name or "any") not in {*written_in(path), "any"} or not written_in(path)
    ]


def rows(page: str) -> list[list[str]]:
    """The cells of the threats."""
    threats = page.partition("## Threats")[2].partition("\n## ")[0]
    lines = [
        line for line in threats.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "| ---"))
    ]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_test_that_is_named_exists() -> None:
    page = PAGE.read_text()
    assert len(NAMED.findall(page)) > 50
    assert missing(page) == []


def test_every_threat_has_its_test() -> None:
    found = rows(PAGE.read_text())
    assert len(found) > 25
    assert [cells[0] for cells in found if len(cells) != 3 or not NAMED.search(cells[2])] == []


@pytest.mark.parametrize(
    "named", ["`tests/test_nothing.py`", "`tests/test_security.py::test_nothing`", "`tests/conftest.py`"]
)
def test_one_that_is_missing_is_noticed(named: str) -> None:
    assert len(missing(f"| a threat | a guard | {named} |")) == 1


def test_every_link_of_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []

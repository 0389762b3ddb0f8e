"""The arrows between the rooms hold, and each rule about them can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("api", "workers", "domain", "tasks", "infrastructure", "cli")
# What the domain may import besides itself and the standard library.
DOMAIN_PARTS = {"msgspec"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def broken(run: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the contracts that a run found broken."""
    return {line.removesuffix(" BROKEN") for line in run.stdout.splitlines() if line.endswith(" BROKEN")}


def test_every_arrow_points_down() -> None:
    run = lint(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms' sources in another folder, to be spoilt."""
    folder = tmp_path_factory.mktemp("architecture")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def spoil(copy: Path) -> Iterator[object]:
    """Adds an import to a module of the copy, and takes it back at the end."""
    originals: dict[Path, str] = {}

    def add(module: str, imported: str) -> None:
        path = copy / (module.replace(".", "/") + ".py")
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        originals.setdefault(path, path.read_text())
        path.write_text(f"{path.read_text()}\nimport {imported}\n")

    yield add
    for path, text in originals.items():
        path.write_text(text)


WORK = "The work: from the queue down to the domain"
WAY_IN = "The way in: from HTTP down to the doorbell"
ACCEPTS = "What accepts work never imports what does it"
WORKERS = "Workers know neither the queue nor HTTP"
TASKS = "Tasks do not know HTTP"


@pytest.mark.parametrize(
    ("module", "imported", "contracts"),
    [
        ("domain.money", "infrastructure.settings", {WORK, WAY_IN}),
        ("infrastructure.postgres", "workers.turn", {WORK}),
        ("infrastructure.postgres", "tasks.app", {WAY_IN}),
        ("workers.turn", "tasks.turns", {WORK, WORKERS}),
        ("workers.turn", "tasks.doorbell", {WORKERS}),
        ("workers.turn", "api", {WORKERS}),
        ("tasks.turns", "cli.main", {WORK, TASKS}),
        ("tasks.turns", "api", {TASKS}),
        ("tasks.app", "tasks.doorbell", {WAY_IN}),
        ("tasks.app", "workers.turn", {ACCEPTS}),
        ("api", "workers.turn", {ACCEPTS}),
        ("api", "tasks.turns", {ACCEPTS}),
        ("api", "cli.main", {WAY_IN}),
    ],
)
def test_a_forbidden_import_is_found(
    copy: Path, spoil: object, module: str, imported: str, contracts: set[str]
) -> None:
    assert callable(spoil)
    spoil(module, imported)
    assert broken(lint(copy)) >= contracts


def imports(source: str) -> set[str]:
    """The top-level packages that a module's source imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("domain" if node.level else (node.module or "").partition(".")[0])
    return found


def strangers(source: str) -> set[str]:
    """What a module of the domain imports and may not."""
    return imports(source) - set(sys.stdlib_module_names) - DOMAIN_PARTS - {"domain"}


def test_the_domain_imports_only_the_standard_library_and_msgspec() -> None:
    found = {str(path): strangers(path.read_text()) for path in (ROOT / "domain").rglob("*.py")}
    assert found
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source", ["import asyncpg", "def f():\n    from redis.asyncio import Redis", "from infrastructure import settings"]
)
def test_a_stranger_in_the_domain_is_found(source: str) -> None:
    assert strangers(source)

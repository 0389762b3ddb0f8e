"""SQL is the program's own text: what is run has a name in capitals, made of such names alone; all else is an argument.

Stricter than bandit's guess at strings that look like SQL (B608), which pyproject.toml therefore leaves out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("api", "cli", "domain", "infrastructure", "tasks", "workers")
RUNS_SQL = {"fetch", "fetchrow", "fetchval", "execute", "executemany", "cursor", "prepare"}
LOOKS_LIKE_SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|WHERE|FROM|VALUES)\b")


def is_constant(text: ast.expr) -> bool:
    """Whether the text was there before any request: a literal, a name in capitals, or a choice among such."""
    match text:
        case ast.Constant():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
        case ast.IfExp(body=first, orelse=second):
            return is_constant(first) and is_constant(second)
        case ast.JoinedStr(values=parts):
            return all(is_constant(part) for part in parts)
        case ast.FormattedValue(value=value):
            return is_constant(value)
        case ast.Call(func=ast.Attribute(value=value, attr="format"), args=args, keywords=named):
            return is_constant(value) and all(is_constant(arg) for arg in (*args, *(one.value for one in named)))
        case _:
            return False


def complaints(tree: ast.Module) -> Iterator[int]:
    """Lines that run, or put together, SQL from anything else."""
    makers = made_on_import(tree)
    for function, node in walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RUNS_SQL:
            if node.args and not (is_constant(node.args[0]) or is_chosen(node.args[0], function, tree)):
                yield node.lineno
        elif isinstance(node, ast.JoinedStr):
            written = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
            if LOOKS_LIKE_SQL.search(written) and not is_constant(node) and getattr(function, "name", "") not in makers:
                yield node.lineno


def walk(node: ast.AST, function: ast.AST | None = None) -> Iterator[tuple[ast.AST | None, ast.AST]]:
    """Every node with the innermost function around it."""
    for child in ast.iter_child_nodes(node):
        yield function, child
        inner = child if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from walk(child, inner)


def is_chosen(text: ast.expr, function: ast.AST | None, tree: ast.Module) -> bool:
    """Whether it is a variable that only holds constants: the function sets it so, or loops over a list of them."""
    if not isinstance(text, ast.Name) or function is None:
        return False
    values: list[ast.expr] = []
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=text.id)], value=value):
                values.append(value)
            case ast.For(target=ast.Tuple(elts=[ast.Name(id=text.id), *_]), iter=ast.Call(func=ast.Name(id=called))):
                values += listed(tree, called)
    return bool(values) and all(is_constant(value) for value in values)


def listed(tree: ast.Module, called: str) -> list[ast.expr]:
    """The first members of the tuples in the lists that a function of the module answers."""
    return [
        one.elts[0] if isinstance(one, ast.Tuple) else one
        for _, function in walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == called
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.List)
        for one in node.value.elts
    ]


def made_on_import(tree: ast.Module) -> set[str]:
    """Functions that are called while the module is imported and by nobody later, but for each other."""
    calls = [
        (getattr(function, "name", None), node.func.id)
        for function, node in walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    makers = {called for caller, called in calls if caller is None and called.startswith("_")}
    makers |= {called for caller, called in calls if caller in makers and called.startswith("_")}
    return makers - {called for caller, called in calls if caller is not None and caller not in makers}


def test_sql_is_never_made_of_what_a_request_says() -> None:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 80
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in complaints(ast.parse(file.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "async def f(db, name):\n    await db.fetch(f'SELECT * FROM users WHERE name = {name}')",
        "async def f(db, name):\n    await db.fetch('SELECT * FROM users WHERE name = ' + name)",
        "async def f(db, name):\n    await db.execute('DELETE FROM %s' % name)",
        "async def f(db, name):\n    statement = FIND\n    statement = FIND + name\n    await db.execute(statement)",
        "async def f(db, statement):\n    await db.execute(statement)",
        "async def f(db, name):\n    await db.fetchval(FIND.format(name))",
        "def _made(name):\n    return f'SELECT {name} FROM users'\ndef f(name):\n    return _made(name)",
        "def f(name):\n    return f'WHERE name = {name}'",
    ],
)
def test_each_way_to_break_it_is_found(code: str) -> None:
    assert list(complaints(ast.parse(code))) != []


@pytest.mark.parametrize(
    "code",
    [
        "A = 'x'\nFIND = f'SELECT {A} FROM users'\nasync def f(db, name):\n    await db.fetch(FIND, name)",
        "async def f(db, old, name):\n    await db.fetch(OLD if old else NEW, name)",
        "def _made(name):\n    return f'SELECT {name} FROM users'\nFIND = _made('name')",
    ],
)
def test_what_is_right_is_left_alone(code: str) -> None:
    assert list(complaints(ast.parse(code))) == []

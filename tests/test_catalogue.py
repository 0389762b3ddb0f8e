"""Nothing is half added: every command has its handler and its route, every event its applier, every code its page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from domain import catalog
from domain.errors import CATALOGUE
from domain.ledger.commands import LedgerCommand
from domain.ledger.templates import Template
from domain.messages import Command, Event

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("api", "workers", "domain", "tasks", "infrastructure", "cli")


def subclasses(base: type) -> set[type]:
    return {found for direct in base.__subclasses__() for found in {direct, *subclasses(direct)}}


def of_the_domain(classes: set[type]) -> set[type]:
    """Without those that tests or plug-ins made."""
    return {found for found in classes if found.__module__.startswith("domain.")}


def test_every_command_has_one_kind_and_a_handler() -> None:
    # what a schedule repeats is written as one, but is none
    commands = of_the_domain(subclasses(Command)) - {LedgerCommand, *get_args(Template)}
    assert commands == set(catalog.KINDS.values()) == catalog.HANDLERS.keys() == catalog.KIND_OF.keys()
    assert len(catalog.KINDS) == len(commands)


def test_every_event_has_an_applier_and_a_name_of_its_own() -> None:
    events = of_the_domain(subclasses(Event))
    assert events == catalog.APPLIERS.keys() == set(catalog.EVENTS.values())
    assert len(catalog.EVENTS) == len(events)


UNASKED = {"expire_transaction"}
"""What only the service itself asks for."""


@pytest.mark.parametrize("kind", sorted(catalog.KINDS.keys() - UNASKED))
def test_every_kind_has_a_route(kind: str) -> None:
    """Whoever adds a command adds a Form for it, next to its route, whose function is named as the kind is."""
    found = [
        path.name
        for path in (ROOT / "api").glob("*.py")
        for call in calls(path)
        if name_of(call) == "Form" and ast.unparse(call.args[0]) == catalog.KINDS[kind].__name__
    ]
    assert len(found) == 1
    source = ast.parse((ROOT / "api" / found[0]).read_text())
    methods = [
        name_of(call)
        for function in ast.walk(source)
        if isinstance(function, ast.AsyncFunctionDef) and function.name == kind
        for call in function.decorator_list
        if isinstance(call, ast.Call) and "command=True" in map(ast.unparse, call.keywords)
    ]
    assert len(methods) == 1
    assert methods[0] in ("post", "put", "patch", "delete")


# -- codes ------------------------------------------------------------------------------------------------------------

MAKES_A_PROBLEM = {
    "DomainError",
    "AuthError",
    "ValidationError",
    "InfrastructureError",
    "Refusal",
    "_refusal",
    "_at",
}
CODE = re.compile("[a-z]+(_[a-z]+)*")


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def codes_in(path: Path) -> set[str]:
    """The codes that a module's problems are made with. Details are sentences and pointers begin with `#`."""
    return {
        value.value
        for call in calls(path)
        if name_of(call) in MAKES_A_PROBLEM
        for value in [*call.args, *[keyword.value for keyword in call.keywords]]
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and CODE.fullmatch(value.value)
    }


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    raised = {code for room in ROOMS for path in (ROOT / room).rglob("*.py") for code in codes_in(path)}
    assert {"insufficient_funds", "forbidden", "command_failed"} <= raised
    assert raised <= CATALOGUE.keys()


def test_a_code_of_nobodys_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("raise errors.DomainError('never_heard_of', 'A sentence.', (Fault('#/here', 'what'),))")
    assert codes_in(module) == {"never_heard_of"}


@pytest.mark.parametrize("code", CATALOGUE)
def test_the_catalogue_is_fit_to_be_read(code: str) -> None:
    problem = CATALOGUE[code]
    assert CODE.fullmatch(code)
    assert 400 <= problem.status < 600
    assert problem.title[0].isupper()
    assert problem.advice.endswith(".")

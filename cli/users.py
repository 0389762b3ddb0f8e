"""`daybook users`: who can log in."""

from __future__ import annotations

import asyncio
import getpass
import secrets
import sys
from typing import Annotated

from cyclopts import App, Parameter

from cli import surroundings
from cli.registration import CONNECTIONS, register
from domain.errors import DomainError
from domain.identity.commands import Role
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings

app = App(name="users", help="Who can log in.")


@app.command
def add(
    name: str,
    *,
    role: Annotated[list[Role] | None, Parameter(negative=())] = None,
    generate: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Add a user. The password is asked for, or read as one line from standard input.

    Parameters
    ----------
    name
        What the user logs in as.
    role
        May be repeated: admin (everything), operator (jobs and metrics), user (the default).
    generate
        Make up a password and print it.
    """
    password = secrets.token_urlsafe(18) if generate else _ask()
    try:
        asyncio.run(_add(surroundings.load(), name, password, list(dict.fromkeys(role or ["user"]))))
    except DomainError as error:
        sys.exit(error.detail)
    print(f"Added {name}." + (f" The password is {password}" if generate else ""))


def _ask() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\n")


async def _add(chosen: Settings, name: str, password: str, roles: list[Role]) -> None:
    async with await open_pool(chosen, application="users", size=CONNECTIONS) as pool:
        await register(chosen, pool, name, password, roles)

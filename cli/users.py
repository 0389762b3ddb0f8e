"""`daybook users`: who can log in."""

from __future__ import annotations

import asyncio
import getpass
import secrets
import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from infrastructure import settings
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings
from infrastructure.users import UsernameTaken, add_user

app = App(name="users", help="Who can log in.")


@app.command
def add(
    name: str,
    *,
    role: Annotated[list[Literal["admin", "operator", "user"]] | None, Parameter(negative=())] = None,
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
    if not password:
        sys.exit("A user needs a password.")
    try:
        asyncio.run(_add(settings.load(), name, password, list(role or ["user"])))
    except UsernameTaken:
        sys.exit(f"There is a user {name} already.")
    print(f"Added {name}." + (f" The password is {password}" if generate else ""))


def _ask() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\n")


async def _add(chosen: Settings, name: str, password: str, roles: list[str]) -> None:
    async with await open_pool(chosen, application="users", size=1) as pool:
        await add_user(pool, name, password, roles)

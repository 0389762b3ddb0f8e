"""Who uses the session's running product."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Client, added_user, logged_in
from tests.stack import Stack


@pytest.fixture(scope="session")
def admin(stack: Stack) -> Iterator[Client]:
    """The first user."""
    with logged_in(stack, stack.connection["username"], stack.connection["password"]) as client:
        yield client


@pytest.fixture(scope="session")
def ada(stack: Stack) -> Iterator[Client]:
    """A user, who owns what these tests make."""
    with added_user(stack) as client:
        yield client


@pytest.fixture(scope="session")
def eve(stack: Stack) -> Iterator[Client]:
    """A user to whom nothing was granted."""
    with added_user(stack) as client:
        yield client


@pytest.fixture(scope="session")
def olga(stack: Stack) -> Iterator[Client]:
    """An operator."""
    with added_user(stack, "--role", "operator") as client:
        yield client

"""The running product that these tests share, and who uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import temporary_state
from tests.e2e.client import Client, added_user, logged_in
from tests.stack import Stack, running_stack


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """The whole product, as `daybook up` runs it. Nothing of it may be left at the end."""
    with temporary_state() as state, running_stack(state) as running_product:
        yield running_product


@pytest.fixture(scope="package")
def admin(stack: Stack) -> Iterator[Client]:
    """The first user."""
    with logged_in(stack, stack.connection["username"], stack.connection["password"]) as client:
        yield client


@pytest.fixture(scope="package")
def ada(stack: Stack) -> Iterator[Client]:
    """A user, who owns what these tests make."""
    with added_user(stack) as client:
        yield client


@pytest.fixture(scope="package")
def eve(stack: Stack) -> Iterator[Client]:
    """A user to whom nothing was granted."""
    with added_user(stack) as client:
        yield client


@pytest.fixture(scope="package")
def olga(stack: Stack) -> Iterator[Client]:
    """An operator."""
    with added_user(stack, "--role", "operator") as client:
        yield client

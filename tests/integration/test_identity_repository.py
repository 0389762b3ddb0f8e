"""What turns of different users must see of each other: they wait where one's outcome is the other's condition."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from domain.catalog import RULES
from domain.decision import GENESIS, Head, decide
from domain.identity.commands import DisableUser, RegisterUser, UpdateUser
from domain.identity.model import User
from domain.messages import Command
from infrastructure.repositories import identity
from infrastructure.settings import Settings
from tests.books import NOON, record
from tests.journals import on_a_loop

ADD = "INSERT INTO users (id, username, roles) VALUES ($1, $1::uuid::text, $2)"
WAITS = """
SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted)
"""


async def begun(db: asyncpg.Connection[Any], user: UUID, command: Command, principal: UUID) -> tuple[User, list[Any]]:
    """A turn as far as it writes nothing: loaded and decided. The caller's transaction stays open."""
    recorded = [record(command, 1, principal)]
    state = await identity.load(db, str(user), recorded)
    decision = decide(state, Head(f"user:{user}", 1, 0, GENESIS), recorded, NOON, RULES)
    assert decision.outcomes[0].refusal is None
    return state, decision.links


async def meet(
    settings: Settings, first: tuple[UUID, Command, UUID], second: tuple[UUID, Command, UUID], waits: bool
) -> User:
    """What the second turn loads, begun while the first one has not yet committed."""
    one, other, watcher = [await asyncpg.connect(settings.database_url) for _ in range(3)]
    try:
        async with other.transaction():
            async with one.transaction():
                user, command, principal = first
                state, links = await begun(one, user, command, principal)
                who, what, asked_by = second
                loading = asyncio.create_task(identity.load(other, str(who), [record(what, 2, asked_by)]))
                if waits:
                    await until(lambda: watcher.fetchval(WAITS, other.get_server_pid()))
                    assert not loading.done()
                    await identity.save(one, state, links, NOON)
                else:
                    await loading
            return await loading
    finally:
        for db in (one, other, watcher):
            await db.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - nothing tells when it does
            await asyncio.sleep(0.01)


async def add(settings: Settings, *roles: str) -> UUID:
    user = uuid4()
    db = await asyncpg.connect(settings.database_url)
    await db.execute(ADD, user, list(roles))
    await db.close()
    return user


def named(name: str) -> RegisterUser:
    return RegisterUser(username=name, roles=("user",))


@on_a_loop
async def test_a_name_is_waited_for_whatever_its_case(shared_settings: Settings) -> None:
    admin = await add(shared_settings, "admin")
    name = f"Ada-{uuid4().hex[:8]}"
    met = await meet(shared_settings, (uuid4(), named(name), admin), (uuid4(), named(name.upper()), admin), True)
    assert met.taken == {name.lower()}


@on_a_loop
async def test_other_names_are_not_waited_for(shared_settings: Settings) -> None:
    admin = await add(shared_settings, "admin")
    first, second = (named(f"ada-{uuid4().hex[:8]}") for _ in range(2))
    met = await meet(shared_settings, (uuid4(), first, admin), (uuid4(), second, admin), False)
    assert met.taken == frozenset()


@pytest.mark.parametrize("command", [UpdateUser(roles=("user",)), DisableUser()], ids=["demoted", "disabled"])
@on_a_loop
async def test_who_else_is_administrator_is_waited_for(settings: Settings, command: Command) -> None:
    ada, bob = await add(settings, "admin"), await add(settings, "user", "admin")
    met = await meet(settings, (bob, command, ada), (ada, command, bob), True)
    assert not met.other_admins
    assert not met.is_admin(bob)
    assert met.is_admin(ada)


@on_a_loop
async def test_what_is_loaded_of_a_user(settings: Settings) -> None:
    ada, bob, eve = await add(settings, "admin"), await add(settings, "user"), await add(settings, "operator")
    db = await asyncpg.connect(settings.database_url)
    await db.execute("UPDATE users SET status = 'disabled' WHERE id = $1", eve)
    state = await identity.load(
        db, str(bob), [record(UpdateUser(roles=("user",)), n, who) for n, who in enumerate((ada, bob, eve, uuid4()))]
    )
    assert state.profile is not None
    assert (state.profile.roles, state.profile.active, state.profile.version) == (("user",), True, 0)
    assert state.others == {ada: frozenset({"admin"})}
    assert (state.taken, state.other_admins) == (frozenset(), True)
    nobody = await identity.load(db, str(uuid4()), [record(DisableUser(), 1, ada)])
    assert nobody.profile is None
    await db.close()

"""Users: what each command states, which rule refuses what, and which comes first when several do."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest

from domain.catalog import RULES
from domain.decision import GENESIS, Decision, Head, decide
from domain.errors import CATALOGUE, Fault
from domain.identity import handlers
from domain.identity.commands import ChangePassword, DisableUser, RegisterUser, Role, Roles, UpdateUser, Username
from domain.identity.events import PasswordChanged, UserDisabled, UserRegistered, UserUpdated
from domain.identity.model import Profile, User
from domain.messages import Command, Entry, Event, Refusal
from tests.books import ADA, EVE, NOBODY, NOON, record

OLGA = UUID("01890000-0000-7000-8000-0000000001ca")
"""Who the commands are about."""
NAME = "olga"


def olga(
    roles: tuple[str, ...] | None = ("user",), *, active: bool = True, taken: bool = False, other_admins: bool = True
) -> User:
    """Olga with these roles, None before she is registered. Ada is an administrator, Eve is none, others are gone."""
    profile = None if roles is None else Profile(NAME, roles, active, NOON, 1)
    others = {ADA: frozenset({"admin"}), EVE: frozenset({"user", "operator"})}
    return User(OLGA, profile, others, frozenset({NAME} if taken else ()), other_admins)


def run(user: User, *commands: Command, principal: UUID = ADA) -> Decision:
    recorded = [record(command, number, principal) for number, command in enumerate(commands, 1)]
    return decide(user, Head(f"user:{OLGA}", 1, 4, GENESIS), recorded, NOON, RULES)


def refusal(user: User, command: Command, principal: UUID = ADA) -> Refusal | None:
    (outcome,) = run(user, command, principal=principal).outcomes
    return outcome.refusal


def register(name: str = NAME, *roles: Role) -> RegisterUser:
    return RegisterUser(username=name, roles=roles or ("user",))


# -- events -----------------------------------------------------------------------------------------------------------

# These bytes are hashed, stored and published. Whoever changes them breaks every reader of journals.
GOLDEN: dict[type[Event], tuple[User, Command, str]] = {
    UserRegistered: (olga(None), register(NAME, "user", "admin"), '{"username":"olga","roles":["user","admin"]}'),
    UserUpdated: (olga(), UpdateUser(roles=("operator",)), '{"roles":["operator"]}'),
    PasswordChanged: (olga(), ChangePassword(), "{}"),
    UserDisabled: (olga(), DisableUser(), "{}"),
}


@pytest.mark.parametrize("event", handlers.APPLIERS, ids=[event.__name__ for event in handlers.APPLIERS])
def test_the_bytes_of_an_event_never_change(event: type[Event]) -> None:
    user, command, data = GOLDEN[event]
    (link,) = run(user, command).links
    assert link.event.decode() == (
        f'{{"actor":"user:{OLGA}","epoch":1,"seq":5,"id":"user:{OLGA}/1/5","type":"{event.__name__}",'
        '"recorded_at":"2026-11-22T12:00:00.000000Z","command":"01900000-0000-7000-8000-000000000001",'
        f'"correlation_id":"correlation-1","data":{data},"balances":[]}}'
    )
    raw = msgspec.json.decode(link.event, type=dict[str, msgspec.Raw])
    assert raw.keys() == {field.name for field in msgspec.structs.fields(Entry)}
    assert msgspec.json.decode(raw["data"], type=event) == link.entry.data


def test_a_life_in_events() -> None:
    user = olga(None)
    decision = run(user, register(), UpdateUser(roles=("user", "operator")), ChangePassword(), DisableUser())
    assert [outcome.seq for outcome in decision.outcomes] == [5, 6, 7, 8]
    assert user.profile == Profile(NAME, ("user", "operator"), False, NOON, 8)
    assert user.snapshots([]) == ()


def test_what_is_so_already_makes_no_event() -> None:
    user = olga(("user", "operator"), active=False)
    decision = run(user, UpdateUser(roles=("user", "operator")), DisableUser())
    assert decision.links == []
    assert [(outcome.seq, outcome.refusal) for outcome in decision.outcomes] == [(4, None)] * 2
    assert user.profile is not None
    assert user.profile.version == 1


# -- who may ----------------------------------------------------------------------------------------------------------

NOT_HERE = Refusal("not_found", f"There is no user {OLGA}.")
ABOUT_HER: tuple[Command, ...] = (UpdateUser(roles=("user",)), ChangePassword(), DisableUser())


@pytest.mark.parametrize("command", ABOUT_HER, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("principal", [EVE, NOBODY])
def test_others_find_nobody(command: Command, principal: UUID) -> None:
    assert refusal(olga(), command, principal) == NOT_HERE


@pytest.mark.parametrize("command", ABOUT_HER, ids=lambda command: type(command).__name__)
def test_nobody_is_found_before_registration(command: Command) -> None:
    assert refusal(olga(None), command) == NOT_HERE
    assert refusal(olga(None), command, OLGA) == NOT_HERE


def test_only_administrators_register() -> None:
    said = Refusal("not_found", "Whoever asked for this user is no administrator any more.")
    assert refusal(olga(None), register(), EVE) == said
    assert refusal(olga(None), register(), NOBODY) == said
    assert refusal(olga(None), register(), ADA) is None
    # the command line, which asks nobody
    assert refusal(olga(None), register(), OLGA) is None


@pytest.mark.parametrize(
    ("roles", "active", "may"),
    [
        (("user",), True, {"ChangePassword"}),
        (("operator",), True, {"ChangePassword"}),
        (("user", "admin"), True, {"ChangePassword", "UpdateUser", "DisableUser"}),
        (("user", "admin"), False, set()),
    ],
)
def test_what_one_may_do_oneself(roles: tuple[str, ...], active: bool, may: set[str]) -> None:
    done = {
        type(command).__name__ for command in ABOUT_HER if refusal(olga(roles, active=active), command, OLGA) is None
    }
    assert done == may


def test_administrators_may_change_who_is_disabled() -> None:
    for command in ABOUT_HER:
        assert refusal(olga(active=False), command) is None


# -- names, and the last administrator --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["olga", "Olga", "OLGA"])
def test_a_name_is_taken_in_whatever_case(name: str) -> None:
    assert refusal(olga(None, taken=True), register(name)) == Refusal(
        "username_taken", f"There is a user {name} already.", (Fault("#/username", name),)
    )


LEAVING: tuple[Command, ...] = (UpdateUser(roles=("user", "operator")), DisableUser())


@pytest.mark.parametrize("command", LEAVING, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("principal", [OLGA, ADA])
def test_the_last_administrator_stays(command: Command, principal: UUID) -> None:
    # that Ada is one is of no use: what counts is read under the lock
    said = Refusal("precondition_failed", f"{OLGA} is the last administrator: make somebody else one first.")
    assert refusal(olga(("admin",), other_admins=False), command, principal) == said
    assert refusal(olga(("admin",)), command, principal) is None
    # who is none, or none any more, is not missed
    assert refusal(olga(("user",), other_admins=False), command) is None
    assert refusal(olga(("admin",), active=False, other_admins=False), command) is None


def test_the_last_administrator_may_have_other_roles_beside() -> None:
    user = olga(("admin",), other_admins=False)
    assert refusal(user, UpdateUser(roles=("operator", "admin")), OLGA) is None
    assert refusal(user, ChangePassword(), OLGA) is None


def test_who_may_not_ask_is_not_told_what_else_is_wrong() -> None:
    """The order of the contract: `not_found`, `username_taken`, `precondition_failed`."""
    for taken, other_admins in product((True, False), repeat=2):
        for principal in (EVE, NOBODY):
            broken = olga(("admin",), taken=taken, other_admins=other_admins)
            for command in (*LEAVING, register()):
                found = refusal(broken, command, principal)
                assert found is not None
                assert found.code == "not_found"
    order = list(CATALOGUE)
    assert order.index("not_found") < order.index("username_taken") < order.index("precondition_failed")


def test_a_refusal_changes_nothing() -> None:
    user = olga(("admin",), other_admins=False)
    before = msgspec.structs.replace(user)
    assert [outcome.refusal is None for outcome in run(user, *LEAVING, principal=OLGA).outcomes] == [False, False]
    assert user == before


# -- every refusal there is -------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A user, a command about them and who asks for it, and how that is refused."""

    user: User
    command: Command
    principal: UUID
    refusal: Refusal


NO_ADMIN = Refusal("not_found", "Whoever asked for this user is no administrator any more.")
LAST = Refusal("precondition_failed", f"{OLGA} is the last administrator: make somebody else one first.")
TAKEN = Refusal("username_taken", f"There is a user {NAME} already.", (Fault("#/username", NAME),))
LAST_ADMIN = olga(("admin",), other_admins=False)
REFUSALS = {
    "a user registered by who is no administrator": Row(olga(None), register(), EVE, NO_ADMIN),
    "a user registered by nobody": Row(olga(None), register(), NOBODY, NO_ADMIN),
    "a name that is taken": Row(olga(None, taken=True), register(), ADA, TAKEN),
    "roles by who is no administrator": Row(olga(), UpdateUser(roles=("admin",)), EVE, NOT_HERE),
    "roles by oneself": Row(olga(), UpdateUser(roles=("admin",)), OLGA, NOT_HERE),
    "roles of nobody": Row(olga(None), UpdateUser(roles=("admin",)), ADA, NOT_HERE),
    "roles of the last administrator": Row(LAST_ADMIN, UpdateUser(roles=("user",)), ADA, LAST),
    "a password by who is no administrator": Row(olga(), ChangePassword(), EVE, NOT_HERE),
    "a password by oneself, disabled": Row(olga(active=False), ChangePassword(), OLGA, NOT_HERE),
    "a password of nobody": Row(olga(None), ChangePassword(), ADA, NOT_HERE),
    "disabled by who is no administrator": Row(olga(), DisableUser(), EVE, NOT_HERE),
    "disabled by oneself": Row(olga(), DisableUser(), OLGA, NOT_HERE),
    "nobody disabled": Row(olga(None), DisableUser(), ADA, NOT_HERE),
    "the last administrator disabled": Row(LAST_ADMIN, DisableUser(), OLGA, LAST),
}


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(row: Row) -> None:
    before = msgspec.structs.replace(row.user)
    decision = run(row.user, row.command, principal=row.principal)
    assert [(outcome.seq, outcome.refusal) for outcome in decision.outcomes] == [(None, row.refusal)]
    assert (row.user, decision.links) == (before, [])


# -- what a request's values may look like ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "ada", "Ada", "ada.l@example.com", "a-b_c+d", "A" * 64])
def test_names_to_log_in_with(name: str) -> None:
    assert msgspec.convert(name, Username) == name


NO_NAMES = (
    *("", "a" * 65, "a b", " a", "a ", "a\n", "\na", ".a", "-a", "@a", "a/b", "a:b", "a,b", "a;b", "<a>", "a\\b"),
    *("é", "аda", "ada\u200b", "\u202ea", "ada\0", "a%00", "ａ", "1٣", "a'b", 'a"b'),
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, Username)


@pytest.mark.parametrize("roles", [[], ["root"], ["Admin"], ["admin", None], "admin", ["admin"] * 4])
def test_what_are_no_roles(roles: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(roles, Roles)

"""Small sets of books for tests: a ledger in memory that takes commands, and random commands to give it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from domain.catalog import APPLIERS, HANDLERS, KIND_OF
from domain.currency import Currencies
from domain.decision import GENESIS, Decision, Head, Link, Outcome, Rulebook, decide
from domain.ledger.commands import (
    CreateLedger,
    GrantAccess,
    OpenAccount,
    Posting,
    PostTransaction,
    RegisterCurrency,
    RevokeAccess,
    UpdateLedger,
)
from domain.ledger.model import Account, Ledger, Member, Profile, Written
from domain.messages import Command, Recorded
from infrastructure.currencies import ISO_SCALES

ADA = UUID("01890000-0000-7000-8000-00000000ada0")
"""Owns the books."""
EVE = UUID("01890000-0000-7000-8000-00000000e4e0")
"""Was granted nothing."""
KIM = UUID("01890000-0000-7000-8000-00000000c100")
"""Somebody else to whom nothing was granted."""
DAN = UUID("01890000-0000-7000-8000-00000000da00")
"""Is disabled."""
NOBODY = UUID("01890000-0000-7000-8000-000000000000")
"""The id of no user."""
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RULES = Rulebook(HANDLERS, APPLIERS)
LARGEST = 10**38 - 1


def record(command: Command, number: int, principal: UUID = ADA) -> Recorded:
    """A command as a turn takes it from the mailbox; its number decides its id, its position and when it came."""
    return Recorded(
        UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + number),
        number,
        KIND_OF[type(command)],
        command,
        principal,
        f"correlation-{number}",
        NOON + timedelta(seconds=number),
    )


def empty_ledger(ledger_id: str = "acme") -> Ledger:
    """A ledger before its creation: the id is reserved, ADA holds the grant."""
    return Ledger(ledger_id, None, Currencies({}, ISO_SCALES), {}, set(), {**everybody(), ADA: member("owner")})


def member(grant: str | None = None, *, active: bool = True, roles: Iterable[str] = ("user",)) -> Member:
    return Member(active, frozenset(roles), grant)


def everybody() -> dict[UUID, Member]:
    """The users there are, without any grants."""
    return {ADA: member(), EVE: member(), KIM: member(), DAN: member(active=False)}


class Books:
    """A ledger that is decided run by run, with everything that came of it."""

    def __init__(self, *commands: Command) -> None:
        self.ledger = empty_ledger()
        self.head = Head("ledger:acme", 1, 0, GENESIS)
        self.links: list[Link] = []
        self._numbers = count(1)
        for outcome in self.run(*commands):
            assert outcome.refusal is None, outcome.refusal

    def run(self, *commands: Command, principal: UUID = ADA) -> list[Outcome]:
        """Decides the commands as one turn."""
        return self.decide([record(command, next(self._numbers), principal) for command in commands]).outcomes

    def decide(self, recorded: Sequence[Recorded], recorded_at: datetime = NOON) -> Decision:
        decision = decide(self.ledger, self.head, recorded, recorded_at, RULES)
        self.head = decision.head
        self.links += decision.links
        return decision

    def account(self, name: str) -> Account:
        return self.ledger.accounts[name]

    def state(self) -> tuple[object, ...]:
        """A copy of everything that rules look at, to compare with."""
        return state_of(self.ledger)


State = tuple[Profile | None, dict[str, Account], set[str], dict[str, int | None], dict[UUID, str]]


def state_of(ledger: Ledger, currencies: Iterable[str] = ()) -> State:
    """A copy of what a ledger holds, to compare with: record, accounts, references, currencies asked for, grants."""
    scales = {code: ledger.currencies.scale_of(code) for code in {*currencies, *CODES}}
    grants = {user: member.grant for user, member in ledger.members.items() if member.grant is not None}
    # how its sums were last written out is no part of an account
    accounts = {name: replace(account, written=Written()) for name, account in ledger.accounts.items()}
    return deepcopy((ledger.profile, accounts, ledger.references, scales, grants))


# -- commands in short ------------------------------------------------------------------------------------------------


def create(name: str = "Acme") -> CreateLedger:
    return CreateLedger(id="acme", name=name)


def register(code: str, scale: int) -> RegisterCurrency:
    return RegisterCurrency(code=code, scale=scale)


def open_account(
    name: str, currency: str = "USD", kind: str = "asset", least: str | None = None, most: str | None = None
) -> OpenAccount:
    return OpenAccount(name=name, currency=currency, type=kind, min_balance=least, max_balance=most)  # type: ignore[arg-type]


def post(*lines: tuple[str, str, str], reference: str | None = None) -> PostTransaction:
    """Postings as (debit, credit, amount)."""
    return PostTransaction(postings=tuple(Posting(*line) for line in lines), reference=reference)


def grant(user: UUID, role: str) -> GrantAccess:
    return GrantAccess(user=user, role=role)  # type: ignore[arg-type]


def revoke(user: UUID) -> RevokeAccess:
    return RevokeAccess(user=user)


def update(**metadata: str | None) -> UpdateLedger:
    return UpdateLedger(metadata=metadata)


def standard_books() -> Books:
    """Alice (at least zero) has 60.00 USD, Bob (at most 100.00) 90.00; the vault is one cent short of full."""
    full = f"{LARGEST // 100}.{LARGEST % 100}"
    return Books(
        create(),
        open_account("assets:bank"),
        open_account("wallets:alice", kind="liability", least="0"),
        open_account("wallets:bob", kind="liability", most="100"),
        open_account("assets:tokyo", currency="JPY"),
        open_account("assets:vault"),
        open_account("equity:vault", kind="equity"),
        post(("assets:bank", "wallets:alice", "60.00"), ("assets:bank", "wallets:bob", "90"), reference="taken"),
        post(("assets:vault", "equity:vault", full)),
    )


# -- random commands --------------------------------------------------------------------------------------------------

CODES = ("USD", "JPY", "KWD", "POINTS", "GOLD")
"""Two, none and three decimals by ISO 4217; the others are the ledger's own, if it registers them."""
_TYPES = ("asset", "expense", "liability", "equity", "income")
_NAMES = tuple(f"a:{number}" for number in range(5))


def _often(strategies: dict[SearchStrategy[Any], int]) -> SearchStrategy[Any]:
    """One of the strategies, each as often as its number says."""
    return st.sampled_from([each for each, times in strategies.items() for _ in range(times)]).flatmap(lambda one: one)


def _decimals(largest: int) -> SearchStrategy[str]:
    whole = st.integers(0, largest).map(str)
    fraction = st.sampled_from(("", "", "", ".5", ".25", ".00", ".125", ".000000000000000001"))
    return st.builds(str.__add__, whole, fraction)


_huge = st.sampled_from(("9" * 38, "9" * 36 + ".99", "5" + "0" * 35))
_amounts = _often({_decimals(120): 8, _huge: 1}).filter(lambda text: text.strip("0.") != "")
_minima = st.none() | _decimals(100).map(lambda text: f"-{text}" if text.strip("0.") else text)
_maxima = st.none() | _decimals(300)
_pairs = st.sampled_from([*permutations(_NAMES[:3], 2)] * 8 + [*permutations(_NAMES, 2)])
_postings = st.builds(lambda pair, amount: Posting(pair[0], pair[1], amount), _pairs, _amounts)
_openings = st.builds(
    OpenAccount,
    name=st.sampled_from(_NAMES),
    currency=st.sampled_from(("USD", "USD", "USD", *CODES)),
    type=st.sampled_from(_TYPES),
    min_balance=_minima,
    max_balance=_maxima,
    metadata=st.none() | st.dictionaries(st.text("ab", min_size=1, max_size=2), st.text("xé", max_size=2), max_size=2),
)
_transactions = st.builds(
    PostTransaction,
    postings=st.lists(_postings, min_size=1, max_size=3).map(tuple),
    reference=st.none() | st.sampled_from(("r-1", "r-2", "r-3")),
    description=st.none() | st.just("rent"),
)
_registrations = st.builds(RegisterCurrency, code=st.sampled_from(("POINTS", "GOLD", "USD")), scale=st.integers(0, 18))
_users = st.sampled_from((ADA, EVE, EVE, KIM, DAN, NOBODY))
_grants = st.builds(GrantAccess, user=_users, role=st.sampled_from(("owner", "writer", "reader")))
_revocations = st.builds(RevokeAccess, user=_users)
_updates = st.builds(
    UpdateLedger,
    metadata=st.dictionaries(st.sampled_from("bca"), st.none() | st.text("xé", max_size=2))
    # with what is there from the beginning these are more keys than a ledger may have
    | st.sampled_from("ab").map(lambda letter: {f"{letter}{number}": "" for number in range(30)}),
)
_commands: SearchStrategy[Command] = _often(
    {_transactions: 8, _openings: 3, _registrations: 1, _grants: 2, _revocations: 1, _updates: 1}
)

SOME_OPEN: tuple[Command, ...] = (
    # as much metadata as brings a few changes of it to the limit
    CreateLedger(id="acme", name="Acme", metadata={f"c{number}": "" for number in range(30)}),
    open_account("a:0"),
    open_account("a:1", kind="liability", least="-90"),
    open_account("a:2", kind="liability", most="90"),
    open_account("a:3", "JPY", kind="equity"),
)
"""What every random run begins with, so that many of its commands succeed."""


@st.composite
def runs(draw: st.DrawFn, most: int = 25) -> list[Recorded]:
    """Random commands in mailbox order; a few come from others than ADA, strangers at first."""
    commands = [*SOME_OPEN, *draw(st.lists(_commands, max_size=most))]
    others = draw(st.dictionaries(st.integers(len(SOME_OPEN), most + 3), st.sampled_from((EVE, KIM)), max_size=4))
    return [record(command, number, others.get(number, ADA)) for number, command in enumerate(commands)]


@st.composite
def runs_in_turns(draw: st.DrawFn, most: int = 25) -> list[list[Recorded]]:
    """The same, cut into turns at random places."""
    run = draw(runs(most))
    cuts = sorted(draw(st.sets(st.integers(1, len(run) - 1))))
    return [run[start:end] for start, end in zip([0, *cuts], [*cuts, len(run)], strict=True)]

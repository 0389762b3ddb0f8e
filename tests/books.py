"""Small sets of books for tests: a ledger in memory that takes commands, and random commands to give it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from random import Random
from uuid import UUID

from hypothesis import strategies as st
from msgspec.structs import replace

from domain.catalog import KIND_OF
from domain.catalog import RULES as RULES
from domain.currency import Currencies
from domain.decision import GENESIS, Decision, Head, Link, Outcome, decide
from domain.ledger.commands import (
    Bounds,
    CaptureTransaction,
    CloseAccount,
    ClosePeriod,
    CreateLedger,
    ExpireTransaction,
    FreezeAccount,
    GrantAccess,
    OpenAccount,
    Posting,
    PostTransaction,
    Precondition,
    RegisterCurrency,
    ReverseTransaction,
    RevokeAccess,
    UnfreezeAccount,
    UpdateAccount,
    UpdateLedger,
    UpdateTransaction,
    VoidTransaction,
)
from domain.ledger.model import SERVICE, Account, Ledger, Member, Profile, Transaction, Written
from domain.ledger.schedules import CancelSchedule, CreateSchedule, Missed, PauseSchedule, ResumeSchedule
from domain.ledger.templates import PostTransactionTemplate
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


def job(number: int) -> UUID:
    """The id of the command with this number, and of the transaction it makes."""
    return record(CreateLedger(id="acme", name="Acme"), number).id


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

    def apply(self, command: Command, principal: UUID = ADA) -> UUID:
        """Decides a command that nothing stands in the way of; its id."""
        (outcome,) = self.run(command, principal=principal)
        assert outcome.refusal is None, outcome.refusal
        return outcome.command

    def refusal(self, command: Command, principal: UUID = ADA) -> str | None:
        """Decides a command; the code it is refused with."""
        (outcome,) = self.run(command, principal=principal)
        return None if outcome.refusal is None else outcome.refusal.code

    def decide(self, recorded: Sequence[Recorded], recorded_at: datetime = NOON) -> Decision:
        # later turns may name any of them
        self.ledger.named.update(each.id for each in recorded)
        decision = decide(self.ledger, self.head, recorded, recorded_at, RULES)
        self.head = decision.head
        self.links += decision.links
        return decision

    def account(self, name: str) -> Account:
        return self.ledger.accounts[name]

    def transaction(self, transaction: UUID) -> Transaction:
        return self.ledger.transactions[transaction]

    def state(self) -> tuple[object, ...]:
        """A copy of everything that rules look at, to compare with."""
        return state_of(self.ledger)


State = tuple[
    Profile | None,
    dict[str, Account],
    set[str],
    dict[str, int | None],
    dict[UUID, str],
    dict[UUID, Transaction],
    datetime | None,
]


def state_of(ledger: Ledger, currencies: Iterable[str] = ()) -> State:
    """A copy of what a ledger holds, to compare with: record, accounts, references, currencies asked for, grants,
    transactions, the end of the last closed period."""
    scales = {code: ledger.currencies.scale_of(code) for code in {*currencies, *CODES}}
    grants = {user: member.grant for user, member in ledger.members.items() if member.grant is not None}
    # how its sums were last written out is no part of an account
    accounts = {name: replace(account, written=Written()) for name, account in ledger.accounts.items()}
    return deepcopy(
        (ledger.profile, accounts, ledger.references, scales, grants, ledger.transactions, ledger.closed_before)
    )


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


def hold(
    *lines: tuple[str, str, str], reference: str | None = None, expires_at: datetime | None = None
) -> PostTransaction:
    """The same, pending."""
    return replace(post(*lines, reference=reference), pending=True, expires_at=expires_at)


def capture(
    transaction: UUID, *amounts: str, final: bool = True, effective_at: datetime | None = None
) -> CaptureTransaction:
    """Of all that is held, or of so much of each posting."""
    return CaptureTransaction(transaction=transaction, amounts=amounts or None, final=final, effective_at=effective_at)


def capture_one(transaction: UUID, amount: str, *, final: bool = True) -> CaptureTransaction:
    """Of a transaction of one posting."""
    return CaptureTransaction(transaction=transaction, amount=amount, final=final)


def void(transaction: UUID) -> VoidTransaction:
    return VoidTransaction(transaction=transaction)


def expire(transaction: UUID) -> ExpireTransaction:
    return ExpireTransaction(transaction=transaction)


def reverse(
    transaction: UUID, *, effective_at: datetime | None = None, reference: str | None = None
) -> ReverseTransaction:
    return ReverseTransaction(transaction=transaction, effective_at=effective_at, reference=reference)


def freeze(account: str) -> FreezeAccount:
    return FreezeAccount(account=account)


def unfreeze(account: str) -> UnfreezeAccount:
    return UnfreezeAccount(account=account)


def close(account: str) -> CloseAccount:
    return CloseAccount(account=account)


def close_period(before: datetime) -> ClosePeriod:
    return ClosePeriod(before=before)


def daily(
    schedule: UUID | None = None, *, missed: Missed = "skip", starts_at: datetime | None = None
) -> CreateSchedule:
    """A cent from the bank to Alice, every day."""
    posting = Posting("assets:bank", "wallets:alice", "0.01")
    template = PostTransactionTemplate(postings=(posting,))
    return CreateSchedule(command=template, id=schedule, every="P1D", missed=missed, starts_at=starts_at)


def describe(what: str | UUID, **metadata: str | None) -> Command:
    """Metadata of an account or a transaction."""
    if isinstance(what, UUID):
        return UpdateTransaction(transaction=what, metadata=metadata)
    return UpdateAccount(account=what, metadata=metadata)


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
_PAIRS = [*permutations(_NAMES[:3], 2)] * 16 + [*permutations(_NAMES, 2)]
_YESTERDAY, _BEFORE = NOON - timedelta(days=1), NOON - timedelta(days=2)
_HUGE = ("9" * 38, "9" * 36 + ".99", "5" + "0" * 35)
_EARLIER = 8
"""How far back commands look for a transaction to name."""


class Dice(Random):
    """Draws one command. A run is a list of seeds, so that Hypothesis can leave out those that do not matter."""

    def command(self) -> Command:
        kinds = {
            self.transaction: 9,
            self.capture: 4,
            self.ending: 3,
            self.reversal: 3,
            self.opening: 3,
            self.status: 2,
            self.admission: 3,
            self.description: 2,
            self.registration: 1,
            self.closing: 1,
            self.scheduling: 1,
        }
        (kind,) = self.choices([*kinds], [*kinds.values()])
        return kind()

    def odds(self, one_in: int) -> bool:
        return self.randrange(one_in) == 0

    def decimal(self, largest: int) -> str:
        fraction = self.choice(("", "", "", ".5", ".25", ".00", ".125", ".000000000000000001"))
        return f"{self.randint(0, largest)}{fraction}"

    def amount(self) -> str:
        text = self.choice(_HUGE) if self.odds(9) else self.decimal(120)
        return text if text.strip("0.") else "1"

    def posting(self) -> Posting:
        debit, credit = self.choice(_PAIRS)
        if self.odds(10):
            return Posting(debit, credit, "available", self.choice((None, None, "1", "7.50", "100", "0.001")))
        return Posting(debit, credit, self.amount())

    def date(self) -> datetime | None:
        return self.choice((_BEFORE, _YESTERDAY, None, None, None, None))

    def reference(self) -> str | None:
        return self.choice(("r-1", "r-2", "r-3", None, None, None))

    def precondition(self) -> Precondition:
        bounds = Bounds(**{self.choice(("eq", "gte", "lte")): self.choice(("0", "1", "-5", "0.001"))})
        account = self.choice(_NAMES)
        return self.choice(
            (
                Precondition(account=account, version=self.randint(1, 15)),
                Precondition(account=account, balance=bounds),
                Precondition(account=account, available=bounds),
            )
        )

    def transaction(self) -> Command:
        return PostTransaction(
            postings=tuple(self.posting() for _ in range(self.choice((1, 1, 2, 3)))),
            reference=self.reference(),
            description="rent" if self.odds(2) else None,
            effective_at=self.date(),
            pending=self.odds(2),
            expires_at=NOON + timedelta(seconds=self.randint(0, 40)) if self.odds(2) else None,
            preconditions=(self.precondition(),) if self.odds(10) else None,
        )

    def target(self) -> UUID:
        """Which of the transactions before is meant, counted from the latest; `runs` knows its id. Zero is none."""
        return UUID(int=self.choice((1, 1, 1, 2, 2, 3, 4, 5, _EARLIER, 0)))

    def capture(self) -> Command:
        taken = [self.choice(("1", "0", "1.00", "0.5", "3", "40", "0.001")) for _ in range(2)]
        amounts = self.choice((None, None, tuple(taken[:1]), tuple(taken)))
        amount = "2" if amounts is None and self.odds(2) else None
        return CaptureTransaction(
            transaction=self.target(), amount=amount, amounts=amounts, final=self.odds(2), effective_at=self.date()
        )

    def ending(self) -> Command:
        return (
            VoidTransaction(transaction=self.target()) if self.odds(2) else ExpireTransaction(transaction=self.target())
        )

    def reversal(self) -> Command:
        if self.odds(2):
            return ReverseTransaction(transaction=self.target())
        return ReverseTransaction(transaction=self.target(), effective_at=self.date(), reference=self.reference())

    def opening(self) -> Command:
        least, most = self.decimal(100), self.decimal(300)
        return OpenAccount(
            name=self.choice(_NAMES),
            currency=self.choice(("USD", "USD", "USD", *CODES)),
            type=self.choice(_TYPES),  # type: ignore[arg-type]
            min_balance=None if self.odds(2) else f"-{least}" if least.strip("0.") else least,
            max_balance=None if self.odds(2) else most,
            metadata=None if self.odds(2) else {self.choice(("a", "b", "ab")): self.choice(("", "x", "é"))},
        )

    def status(self) -> Command:
        kind = self.choice((FreezeAccount, CloseAccount, UnfreezeAccount))
        return kind(account=self.choice(("a:3", "a:3", "a:4", "a:2", "a:1")))

    def admission(self) -> Command:
        user = self.choice((ADA, EVE, EVE, KIM, DAN, NOBODY))
        if self.odds(3):
            return RevokeAccess(user=user)
        return GrantAccess(user=user, role=self.choice(("owner", "writer", "reader")))

    def description(self) -> Command:
        changes = {key: self.choice((None, "", "x", "é")) for key in "bca" if self.odds(2)}
        # with what is there from the beginning these are more keys than a ledger may have
        many: dict[str, str | None] = {f"{self.choice('ab')}{number}": "" for number in range(30)}
        return self.choice(
            (
                UpdateLedger(metadata=changes),
                UpdateLedger(metadata=many),
                UpdateAccount(account=self.choice(_NAMES), metadata=changes),
                UpdateTransaction(transaction=self.target(), metadata=changes),
            )
        )

    def registration(self) -> Command:
        return RegisterCurrency(code=self.choice(("POINTS", "GOLD", "USD")), scale=self.randint(0, 18))

    def closing(self) -> Command:
        return ClosePeriod(before=self.choice((NOON, _YESTERDAY, _BEFORE)))

    def scheduling(self) -> Command:
        schedule = self.choice((ADA, EVE))
        if self.odds(2):
            return daily(schedule)
        return self.choice((PauseSchedule, ResumeSchedule, CancelSchedule))(schedule=schedule)


SOME_OPEN: tuple[Command, ...] = (
    # as much metadata as brings a few changes of it to the limit
    CreateLedger(id="acme", name="Acme", metadata={f"c{number}": "" for number in range(30)}),
    open_account("a:0"),
    open_account("a:1", kind="liability", least="-90"),
    open_account("a:2", kind="liability", most="90"),
    open_account("a:3", "JPY", kind="equity"),
    post(("a:0", "a:1", "50"), ("a:0", "a:2", "20")),
    hold(("a:1", "a:0", "30"), ("a:0", "a:2", "10"), expires_at=NOON + timedelta(seconds=14)),
    daily(ADA),
    PauseSchedule(schedule=ADA),
)
"""What every random run begins with, so that many of its commands succeed."""


@st.composite
def runs(draw: st.DrawFn, most: int = 25) -> list[Recorded]:
    """Random commands in mailbox order; a few come from others than ADA, strangers at first."""
    return run_of(draw(st.lists(st.integers(0, 2**32), min_size=most // 3, max_size=most)))


def run_of(seeds: Sequence[int]) -> list[Recorded]:
    """What is in `SOME_OPEN`, then one command for each seed."""
    made: list[UUID] = []
    run = []
    for number, command in enumerate([*SOME_OPEN, *(Dice(seed).command() for seed in seeds)]):
        other = number >= len(SOME_OPEN) and seeds[number - len(SOME_OPEN)] % 8 == 0
        who = SERVICE if isinstance(command, ExpireTransaction) else (EVE, KIM)[number % 2] if other else ADA
        run.append(record(_aimed(command, made), number, who))
        if isinstance(command, PostTransaction | ReverseTransaction):
            made.append(run[-1].id)
    return run


def _aimed(command: Command, made: Sequence[UUID]) -> Command:
    """The command, at one of the transactions that others before were to make."""
    if not isinstance(
        command, CaptureTransaction | VoidTransaction | ExpireTransaction | ReverseTransaction | UpdateTransaction
    ):
        return command
    back = command.transaction.int
    return replace(command, transaction=made[-min(back, len(made))] if back else NOBODY)


@st.composite
def runs_in_turns(draw: st.DrawFn, most: int = 25) -> list[list[Recorded]]:
    """The same, cut into turns at random places."""
    run = draw(runs(most))
    cuts = sorted(draw(st.sets(st.integers(1, len(run) - 1))))
    return [run[start:end] for start, end in zip([0, *cuts], [*cuts, len(run)], strict=True)]

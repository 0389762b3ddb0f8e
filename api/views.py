"""GET routes of what ledgers hold: a path and a query become a `Query`, its answer a response, or 304.

Parameters are checked in the contract's order: a cursor that can't be read is 400, then 404 without a grant, then 422
for everything else, an unknown parameter included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath

from api.access import require
from api.context import services_of
from api.cursors import Position, read_cursor
from api.decoding import invalid, query_of
from api.edge import edge_of, principal_of
from api.jobs import id_of
from api.ledgers import admit
from api.moments import AsOf
from api.problems import MEDIA_TYPE, problem_bytes, status_of
from api.queries import (
    Answer,
    GetAccount,
    GetBalances,
    GetLedger,
    GetSchedule,
    GetStatement,
    GetTransaction,
    GetTrialBalance,
    LedgerQuery,
    ListAccounts,
    ListCurrencies,
    ListGrants,
    ListLedgers,
    ListPeriods,
    ListSchedules,
    ListTransactions,
    ReadJournal,
    RefusedTransaction,
    view_answer,
)
from domain.clock import in_utc, is_rfc3339
from domain.errors import Fault, NotFoundError
from domain.ledger.commands import AccountName, CurrencyCode
from infrastructure.grants import grant_key
from infrastructure.principals import KeyPrincipal
from infrastructure.projections import NEWEST, TransactionFilter
from infrastructure.read_models import (
    AccountAtView,
    AccountsAtView,
    AccountView,
    BalancesView,
    CurrencyView,
    GrantView,
    JournalLine,
    LedgerView,
    ListView,
    PeriodView,
    StatementView,
    TransactionView,
    TrialBalanceView,
)
from infrastructure.schedules import ScheduleView

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

AnyRequest = Request[Any, Any, Any]

ITEMS: Final = 100
MOST_ITEMS: Final = 1_000
AS_OF: Final = ("effective_at", "recorded_at", "seq")
"""Parameters that ask for what was."""

_TAG: Final = re.compile(rb'(?:W/)?"([^"]*)"|(\*)')


# -- responses --------------------------------------------------------------------------------------------------------


class Reply:
    """A response of stored bytes, as small as an ASGI response can be."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def reply(answer: Answer, if_none_match: bytes | None) -> Reply:
    """The answer, or 304 when the client has that version already."""
    body, version = answer.body, answer.version
    if version is None:
        return Reply(200, [(b"content-type", answer.media_type), (b"content-length", b"%d" % len(body))], body)
    tag = (b"etag", b'"%b"' % version)
    if if_none_match is not None and names(if_none_match, version):
        return Reply(304, [tag], b"")
    return Reply(200, [(b"content-type", answer.media_type), (b"content-length", b"%d" % len(body)), tag], body)


def names(if_none_match: bytes, version: bytes) -> bool:
    """Whether If-None-Match names the version: `*`, or a list of tags, weak ones included."""
    return any(tag == version or star for tag, star in _TAG.findall(if_none_match))


class Hits:
    """What stands directly in front of the router: a GET whose answer came with the layers' trip to Redis ends here.

    That is the same answer as the route's own, which has put it there, without the cost of routing to it. Anything
    unusual (a `min_version`, a grant that Redis did not have) takes the way through the route.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = found_early(scope) or self._app
        await app(scope, receive, send)


def found_early(scope: Scope) -> Reply | None:
    """The reply to a request that the cache answers."""
    edge = scope["state"]["edge"]
    cached, principal, target = edge.cached, edge.principal, edge.target
    if cached is None or principal is None or edge.grant is None or b"min_version" in scope["query_string"]:
        return None
    if edge.grant_key != grant_key(target.ledger, principal.user_id, principal.is_admin):
        return None
    if not (principal.has("ledger:read") and principal.reaches(target.ledger)):
        return None
    if target.view:
        answer = view_answer(cached)
    elif edge.ledger_seq is not None:
        answer = Answer(cached, edge.ledger_seq.encode())
    else:
        return None
    scope["path_template"] = _template(target.view, target.tail)
    return reply(answer, edge.headers.get(b"if-none-match"))


def _template(view: str, tail: str) -> str:
    """The route that has put something into the cache."""
    if view:
        return ACCOUNT if view.split(":", 3)[2] == "account" else TRANSACTION
    rest = tail.partition("?")[0].split("/", 4)
    if len(rest) < 5:
        return LEDGER
    return ACCOUNT if rest[4].startswith("accounts/") else f"{LEDGER}/{rest[4]}"


# -- parameters -------------------------------------------------------------------------------------------------------


def _whole(low: int, high: int, says: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
            raise ValueError(says)
        return int(text)

    return parse


def _typed(kind: Any, says: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return msgspec.convert(text, kind)
        except msgspec.ValidationError:
            raise ValueError(says) from None

    return parse


def _text(most: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not len(text) <= most or "\0" in text:
            raise ValueError(f"must be at most {most} characters, and not NUL")
        return text

    return parse


_STATUSES: Final = ("posted", "pending", "captured", "voided", "expired")
_DATETIME: Final = _typed(Annotated[datetime, msgspec.Meta(tz=True)], "must be an RFC 3339 time with its offset")


def _moment(text: str) -> datetime:
    return in_utc(_DATETIME(text if is_rfc3339(text) else ""))


_VERSION: Final = _whole(0, NEWEST, "must be a whole number, not negative")

PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "limit": _whole(1, MOST_ITEMS, f"must be a whole number from 1 to {MOST_ITEMS}"),
    "min_version": _VERSION,
    "after": _VERSION,
    "prefix": _text(519),
    "reference": _text(255),
    "currency": _typed(CurrencyCode, "must be 3 to 16 of A-Z and 0-9, and start with a letter"),
    "account": _typed(AccountName, "must be 1 to 8 segments of [a-z0-9_.-]{1,64} joined by ':'"),
    "status": _typed(Literal[_STATUSES], f"must be one of {', '.join(_STATUSES)}"),
    "from": _moment,
    "to": _moment,
    "effective_at": _moment,
    "recorded_at": _moment,
    "seq": _VERSION,
}


class Parameters:
    """The query string of a list: its cursor read at once, the rest when `values` is called.

    Where something is asked as of some time, or `pinned`, the cursor has a seq behind all else.
    """

    def __init__(
        self, request: AnyRequest, *allowed: str, cursor: tuple[type, ...] | None = None, pinned: bool = False
    ) -> None:
        self._pairs = query_of(request)
        if cursor is not None and (pinned or any(name in AS_OF for name, _ in self._pairs)):
            cursor = (*cursor, int)
        self._allowed = {"min_version", *allowed, *(("cursor", "limit") if cursor is not None else ())}
        self.digest: Final = _digest(request.scope["path"], self._pairs)
        texts = [text for name, text in self._pairs if name == "cursor"]
        self.after: Final[Position | None] = read_cursor(texts[0], self.digest, cursor) if texts and cursor else None

    def values(self) -> dict[str, Any]:
        """Every parameter that was given, parsed. Raises ValidationError (422) naming all that are wrong."""
        values: dict[str, Any] = {}
        faults: list[Fault] = []
        for name, text in self._pairs:
            try:
                if name in values:
                    raise ValueError("is given more than once")
                values[name] = self._parsed(name, text)
            except ValueError as error:
                faults.append(Fault(f"#/{name}", str(error)))
        if faults:
            raise invalid(faults)
        values.pop("cursor", None)
        return values

    def _parsed(self, name: str, text: str) -> Any:
        if name not in self._allowed:
            raise ValueError("is no parameter of this address")
        return text if name == "cursor" else PARSERS[name](text)


def _digest(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """What binds a cursor to its query: everything but the page's size and place."""
    bound = sorted(pair for pair in pairs if pair[0] not in ("cursor", "limit", "min_version"))
    return blake2b(msgspec.json.encode((path.rstrip("/"), bound)), digest_size=6).hexdigest()


def _found(request: AnyRequest) -> dict[str, Any]:
    """What the layers know of the cache, for the query."""
    edge = edge_of(request)
    target = edge.target
    return {"key": target.view, "tail": target.tail, "cached": edge.cached, "seen": edge.ledger_seq}


async def _ask(request: AnyRequest, query: LedgerQuery | ListLedgers) -> Reply:
    answer = await services_of(request).queries.ask(query)
    return reply(answer, edge_of(request).headers.get(b"if-none-match"))


async def _thing(request: AnyRequest, ledger: str, *allowed: str) -> dict[str, Any]:
    """Checks a request for a single thing; answers what its query needs beside the thing's name."""
    await admit(request, ledger, "reader")
    if not request.scope["query_string"]:
        return {"ledger": ledger, **_found(request)}
    return {"ledger": ledger, **Parameters(request, *allowed).values(), **_found(request)}


async def _page(
    request: AnyRequest, ledger: str, *allowed: str, cursor: tuple[type, ...], pinned: bool = False
) -> dict[str, Any]:
    """The same for a list."""
    parameters = Parameters(request, *allowed, cursor=cursor, pinned=pinned)
    await admit(request, ledger, "reader")
    values = {"limit": ITEMS, **parameters.values()}
    return {"ledger": ledger, "after": parameters.after, "digest": parameters.digest, **values, **_found(request)}


def _timed(found: dict[str, Any]) -> dict[str, Any]:
    """The same with the parameters that ask for what was as one. What is to be repeated must have been recorded."""
    at = AsOf(**{name: found.pop(name, None) for name in AS_OF})
    return {**found, "at": at, "min_version": max(found.get("min_version", 0), at.seq or 0)}


# -- routes -----------------------------------------------------------------------------------------------------------

LEDGERS: Final = "/v1/ledgers"
LEDGER: Final = f"{LEDGERS}/{{ledger:str}}"
ACCOUNT: Final = f"{LEDGER}/accounts/{{account:str}}"
TRANSACTION: Final = f"{LEDGER}/transactions/{{transaction:str}}"


_ONE: Final = ("min_version",)
_LIST: Final = (*_ONE, "limit", "cursor")


def _spec(view: Any) -> dict[int, ResponseSpec]:
    return {200: ResponseSpec(view, generate_examples=False, description="As it is now.")}


@get(LEDGERS, responses=_spec(ListView[LedgerView]), summary="The ledgers one may read, newest first", query=_LIST)
async def list_ledgers(request: AnyRequest) -> Reply:
    """It belongs to no one ledger, so `min_version` has no effect."""
    principal = principal_of(request)
    parameters = Parameters(request, cursor=(str, str))
    require(principal, "ledger:read")
    values = {"limit": ITEMS, **parameters.values()}
    values.pop("min_version", None)
    owner = None if principal.is_admin else principal.user_id
    within = principal.ledgers if isinstance(principal, KeyPrincipal) else None
    query = ListLedgers(principal=owner, within=within, after=parameters.after, digest=parameters.digest, **values)
    return await _ask(request, query)


@get(LEDGER, responses=_spec(LedgerView), summary="One ledger", query=_ONE, versioned=True)
async def get_ledger(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    return await _ask(request, GetLedger(**await _thing(request, ledger)))


@get(
    f"{LEDGER}/grants",
    responses=_spec(ListView[GrantView]),
    summary="Who may do what with it, newest first",
    query=_LIST,
    versioned=True,
)
async def list_grants(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    return await _ask(request, ListGrants(**await _page(request, ledger, cursor=(int,))))


@get(
    f"{LEDGER}/periods",
    responses=_spec(ListView[PeriodView]),
    summary="Its closed periods, newest first",
    query=_LIST,
    versioned=True,
)
async def list_periods(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    return await _ask(request, ListPeriods(**await _page(request, ledger, cursor=(int,))))


@get(
    f"{LEDGER}/schedules",
    responses=_spec(ListView[ScheduleView]),
    summary="Its schedules, newest first",
    query=_LIST,
)
async def list_schedules(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    """They go on without a new version of the ledger, so there is no ETag."""
    return await _ask(request, ListSchedules(**await _page(request, ledger, cursor=(int,))))


@get(f"{LEDGER}/schedules/{{schedule:str}}", responses=_spec(ScheduleView), summary="One schedule", query=_ONE)
async def get_schedule(request: AnyRequest, ledger: FromPath[str], schedule: FromPath[str]) -> Reply:
    """It goes on without a new version, so there is no ETag."""
    found = await _thing(request, ledger)
    return await _ask(request, GetSchedule(schedule=id_of(schedule), **found))


@get(
    f"{LEDGER}/currencies",
    responses=_spec(ListView[CurrencyView]),
    summary="Its currencies, by code",
    query=_LIST,
    versioned=True,
)
async def list_currencies(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    return await _ask(request, ListCurrencies(**await _page(request, ledger, cursor=(str,))))


@get(
    f"{LEDGER}/accounts",
    responses=_spec(ListView[AccountView] | AccountsAtView),
    summary="Its accounts, by name",
    query=(*_LIST, "prefix", "currency", *AS_OF),
    versioned=True,
)
async def list_accounts(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    found = await _page(request, ledger, "prefix", "currency", *AS_OF, cursor=(str,))
    return await _ask(request, ListAccounts(**_timed(found)))


@get(
    ACCOUNT, responses=_spec(AccountView | AccountAtView), summary="One account", query=(*_ONE, *AS_OF), versioned=True
)
async def get_account(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Reply:
    found = await _thing(request, ledger, *AS_OF)
    return await _ask(request, GetAccount(name=_named(account), **_timed(found)))


@get(
    f"{ACCOUNT}/statement",
    responses=_spec(StatementView),
    summary="What moved an account, by effective time, with its balance after each line",
    query=(*_LIST, "from", "to", "recorded_at", "seq"),
    versioned=True,
)
async def get_statement(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Reply:
    """`opening` and `closing` are of the whole range, on every page. A cursor stays with the `seq` it began at."""
    found = await _page(request, ledger, "from", "to", "recorded_at", "seq", cursor=(str, int, int), pinned=True)
    start, end = found.pop("from", None), found.pop("to", None)
    if start is not None and end is not None and end < start:
        raise invalid([Fault("#/to", "must not be before `from`")])
    return await _ask(request, GetStatement(account=_named(account), start=start, end=end, **_timed(found)))


def _named(account: str) -> str:
    """The name, if it can be an account's. Raises NotFoundError."""
    try:
        return msgspec.convert(account, AccountName)
    except msgspec.ValidationError:
        raise NotFoundError from None


@get(
    f"{LEDGER}/transactions",
    responses=_spec(ListView[TransactionView]),
    summary="Its transactions, newest first",
    query=(*_LIST, "account", "reference", "status", "from", "to"),
    choices={"status": _STATUSES},
    versioned=True,
)
async def list_transactions(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    found = await _page(request, ledger, "account", "reference", "status", "from", "to", cursor=(int,))
    filters = {name: found.pop(name, None) for name in ("account", "reference", "status")}
    wanted = TransactionFilter(start=found.pop("from", None), end=found.pop("to", None), **filters)
    return await _ask(request, ListTransactions(wanted=wanted, **found))


@get(
    TRANSACTION,
    responses=_spec(TransactionView),
    summary="One transaction, from the moment it was accepted",
    query=_ONE,
    versioned=True,
)
async def get_transaction(request: AnyRequest, ledger: FromPath[str], transaction: FromPath[str]) -> Reply:
    found = await _thing(request, ledger)
    wanted: UUID = id_of(transaction)
    try:
        return await _ask(request, GetTransaction(transaction=wanted, **found))
    except RefusedTransaction as refused:
        return _refused(request, refused)


def _refused(request: AnyRequest, refused: RefusedTransaction) -> Reply:
    edge, job = edge_of(request), str(refused.job)
    body = problem_bytes(refused.code, refused.detail, instance=edge.path, correlation_id=edge.correlation_id, job=job)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    return Reply(status_of(refused.code), headers, body)


@get(
    f"{LEDGER}/balances",
    responses=_spec(BalancesView),
    summary="Sums of its accounts by currency and type",
    query=(*_LIST, "prefix", *AS_OF),
    versioned=True,
)
async def get_balances(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    found = await _page(request, ledger, "prefix", *AS_OF, cursor=(str, str))
    return await _ask(request, GetBalances(**_timed(found)))


@get(
    f"{LEDGER}/trial-balance",
    responses=_spec(TrialBalanceView),
    summary="Debits and credits by currency and type",
    query=(*_ONE, *AS_OF),
    versioned=True,
)
async def get_trial_balance(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    return await _ask(request, GetTrialBalance(**_timed(await _thing(request, ledger, *AS_OF))))


@get(
    f"{LEDGER}/journal",
    responses=_spec(JournalLine),
    summary="Its events, exact bytes and hashes, a line each",
    query=(*_ONE, "after", "limit"),
    versioned=True,
    media="application/x-ndjson",
)
async def read_journal(request: AnyRequest, ledger: FromPath[str]) -> Reply:
    parameters = Parameters(request, "after", "limit")
    await admit(request, ledger, "reader")
    values = {"limit": ITEMS, **parameters.values()}
    after = values.pop("after", 0)
    return await _ask(request, ReadJournal(ledger=ledger, after_seq=after, **values))


ROUTES: Final[list[Any]] = [
    list_ledgers,
    get_ledger,
    list_grants,
    list_periods,
    list_schedules,
    get_schedule,
    list_currencies,
    list_accounts,
    get_account,
    get_statement,
    list_transactions,
    get_transaction,
    get_balances,
    get_trial_balance,
    read_journal,
]

"""What events need to have loaded before they can be applied again: the appliers of a turn, over a journal."""

from __future__ import annotations

from domain.ledger.events import (
    AccessGranted,
    AccessRevoked,
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountUnfrozen,
    CurrencyRegistered,
    LedgerCreated,
    TransactionCaptured,
    TransactionExpired,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.ledger.model import Touches
from domain.messages import Event


def replayed(event: Event, into: Touches) -> None:
    """Adds to `into` what applying `event` asks of the ledger."""
    match event:
        case TransactionPosted() | TransactionHeld() | TransactionReversed():
            for line in event.postings:
                into.accounts.update((line.debit, line.credit))
            if isinstance(event, TransactionReversed):
                into.transactions.add(event.reverses)
        case TransactionCaptured() | TransactionVoided() | TransactionExpired() | TransactionMetadataChanged():
            into.transactions.add(event.transaction)
        case AccountOpened():
            into.currencies.add(event.currency)
        case AccountMetadataChanged() | AccountFrozen() | AccountUnfrozen() | AccountClosed():
            into.accounts.add(event.name)
        case CurrencyRegistered():
            into.currencies.add(event.code)
        case AccessGranted() | AccessRevoked():
            into.users.add(event.user)
        case LedgerCreated():
            into.users.add(event.owner)
        case _:
            pass

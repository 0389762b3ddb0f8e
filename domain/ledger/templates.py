"""Commands that a schedule repeats, as its maker writes them: the same that bulk requests take."""

from __future__ import annotations

from domain.ledger.commands import (
    CaptureTransaction,
    CloseAccount,
    FreezeAccount,
    OpenAccount,
    PostTransaction,
    ReverseTransaction,
    UnfreezeAccount,
    VoidTransaction,
)


class OpenAccountTemplate(OpenAccount, frozen=True, tag="open_account", tag_field="kind"):
    """Open an account, each time."""


class PostTransactionTemplate(PostTransaction, frozen=True, tag="post_transaction", tag_field="kind"):
    """Post a transaction, each time."""


class CaptureTransactionTemplate(CaptureTransaction, frozen=True, tag="capture_transaction", tag_field="kind"):
    """Capture a transaction, each time."""


class VoidTransactionTemplate(VoidTransaction, frozen=True, tag="void_transaction", tag_field="kind"):
    """Void a transaction, each time."""


class ReverseTransactionTemplate(ReverseTransaction, frozen=True, tag="reverse_transaction", tag_field="kind"):
    """Reverse a transaction, each time."""


class FreezeAccountTemplate(FreezeAccount, frozen=True, tag="freeze_account", tag_field="kind"):
    """Freeze an account, each time."""


class UnfreezeAccountTemplate(UnfreezeAccount, frozen=True, tag="unfreeze_account", tag_field="kind"):
    """Unfreeze an account, each time."""


class CloseAccountTemplate(CloseAccount, frozen=True, tag="close_account", tag_field="kind"):
    """Close an account, each time."""


Template = (
    OpenAccountTemplate
    | PostTransactionTemplate
    | CaptureTransactionTemplate
    | VoidTransactionTemplate
    | ReverseTransactionTemplate
    | FreezeAccountTemplate
    | UnfreezeAccountTemplate
    | CloseAccountTemplate
)

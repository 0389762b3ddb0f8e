"""Errors a caller can act on: each has a code of the catalogue, and the code decides status and title."""

# ruff: noqa: E501 - the catalogue is a table, a line a code

from __future__ import annotations

from typing import Final

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """One place in a request that is at fault: a JSON pointer (RFC 6901) and what is wrong there."""

    pointer: str
    detail: str


class ProblemKind(msgspec.Struct, frozen=True):
    """What a problem code stands for: its HTTP status, its title and what the client can do about it."""

    status: int
    title: str
    advice: str


CATALOGUE: Final[dict[str, ProblemKind]] = {
    "malformed_request": ProblemKind(400, "Malformed request", "Mend the syntax of the request; the detail names the place."),
    "unauthorized": ProblemKind(401, "Unauthorized", "Log in with POST /auth/login and send the access token as a Bearer token."),
    "invalid_credentials": ProblemKind(401, "Invalid credentials", "Check the user name and the password."),
    "forbidden": ProblemKind(403, "Forbidden", "Ask an owner of the ledger for a higher role."),
    "not_found": ProblemKind(404, "Not found", "Check the address; what you were not granted looks the same as what does not exist."),
    "method_not_allowed": ProblemKind(405, "Method not allowed", "Use one of the methods named in the Allow header."),
    "payload_too_large": ProblemKind(413, "Payload too large", "Send at most 1 MiB, or 16 MiB in bulk; split the request."),
    "unsupported_media_type": ProblemKind(415, "Unsupported media type", "Send application/json, uncompressed; bulk also application/x-ndjson."),
    "validation_failed": ProblemKind(422, "Validation failed", "Mend the values that `errors` points to."),
    "rate_limited": ProblemKind(429, "Rate limited", "Wait for the seconds named in Retry-After."),
    "unavailable": ProblemKind(503, "Unavailable", "Send the same request with the same Idempotency-Key again in a moment."),
    "mailbox_full": ProblemKind(503, "Mailbox full", "The ledger has too many commands waiting; send this one again after Retry-After seconds."),
    "idempotency_key_reused": ProblemKind(422, "Idempotency key reused", "The key was used with another request; make a new key for a new request."),
    "internal_error": ProblemKind(500, "Internal error", "Report the correlation id to the operator."),
    "command_failed": ProblemKind(500, "Command failed", "The command could not be processed and was set aside; report the job to the operator."),
    "batch_rejected": ProblemKind(409, "Batch rejected", "Another command of the atomic batch was refused, so none of them was applied; `caused_by` is its job."),
    "command_cancelled": ProblemKind(409, "Command cancelled", "The command was cancelled before it was applied; send a new one."),
    "job_not_cancellable": ProblemKind(409, "Job not cancellable", "Only what still waits can be cancelled, and no command of an atomic batch by itself; GET the job to see what became of it."),
    "job_not_failed": ProblemKind(409, "Job not failed", "Only dead letters can be retried; send a command that was rejected or cancelled anew."),
    "version_not_reached": ProblemKind(409, "Version not reached", "Ask again in a moment, or with a lower min_version."),
    "ledger_exists": ProblemKind(409, "Ledger exists", "Choose another id for the ledger."),
    "account_exists": ProblemKind(409, "Account exists", "Choose another name for the account."),
    "currency_exists": ProblemKind(409, "Currency exists", "Use the currency as it is registered."),
    "username_taken": ProblemKind(409, "User name taken", "Choose another name; names that differ in case only are the same."),
    "reference_taken": ProblemKind(409, "Reference taken", "A transaction with this reference was posted already; look it up with ?reference=."),
    "account_not_found": ProblemKind(422, "Account not found", "Open the account first."),
    "currency_unknown": ProblemKind(422, "Currency unknown", "Register the currency first, or use an ISO 4217 code."),
    "currency_mismatch": ProblemKind(422, "Currency mismatch", "Both accounts of a posting must have the same currency."),
    "amount_scale": ProblemKind(422, "Amount scale", "Send no more decimals than the currency has."),
    "transaction_not_pending": ProblemKind(409, "Transaction not pending", "Nothing of the transaction is held; only what is pending can be captured or voided."),
    "transaction_expired": ProblemKind(409, "Transaction expired", "What the transaction held was released at its `expires_at`; post a new one."),
    "transaction_not_reversible": ProblemKind(409, "Transaction not reversible", "Only transactions that are posted or captured can be reversed; void one that is pending."),
    "already_reversed": ProblemKind(409, "Already reversed", "A transaction is reversed once; its `reversed_by` names the reversal."),
    "capture_exceeds_hold": ProblemKind(422, "Capture exceeds hold", "Capture no more of each posting than is still held; GET the transaction to see how much that is."),
    "period_closed": ProblemKind(409, "Period closed", "The books are closed before a moment that the detail names; send a later `effective_at`."),
    "account_closed": ProblemKind(409, "Account closed", "The account is closed for good; use another one."),
    "account_frozen": ProblemKind(409, "Account frozen", "Unfreeze the account first."),
    "account_status": ProblemKind(409, "Account status", "The account is in that status already; GET the account to see it."),
    "account_not_empty": ProblemKind(409, "Account not empty", "An account is closed with a balance of zero and nothing pending."),
    "precondition_failed": ProblemKind(409, "Precondition failed", "What the request depends on is not so; the detail names it."),
    "amount_overflow": ProblemKind(422, "Amount overflow", "The account's totals would reach 10^38 minor units."),
    "insufficient_funds": ProblemKind(409, "Insufficient funds", "The account's available balance may not fall below its minimum."),
    "max_balance_exceeded": ProblemKind(409, "Maximum balance exceeded", "The account's balance may not rise above its maximum."),
}  # fmt: skip


class DomainError(Exception):
    """A rule refused a command. The turn records it as the command's outcome; it undoes nothing else."""

    def __init__(self, code: str, detail: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.code: Final = code
        self.detail: Final = detail
        self.faults: Final = faults


class ValidationError(DomainError):
    """What can be seen to be wrong in the request alone (422 `validation_failed`, or 400 `malformed_request`)."""

    def __init__(self, detail: str, faults: tuple[Fault, ...] = (), code: str = "validation_failed") -> None:
        super().__init__(code, detail, faults)


class NotFoundError(DomainError):
    """There is no such thing, or the caller was not granted it: the two look the same."""

    def __init__(self, detail: str = "There is nothing here.") -> None:
        super().__init__("not_found", detail)


class AuthError(DomainError):
    """The caller is not logged in (401), or may not do this (403)."""


class InfrastructureError(DomainError):
    """Something outside is missing or overloaded (503). Nothing was recorded unless the detail says so."""

    def __init__(self, detail: str, code: str = "unavailable", retry_after_s: int = 1) -> None:
        super().__init__(code, detail)
        self.retry_after_s: Final = retry_after_s

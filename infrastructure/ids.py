"""Ids: UUIDv7 (RFC 9562), which sort by the time they were made."""

from __future__ import annotations

from uuid import UUID

from uuid_utils import uuid7


def new_id() -> UUID:
    """A new id as the standard library's UUID, which the library's own conversion makes five times as slowly."""
    return UUID(bytes=uuid7().bytes)

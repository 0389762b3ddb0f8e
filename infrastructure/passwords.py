"""Passwords: argon2id, verified in threads, two at once: logins can neither stall the event loop nor fill memory."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from domain.errors import InfrastructureError

AT_ONCE: Final = 2
MOST_WAITING: Final = 64
"""Hashes that may be under way or waiting, about a second's worth."""

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

_NOBODYS: Final = _hasher.hash("the password of a user who does not exist")
"""What a password is verified against when there is no such user: that takes as long as for one there is."""


def hash_password(password: str) -> str:
    """The argon2id hash to keep. Takes some 30 ms of processor time."""
    return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Whether it is the password. None, for a user who does not exist, takes as long and is always False."""
    try:
        _hasher.verify(_NOBODYS if password_hash is None else password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


class Passwords:
    """Verifies beside the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """See `matches`. Raises InfrastructureError when too many are waiting."""
        if self._waiting >= MOST_WAITING:
            raise InfrastructureError("Too many logins at once.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, matches, password_hash, password)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

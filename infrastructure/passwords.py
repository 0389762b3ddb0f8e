"""Passwords: argon2id, in threads, two at once, so that logins can neither stall the event loop nor fill memory.

A hash names the parameters it was made with. They may be raised: whoever logs in with a hash of older ones gets a new
hash on the way (`needs_upgrade`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from domain.errors import InfrastructureError

P = ParamSpec("P")
T = TypeVar("T")

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


def needs_upgrade(password_hash: str) -> bool:
    """Whether it was made with other parameters than those of today."""
    return _hasher.check_needs_rehash(password_hash)


class Passwords:
    """Hashes and verifies beside the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """See `matches`. Raises InfrastructureError when too many are waiting."""
        return await self._run(matches, password_hash, password)

    async def hash(self, password: str) -> str:
        """See `hash_password`. Raises InfrastructureError when too many are waiting."""
        return await self._run(hash_password, password)

    def close(self) -> None:
        """Ends the threads; who still waits gets a CancelledError."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._waiting >= MOST_WAITING:
            raise InfrastructureError("Too many passwords to check at once.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        finally:
            self._waiting -= 1

"""Secrets of API keys: `dbk_`, 32 random bytes in 43 digits of base 62, and a checksum of six.

The checksum is the CRC-32 of all that stands before it, in base 62 too. It is no protection: it lets scanners tell a
leaked key from anything that merely looks like one, and this service refuse junk without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from typing import Final

MARK: Final = b"dbk_"
LENGTH: Final = 53
SHOWN: Final = 12
"""So much of a secret is shown in lists, to tell keys apart; more than 200 random bits are left."""

_DIGITS: Final = (string.digits + string.ascii_uppercase + string.ascii_lowercase).encode()
_RANDOM_BYTES: Final = 32
_RANDOM_DIGITS: Final = 43
_CHECK_DIGITS: Final = 6
_SECRET: Final = re.compile(rb"dbk_[0-9A-Za-z]{49}")


def new_secret() -> str:
    """A secret that nobody else has."""
    number = int.from_bytes(secrets.token_bytes(_RANDOM_BYTES))
    said = MARK + _written(number, _RANDOM_DIGITS)
    return (said + _checksum(said)).decode()


def is_secret(text: bytes) -> bool:
    """Whether a text could be a secret that was made here. No I/O, and no error, whatever it is."""
    return _SECRET.fullmatch(text) is not None and _checksum(text[:-_CHECK_DIGITS]) == text[-_CHECK_DIGITS:]


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret. A plain hash will do: nobody guesses 32 random bytes."""
    return hashlib.sha256(secret).digest()


def _checksum(said: bytes) -> bytes:
    return _written(zlib.crc32(said), _CHECK_DIGITS)


def _written(number: int, length: int) -> bytes:
    """A number in base 62, filled up with zeros."""
    digits = bytearray(length)
    for place in reversed(range(length)):
        number, digit = divmod(number, len(_DIGITS))
        digits[place] = _DIGITS[digit]
    return bytes(digits)

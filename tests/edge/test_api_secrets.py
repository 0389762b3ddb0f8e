"""Secrets of API keys: what is made is recognised, and nothing else is."""

from __future__ import annotations

import hashlib
import re
import string
import zlib

from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from infrastructure.api_secrets import SHOWN, digest_of, is_secret, new_secret

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def checksum(said: str) -> str:
    """As docs/api.md tells it to those who write scanners."""
    number, digits = zlib.crc32(said.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return digits.rjust(6, "0")


def test_secrets_are_long_random_and_checkable() -> None:
    secrets = [new_secret() for _ in range(200)]
    assert len({secret[:SHOWN] for secret in secrets}) == 200
    for secret in secrets:
        assert re.fullmatch(r"dbk_[0-9A-Za-z]{43}[0-9A-Za-z]{6}", secret)
        assert secret[-6:] == checksum(secret[:-6])
        assert is_secret(secret.encode())
    # every digit of the random part takes part: 62 ** 43 is just above 2 ** 256
    assert 62**43 > 2**256 > 62**42
    for place in range(5, 47):
        assert len({secret[place] for secret in secrets}) > 20


def test_the_hash_is_a_plain_one() -> None:
    secret = new_secret().encode()
    assert digest_of(secret) == hashlib.sha256(secret).digest()


@effort(deadline=None)
@given(
    st.one_of(st.binary(max_size=80), st.text(max_size=60).map(lambda text: b"dbk_" + text.encode("utf-8", "replace")))
)
@example(b"")
@example(b"dbk_")
@example(b"dbk_" + b"0" * 49)
@example(b"dbk_" + b"0" * 43 + b"\n" * 6)
def test_junk_is_no_secret(junk: bytes) -> None:
    assert not is_secret(junk)


@effort(deadline=None)
@given(st.text(DIGITS, min_size=49, max_size=49))
def test_what_only_looks_like_a_secret_is_none(digits: str) -> None:
    said, check = f"dbk_{digits[:43]}", digits[43:]
    assert is_secret(f"{said}{check}".encode()) == (check == checksum(said))
    assert is_secret(f"{said}{checksum(said)}".encode())


@effort(deadline=None)
@given(st.data())
def test_one_wrong_character_is_noticed(data: st.DataObject) -> None:
    secret = new_secret()
    place = data.draw(st.integers(0, len(secret) - 1))
    other = data.draw(st.sampled_from(DIGITS + "_-").filter(lambda digit: digit != secret[place]))
    assert not is_secret(f"{secret[:place]}{other}{secret[place + 1 :]}".encode())


@effort(deadline=None)
@given(st.sampled_from(["\n", " ", "\0", "=", "0"]), st.booleans())
def test_nothing_may_be_added(more: str, in_front: bool) -> None:
    secret = new_secret()
    assert not is_secret((more + secret if in_front else secret + more).encode())

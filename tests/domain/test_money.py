"""Money: integers inside, exact decimal strings outside, whatever the scale and the size."""

from __future__ import annotations

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.money import LIMIT_MINOR, decimals_of, format_minor, parse_minor
from tests.books import LARGEST

scales = st.integers(0, 18)
minors = st.integers(-LARGEST, LARGEST)


@pytest.mark.parametrize(
    ("text", "scale", "minor"),
    [
        ("0", 0, 0),
        ("0", 2, 0),
        ("0.00", 2, 0),
        ("7", 0, 7),
        ("12.5", 2, 1250),
        ("12.50", 2, 1250),
        ("-12.5", 2, -1250),
        ("-0.01", 2, -1),
        ("0.000000000000000001", 18, 1),
        ("9" * 38, 0, LARGEST),
        ("9" * 36 + ".99", 2, LARGEST),
        ("9" * 38, 18, LARGEST * 10**18),
    ],
)
def test_parses_exactly(text: str, scale: int, minor: int) -> None:
    assert parse_minor(text, scale) == minor


@pytest.mark.parametrize(
    ("minor", "scale", "text"),
    [
        (0, 0, "0"),
        (0, 2, "0.00"),
        (0, 18, "0.000000000000000000"),
        (5, 2, "0.05"),
        (-5, 2, "-0.05"),
        (1250, 2, "12.50"),
        (-1250, 3, "-1.250"),
        (-7, 0, "-7"),
        (LARGEST, 0, "9" * 38),
        (LARGEST, 18, "9" * 20 + "." + "9" * 18),
        (-LARGEST, 2, "-" + "9" * 36 + ".99"),
    ],
)
def test_formats_with_all_decimals(minor: int, scale: int, text: str) -> None:
    assert format_minor(minor, scale) == text


@pytest.mark.parametrize(("text", "scale"), [("1.0", 0), ("1.000", 2), ("-0.001", 2), ("1.0000000000000000001", 18)])
def test_refuses_more_decimals_than_the_currency_has(text: str, scale: int) -> None:
    with pytest.raises(ValueError, match="decimals; the currency has"):
        parse_minor(text, scale)


@pytest.mark.parametrize(("text", "decimals"), [("1", 0), ("1.0", 1), ("-1.25", 2), ("0." + "0" * 18, 18)])
def test_counts_decimals(text: str, decimals: int) -> None:
    assert decimals_of(text) == decimals


@given(minors, scales)
def test_what_is_formatted_parses_to_the_same(minor: int, scale: int) -> None:
    text = format_minor(minor, scale)
    assert parse_minor(text, scale) == minor
    assert decimals_of(text) == scale


@given(minors, scales)
def test_agrees_with_decimal_given_digits_enough(minor: int, scale: int) -> None:
    exact = Decimal(minor).scaleb(-scale, Context(prec=60))
    assert format_minor(minor, scale) == f"{exact:.{scale}f}"


@given(st.integers(0, LARGEST), scales, st.data())
def test_missing_decimals_are_zeros(whole: int, scale: int, data: st.DataObject) -> None:
    fraction = data.draw(st.text("0123456789", max_size=scale))
    written = f"{whole}.{fraction}" if fraction else str(whole)
    assert parse_minor(written, scale) == int(f"{whole}{fraction.ljust(scale, '0')}")


def test_the_limit_is_what_38_digits_hold() -> None:
    assert LIMIT_MINOR == LARGEST + 1 == 10**38

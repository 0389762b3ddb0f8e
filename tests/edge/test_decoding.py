"""Bodies are read strictly, and refusals come with the code and the pointers of the contract."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.decoding import MAX_FAULTS, MAX_NESTING, decode, parse_json, parse_lines, try_decode
from domain.errors import ValidationError
from domain.ledger.commands import OpenAccount, PostTransaction


def post(**members: Any) -> bytes:
    return json.dumps({"postings": [{"debit": "a", "credit": "b", "amount": "1"}], **members}).encode()


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"{", id="cut short"),
        pytest.param(b"{} {}", id="two documents"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b'{"a": 1,}', id="trailing comma"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": -Infinity}', id="Infinity"),
        pytest.param(b'{"a": 01}', id="leading zero"),
        pytest.param(b'{"a": "\x01"}', id="control character"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param('{"a": "ü"}'.encode("latin-1"), id="latin-1"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b'{"a": 1, "a": 1}', id="duplicate member"),
        pytest.param(b'{"a": null, "a": 1}', id="duplicate member, one null"),
        pytest.param(b'{"x": [{"a": 1, "b": 2, "\\u0061": 3}]}', id="duplicate member, escaped"),
        pytest.param(nested(MAX_NESTING + 1), id="nested too deep"),
        pytest.param(b"[" * 100_000, id="nested absurdly deep"),
        pytest.param(post(unknown=1), id="unknown member"),
        pytest.param(
            post(postings=[{"debit": "a", "credit": "b", "amount": 1, "x": 1}]), id="unknown, nested, and more"
        ),
    ],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        try_decode(parse_json(raw), PostTransaction)
    assert caught.value.code == "malformed_request"


@pytest.mark.parametrize(
    ("raw", "pointers"),
    [
        (b"", {"#/postings": "is required"}),
        (b"[]", {"#": "must be an object"}),
        (b'"text"', {"#": "must be an object"}),
        (post(postings=None), {"#/postings": "is required"}),
        (post(postings=[]), {"#/postings": "must be 1 to 1000 postings"}),
        (post(postings={}), {"#/postings": "must be 1 to 1000 postings"}),
        (post(postings=[None]), {"#/postings/0": "must be an object"}),
        (post(reference=5), {"#/reference": "must be a line of 1 to 255 characters"}),
        (
            post(metadata={"a/b~c": 1}),
            {"#/metadata/a~1b~0c": "must be at most 50 keys of 40, with values of at most 500 characters"},
        ),
        (post(effective_at="2026-01-01T00:00:00"), {"#/effective_at": "must be an RFC 3339 time with its offset"}),
        (
            post(postings=[{"debit": "a", "credit": "b", "amount": "0"}, {"debit": "..", "credit": 1}]),
            {
                "#/postings/0/amount": "must be a decimal string above zero",
                "#/postings/1/debit": "must be 1 to 8 segments of [a-z0-9_.-]{1,64} joined by ':'",
                "#/postings/1/credit": "must be 1 to 8 segments of [a-z0-9_.-]{1,64} joined by ':'",
                "#/postings/1/amount": "is required",
            },
        ),
        (
            post(postings=[{"debit": "a", "credit": "a", "amount": "1"}]),
            {"#/postings/0": "debit and credit must name two accounts"},
        ),
        (post(description="a\0b"), {"#/description": "must be text without NUL and without halves of surrogate pairs"}),
        (
            post(metadata={"k": "\ud800"}),
            {"#/metadata/k": "must be text without NUL and without halves of surrogate pairs"},
        ),
    ],
)
def test_invalid(raw: bytes, pointers: dict[str, str]) -> None:
    attempt = try_decode(parse_json(raw), PostTransaction)
    with pytest.raises(ValidationError) as caught:
        attempt.value()
    assert caught.value.code == "validation_failed"
    assert {fault.pointer: fault.detail for fault in caught.value.faults} == pointers


def test_a_literal_names_its_values() -> None:
    with pytest.raises(ValidationError) as caught:
        decode(parse_json(b'{"name":"a","currency":"USD","type":"cash"}'), OpenAccount)
    assert caught.value.faults[0].detail == "must be one of asset, expense, liability, equity, income"


@pytest.mark.parametrize("amount", ["1", "0.1", "10.50", "9" * 38 + "." + "9" * 18])
def test_amounts_taken(amount: str) -> None:
    raw = post(postings=[{"debit": "a", "credit": "b", "amount": amount}])
    assert decode(parse_json(raw), PostTransaction).postings[0].amount == amount


AMOUNTS_REFUSED = [
    *("0", "0.00", "-1", "+1", "01", "1.", ".5", "1e3", "NaN", "Infinity", " 1", "1 ", "1_000", "１２", "", "1\n"),
    *("9" * 39, "1." + "1" * 19, 1, 1.5, True, [], {}),
]


@pytest.mark.parametrize("amount", AMOUNTS_REFUSED, ids=repr)
def test_amounts_refused(amount: object) -> None:
    raw = post(postings=[{"debit": "a", "credit": "b", "amount": amount}])
    with pytest.raises(ValidationError) as caught:
        decode(parse_json(raw), PostTransaction)
    assert [fault.pointer for fault in caught.value.faults] == ["#/postings/0/amount"]


def test_null_is_absent() -> None:
    command = decode(parse_json(post(reference=None, metadata={"a": None, "b": "c"})), PostTransaction)
    assert (command.reference, command.metadata) == (None, {"b": "c"})
    assert parse_json(post(reference=None)).canonical() == parse_json(post()).canonical()


def test_nesting_up_to_the_limit() -> None:
    parse_json(nested(MAX_NESTING))


def test_strings_full_of_brackets_are_not_nesting() -> None:
    parse_json(json.dumps({"a": "[" * 1000}).encode())


def test_escaped_text_that_is_storable() -> None:
    raw = b'{"postings":[{"debit":"a","credit":"b","amount":"1"}],"description":"\\ud83d\\ude00 \\\\u0000"}'
    assert decode(parse_json(raw), PostTransaction).description == "\U0001f600 \\u0000"


def test_a_number_of_thousands_of_digits_is_a_value_at_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        parse_json(b'{"a":' + b"9" * 5000 + b"}")
    assert caught.value.code == "validation_failed"


class Line(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="line"):
    size: Annotated[int, msgspec.Meta(ge=0)]


class Other(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="other"):
    at: datetime


class Lines(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line | Other]


def test_tagged_unions() -> None:
    lines = [
        {"kind": "line", "size": -1},
        {"kind": "none"},
        {"kind": "other"},
        {"size": 1},
        7,
        {"kind": "line", "size": 1},
    ]
    attempt = try_decode(parse_json(json.dumps({"lines": lines}).encode()), Lines)
    found = {fault.pointer: fault.detail for fault in attempt.faults}
    assert list(found) == ["#/lines/0/size", "#/lines/1/kind", "#/lines/2/at", "#/lines/3/kind", "#/lines/4"]
    assert found["#/lines/1/kind"] == "must be one of line, other"


def test_faults_are_bounded() -> None:
    raw = json.dumps({"lines": [{"kind": "line"}] * (MAX_FAULTS + 5)}).encode()
    with pytest.raises(ValidationError) as caught:
        decode(parse_json(raw), Lines)
    assert (caught.value.detail, len(caught.value.faults)) == (f"{MAX_FAULTS + 5} errors", MAX_FAULTS)


def test_lines() -> None:
    assert [document.content for document in parse_lines(b'{"a":1}\n\n{"b":2}\r\n', 2)] == [{"a": 1}, {"b": 2}]
    with pytest.raises(ValidationError) as caught:
        parse_lines(b'{"a":1}\n{"a":', 2)
    assert (caught.value.code, caught.value.faults[0].pointer) == ("malformed_request", "#/commands/1")
    # one more than there may be, for the type to refuse
    assert len(parse_lines(b"{}\n{}\n{}\n{}", 2)) == 3


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_says_is_what_is_read(value: Any) -> None:
    try:
        found = parse_json(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
    except ValidationError as error:
        assert error.code == "malformed_request"
        return
    assert found.content == value
    assert json.loads(found.canonical()) == value


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_no_bytes_are_worse_than_refused(raw: bytes) -> None:
    try:
        decode(parse_json(raw), PostTransaction)
    except ValidationError as error:
        assert error.code in ("malformed_request", "validation_failed")
        msgspec.json.encode([error.detail, *error.faults])

"""The API's description is sound by itself, and so are the pages that are made from it. Whether it is true is asked in
tests/e2e/test_openapi.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from litestar import Litestar
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from api.app import create_app
from api.openapi import describe
from api.pages.html import element, marked
from api.routes import operations
from domain.catalog import KINDS
from domain.errors import CATALOGUE
from infrastructure.settings import parse
from tests.journals import on_a_loop

Json = dict[str, Any]

NOWHERE = {
    "DAYBOOK_DATABASE_URL": "postgresql://127.0.0.1:1/none",
    "DAYBOOK_REDIS_URL": "redis://127.0.0.1:1",
    "DAYBOOK_KAFKA_SERVERS": "127.0.0.1:1",
    "DAYBOOK_SECRET_KEY": "k" * 40,
}
# No operation answers so: it is for methods that are none.
ELSEWHERE = {"method_not_allowed"}


@pytest.fixture(scope="module")
def app() -> Litestar:
    return create_app(parse(NOWHERE))


@pytest.fixture(scope="module")
def document(app: Litestar) -> Json:
    return describe(app)


def described(document: Json) -> Iterator[Json]:
    return (what for methods in document["paths"].values() for what in methods.values())


def resolved(document: Json, part: Json) -> Json:
    """The part, or what it refers to."""
    if "$ref" not in part:
        return part
    found: Any = document
    for step in part["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def codes_of(answer: Json) -> list[str]:
    schema = answer["content"]["application/problem+json"]["schema"]
    return list(schema["allOf"][1]["properties"]["code"]["enum"])


def test_it_is_openapi_3_1(document: Json) -> None:
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    for reference in set(references(document)):
        assert resolved(document, {"$ref": reference})
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
        assert "\\A" not in str(schema) and "\\Z" not in str(schema)
    broken = {**document, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    assert list(OPENAPI_31_VALIDATOR.iter_errors(broken))


def test_its_examples_are_what_they_are_examples_of(document: Json) -> None:
    seen = 0
    for what in described(document):
        bodies = what.get("requestBody", {}).get("content", {}).values()
        places = [place for place in what["parameters"] if "example" in place]
        for given in (*bodies, *places):
            schema = {**given["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(given["example"])
            seen += 1
    assert seen >= 20


def test_every_status_is_listed(document: Json) -> None:
    for what in described(document):
        answers = {status: resolved(document, answer) for status, answer in what["responses"].items()}
        assert "default" not in answers
        assert {"400", "429", "500"} < set(answers)
        assert ("401" in answers) >= ("security" in what)
        for status, answer in answers.items():
            assert {"X-Correlation-ID", "X-Content-Type-Options", "Content-Security-Policy"} < set(answer["headers"])
            assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
            if "application/problem+json" in answer.get("content", {}):
                codes = codes_of(answer)
                assert codes and {str(CATALOGUE[code].status) for code in codes} == {status}
            else:
                assert status < "400" or what["operationId"] == "ready"


def test_every_code_is_some_operations(document: Json) -> None:
    answers = [resolved(document, answer) for what in described(document) for answer in what["responses"].values()]
    told = {
        code
        for answer in answers
        if "application/problem+json" in answer.get("content", {})
        for code in codes_of(answer)
    }
    assert told == set(CATALOGUE) - ELSEWHERE


def test_what_routes_declare_is_known(app: Litestar) -> None:
    for operation in operations(app):
        assert {*operation.codes, *operation.refusals} <= set(CATALOGUE), operation.id
        assert set(operation.choices) <= set(operation.query), operation.id
    kinds = {operation.body for operation in operations(app) if operation.one_job}
    assert kinds >= {KINDS["open_account"], KINDS["post_transaction"]}


# -- pages ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links |= {value for name in ("href", "src", "action") if (value := given.get(name)) is not None}
        self.ids += [value for value in [given.get("id")] if value is not None]
        assert tag not in ("style", "iframe", "img") and not any(name.startswith("on") for name in given)
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_are_whole_without_a_network(app: Litestar, document: Json) -> None:
    """No script draws them, and nothing in them is anywhere else."""

    @on_a_loop
    async def read() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            docs, problems = (await client.get("/docs")).text, (await client.get("/problems")).text
            one = (await client.get("/problems/insufficient_funds")).text
            files = [await client.get(path) for path in ("/docs/style.css", "/docs/search.js", "/docs/icon.svg")]
        page = Page(docs)
        assert {"#" + what["operationId"] for what in described(document)} <= page.links
        assert len(page.ids) == len(set(page.ids))
        assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
        for path, methods in document["paths"].items():
            assert all(f"<code>{path}</code>" in docs for _ in methods)
        assert {f"/problems/{code}" for code in CATALOGUE} <= Page(problems).links
        assert "/docs#post_transaction" in Page(one).links
        for text in (docs, problems, one):
            assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in Page(text).links)
            assert "://" not in text
        for file in files:
            assert file.status_code == 200 and not re.search(r"@import|url\(|fetch\(", file.text)
            assert "://" not in file.text.replace('xmlns="http://www.w3.org/2000/svg"', "")

    read()


def test_what_is_not_markup_is_escaped() -> None:
    assert element("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
    assert marked("a `<b>` c") == "a <code>&lt;b&gt;</code> c"

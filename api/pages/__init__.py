"""Pages for people: `/docs`, which is `/openapi.json` to be read, and `/problems`, one page for each code.

Everything they need is served from here; the Content-Security-Policy allows nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from litestar import Litestar, Request, Response, get
from litestar.params import FromPath

from api.openapi import document_of
from api.outcomes import codes_of
from api.pages.html import Html, code, element, joined, link, marked, table
from api.pages.reference import reference
from api.routes import Operation, operations
from domain.errors import CATALOGUE, NotFoundError, ProblemKind

AnyRequest = Request[Any, Any, Any]

_FOLDER: Final = Path(__file__).parent

_FILES: Final = {
    name: (media_type, (_FOLDER / name).read_bytes())
    for name, media_type in {
        "style.css": "text/css",
        "search.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }.items()
}
_KEPT: Final = {"cache-control": "max-age=300"}


def _page(title: str, body: Html, class_: str = "") -> Response[str]:
    links = (
        element("link", rel="icon", href="/docs/icon.svg"),
        element("link", rel="stylesheet", href="/docs/style.css"),
        element("script", src="/docs/search.js", defer="defer"),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} · Daybook"),
        *links,
    )
    ways = element("nav", link("/docs", "API"), link("/problems", "Problems"), aria_label="Pages")
    content = element("body", element("header", link("/docs", "Daybook"), ways), element("main", body, class_=class_))
    return Response(f"<!doctype html>\n{element('html', head, content, lang='en')}\n", media_type="text/html")


@lru_cache(maxsize=1)
def _reference_of(app: Litestar) -> Html:
    return reference(document_of(app))


@get("/docs", described=False)
async def docs(request: AnyRequest) -> Response[str]:
    """The API's documentation."""
    return _page("API", _reference_of(request.app), "wide")


@get("/docs/{name:str}", described=False)
async def docs_file(name: FromPath[str]) -> Response[bytes]:
    """A file of these pages."""
    if name not in _FILES:
        raise NotFoundError
    media_type, content = _FILES[name]
    return Response(content, media_type=media_type, headers=_KEPT)


@get("/problems", described=False)
async def problems() -> Response[str]:
    """Every code that an error can have, by status."""
    intro = "Every error is a problem (RFC 9457). Its `code` says what happened, and never changes."
    listed = sorted(CATALOGUE.items(), key=lambda item: item[1].status)
    groups = (_status(status, kinds) for status, kinds in groupby(listed, key=lambda item: item[1].status))
    return _page("Problems", joined(element("h1", "Problems"), element("p", marked(intro)), *groups))


def _status(status: int, kinds: Iterable[tuple[str, ProblemKind]]) -> Html:
    heading = element("h2", _badge(status), f" {HTTPStatus(status).phrase}", id=str(status))
    rows = [(link(f"/problems/{name}", code(name)), kind.title, marked(kind.advice)) for name, kind in sorted(kinds)]
    return joined(heading, table(("Code", "Title", "What to do"), rows))


@get("/problems/{code:str}", described=False)
async def one_problem(request: AnyRequest, code: FromPath[str]) -> Response[str]:
    """What a code means, what to do about it, and which operations answer with it."""
    kind = CATALOGUE.get(code)
    if kind is None:
        raise NotFoundError
    body = joined(
        element("h1", kind.title),
        element("p", _badge(kind.status), " ", element("code", code), class_="facts"),
        element("h2", "What to do"),
        element("p", marked(kind.advice)),
        element("h2", "Who answers with it"),
        _answering(request.app, code),
        element("p", link("/problems", "All problems")),
    )
    return _page(kind.title, body)


def _answering(app: Litestar, name: str) -> Html:
    found = _operations_by_code(app)
    everyone = len(found["internal_error"])
    answering = found.get(name, [])
    if not answering:
        return element("p", "No operation of its own: it is about an address, or about a command among others.")
    if len(answering) == everyone:
        return element("p", "Every operation.")
    entries = (link(f"/docs#{one.id}", code(f"{one.method} {one.path}")) for one in answering)
    return element("ul", *(element("li", entry) for entry in entries))


@lru_cache(maxsize=1)
def _operations_by_code(app: Litestar) -> Mapping[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations(app):
        for codes in codes_of(operation).values():
            for name in codes:
                found.setdefault(name, []).append(operation)
    return found


def _badge(status: int) -> Html:
    return element("span", str(status), class_=f"status s{status // 100}")


ROUTES: Final = [docs, docs_file, problems, one_problem]

"""Pages for people: `/docs`, which shows `/openapi.json`, and `/problems`, one page for each code of the catalogue.

Everything they need is served from here; the Content-Security-Policy allows nothing else.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from litestar import Response, get
from litestar.params import FromPath

from domain.errors import CATALOGUE, NotFoundError

_FOLDER: Final = Path(__file__).parent

_FILES: Final = {
    name: (media_type, (_FOLDER / name).read_bytes())
    for name, media_type in {
        "style.css": "text/css",
        "docs.js": "text/javascript",
    }.items()
}

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Daybook</title>
<link rel="stylesheet" href="/docs/style.css">
{head}</head>
<body>
<header><a href="/docs">Daybook</a><nav><a href="/docs">API</a><a href="/problems">Problems</a></nav></header>
<main>
{body}
</main>
</body>
</html>
"""


def _page(title: str, body: str, head: str = "") -> Response[str]:
    return Response(_PAGE.format(title=escape(title), body=body, head=head), media_type="text/html")


@get("/docs", described=False)
async def docs() -> Response[str]:
    """The API's documentation; a script draws it from `/openapi.json`."""
    script = '<script src="/docs/docs.js" defer></script>\n'
    note = '<p>This page is drawn by a script. The same for machines: <a href="/openapi.json">/openapi.json</a>.</p>'
    return _page("API", f'<div id="api"><noscript>{note}</noscript></div>', script)


@get("/docs/{name:str}", described=False)
async def docs_file(name: FromPath[str]) -> Response[bytes]:
    """A file of these pages."""
    if name not in _FILES:
        raise NotFoundError
    media_type, content = _FILES[name]
    return Response(content, media_type=media_type, headers={"cache-control": "max-age=300"})


@get("/problems", described=False)
async def problems() -> Response[str]:
    """Every code that an error can have."""
    rows = "\n".join(
        f'<tr><td><a href="/problems/{code}"><code>{code}</code></a></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title)}</td><td>{escape(kind.advice)}</td></tr>"
        for code, kind in sorted(CATALOGUE.items(), key=lambda item: (item[1].status, item[0]))
    )
    head = "<tr><th>Code</th><th>Status</th><th>Title</th><th>What to do</th></tr>"
    intro = (
        "<p>Every error is a problem object (RFC 9457). Its <code>code</code> says what happened and never changes.</p>"
    )
    return _page(
        "Problems", f"<h1>Problems</h1>\n{intro}\n<table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table>"
    )


@get("/problems/{code:str}", described=False)
async def one_problem(code: FromPath[str]) -> Response[str]:
    """What a code means, and what to do about it."""
    kind = CATALOGUE.get(code)
    if kind is None:
        raise NotFoundError
    body = (
        f"<h1>{escape(kind.title)}</h1>\n"
        f'<p class="facts"><span class="status s{kind.status // 100}">{kind.status}</span> <code>{code}</code></p>\n'
        f"<h2>What to do</h2>\n<p>{_marked(kind.advice)}</p>\n"
        '<p><a href="/problems">All problems</a></p>'
    )
    return _page(kind.title, body)


def _marked(text: str) -> str:
    """Escaped text, with `code` between backquotes."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


ROUTES: Final = [docs, docs_file, problems, one_problem]

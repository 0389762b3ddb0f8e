"""The API with one route more: a bare one of Litestar's, outside the product's layers, in the same server process.

`python -m tests.benchmarks.bare` serves it as `daybook api` serves the product.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from litestar import Litestar, Response, get

from api.app import create_app
from cli import serve
from infrastructure import settings
from infrastructure.processes import Program, answers, await_ready, choose_port, start, stop

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

PATH: Final = "/bare"
# as long as an account's body
_BODY: Final = b'{"text":"' + b"x" * 400 + b'"}'


@get(PATH)
async def bare() -> Response[bytes]:
    """Nothing but an answer."""
    return Response(_BODY, media_type="application/json")


def create_with_bare_route() -> ASGIApp:
    """The product, and beside it an application with the one route."""
    product = create_app()
    plain = Litestar([bare], openapi_config=None, logging_config=None)

    async def serve_either(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await plain(scope, receive, send)
        else:
            await product(scope, receive, send)

    return serve_either


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[int]:
    """The port it listens on, for the length of a `with`."""
    port = choose_port()
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        program = Program(
            name="bare",
            command=(sys.executable, "-m", "tests.benchmarks.bare"),
            env={**os.environ, **environment, "DAYBOOK_PORT": str(port)},
            log=Path(output.name),
            ready=lambda: answers(port, f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), expected=b"HTTP/1.1 200"),
        )
        process = start(program)
        try:
            await_ready(program, process, seconds=30)
            yield port
        finally:
            stop(program, process, seconds=10)


if __name__ == "__main__":
    serve.run_server("tests.benchmarks.bare:create_with_bare_route", settings.load())

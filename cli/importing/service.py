"""The service as a client sees it: logged in, patient with an overloaded or restarting one, never twice the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx

# What a bulk request with `Prefer: wait=30` may take, and a little more.
TIMEOUT_S: Final = 45.0
# How long the service may be away or refuse for want of room before the import gives up.
PATIENCE_S: Final = 300.0
_LONGEST_PAUSE_S: Final = 15.0
_TRY_AGAIN: Final = (429, 502, 503, 504)


class ServiceError(Exception):
    """The service can't be reached, or refuses what was asked; the message is for the person at the terminal."""


class Service:
    """A logged-in connection. Requests that can't be answered now are repeated: give each a key of its own.

    `clock` and `pause` are time.monotonic and time.sleep, for tests to replace.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, headers={"user-agent": "daybook-import"})
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url!r} is not a URL: {error}") from None
        self._username = username
        self._password = password
        self._clock = clock
        self._pause = pause
        self._refresh_token = ""  # none yet  # nosec B105

    def __enter__(self) -> Self:
        try:
            self._log_in()
        except BaseException:
            self._http.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._http.post("/auth/logout", timeout=2)
        except httpx.HTTPError:
            pass  # the session ends by itself; what matters has been done
        finally:
            self._http.close()

    def get(
        self, path: str, *, headers: Mapping[str, str] | None = None, query: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Any answer but those that ask to come back. Raises ServiceError."""
        return self._send("GET", path, headers or {}, b"", query or {})

    def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
    ) -> httpx.Response:
        """Any answer but those that ask to come back. Raises ServiceError."""
        return self._send("POST", path, {"content-type": media_type, **(headers or {})}, body, {})

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: Mapping[str, str]
    ) -> httpx.Response:
        def ask() -> httpx.Response:
            return self._http.request(method, path, headers=headers, content=body, params=query)

        answer = self._patiently(ask)
        if answer.status_code == 401:
            self._log_in_again()
            answer = self._patiently(ask)
        return answer

    def _patiently(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """Repeats what fails or is refused for now, as late as Retry-After says, with growing pauses between."""
        deadline = self._clock() + PATIENCE_S
        pause_s = 0.5
        while True:
            try:
                answer = ask()
                trouble = f"{answer.status_code} {answer.reason_phrase}"
                wished_s = _seconds(answer.headers.get("retry-after"))
            except httpx.TransportError as error:
                answer, trouble, wished_s = None, str(error) or type(error).__name__, 0.0
            if answer is not None and answer.status_code not in _TRY_AGAIN:
                return answer
            wait_s = max(wished_s, pause_s * random.uniform(0.5, 1))  # a pause is no secret  # nosec B311
            if self._clock() + wait_s > deadline:
                raise ServiceError(f"{self._http.base_url}: {trouble}; gave up after {PATIENCE_S:.0f} s.")
            self._pause(wait_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _log_in(self) -> None:
        login = {"username": self._username, "password": self._password}
        answer = self._patiently(lambda: self._http.post("/auth/login", json=login))
        if answer.status_code != 200:
            raise ServiceError(f"Can't log in as {self._username!r}: {describe(answer)}")
        self._keep(answer.json())

    def _log_in_again(self) -> None:
        """With the refresh token, and with the password if the session has ended."""
        token = {"refresh_token": self._refresh_token}
        answer = self._patiently(lambda: self._http.post("/auth/refresh", json=token))
        if answer.status_code == 200:
            self._keep(answer.json())
        else:
            self._http.headers.pop("authorization", None)
            self._log_in()

    def _keep(self, tokens: dict[str, Any]) -> None:
        self._refresh_token = tokens["refresh_token"]
        self._http.headers["authorization"] = f"Bearer {tokens['access_token']}"


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The problem that the answer is, empty when it is none."""
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) and "code" in content else {}


def describe(answer: httpx.Response) -> str:
    """A problem in a line of text; whatever came instead of one, shortened."""
    problem = problem_of(answer)
    return f"{answer.status_code} " + (f"{problem['code']}: {problem['detail']}" if problem else answer.text[:200])


def _seconds(retry_after: str | None) -> float:
    # Daybook sends seconds; a proxy's date counts as nothing said
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0

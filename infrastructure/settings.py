"""Configuration: one frozen `Settings`, parsed once from the environment, refusing nonsense with a clear message.

Each field carries its environment variable's meaning; `daybook settings` and the README's table are made from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final, TypeVar

from infrastructure.safety import dangers

T = TypeVar("T")

PREFIX: Final = "DAYBOOK_"


class SettingsError(Exception):
    """The environment holds values the service can't run with; the message lists every one of them."""


def _text(raw: str) -> str:
    return raw


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not (raw.isascii() and raw.isdigit() and low <= int(raw) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(raw)

    return parse


def _choice(*options: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return raw

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if not raw.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must be a URL starting with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return raw

    return parse


def _names(raw: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in raw.split(",") if name.strip())


def _networks(raw: str) -> tuple[str, ...]:
    names = _names(raw)
    for name in names:
        try:
            ip_network(name, strict=False)
        except ValueError:
            raise ValueError(f"must be addresses or networks like 10.0.0.0/8, and {name!r} is neither") from None
    return names


def _secret(raw: str) -> str:
    if len(raw.encode()) < 32:
        raise ValueError("must be at least 32 bytes long")
    return raw


def _basic(raw: str) -> str:
    # Flower takes several users, as `name:password,name:password`
    if "," in raw:
        raise ValueError("must not contain a comma")
    return raw


def _setting(default: T, parse: Callable[[str], T], doc: str, *, secret: bool = False) -> T:
    """A field with its default, parser and one line for the table. An empty default means: must be set."""
    made: T = field(default=default, repr=not secret, metadata={"parse": parse, "doc": doc, "secret": secret})
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set, by environment variables of the same names in capitals behind `DAYBOOK_`."""

    environment: str = _setting(
        "development", _choice("development", "production"), "`production` refuses unsafe settings at start"
    )
    database_url: str = _setting(
        "", _url("postgresql", "postgres"), "Postgres 15 or newer, the only truth", secret=True
    )
    redis_url: str = _setting(
        "", _url("redis", "rediss"), "Redis or Valkey for cache, sessions, limits and live streams", secret=True
    )
    broker_url: str = _setting("", _text, "Celery's broker; the same as `DAYBOOK_REDIS_URL` when unset", secret=True)
    kafka_servers: str = _setting("", _text, "Kafka bootstrap servers, `host:port,host:port`")
    kafka_security: str = _setting(
        "plaintext", _choice("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"), "how Kafka's connections are protected"
    )
    kafka_mechanism: str = _setting(
        "SCRAM-SHA-512", _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"), "how Kafka is told the password, with SASL"
    )
    kafka_username: str = _setting("", _text, "user name at Kafka, with SASL")
    kafka_password: str = _setting("", _text, "password at Kafka, with SASL", secret=True)
    kafka_ca_file: str = _setting("", _text, "certificates of the authority Kafka's is signed by, with SSL")
    secret_key: str = _setting(
        "", _secret, "signs refresh tokens and seals the keys of access tokens; at least 32 random bytes", secret=True
    )
    former_secret_key: str = _setting(
        "", _secret, "the secret key before this one; its tokens stay good until they expire", secret=True
    )

    host: str = _setting("127.0.0.1", _text, "address the API listens on")
    port: int = _setting(8000, _number(1, 65535), "port the API listens on")
    api_processes: int = _setting(1, _number(1, 64), "API processes that share the port")
    public_url: str = _setting("", _text, "how clients reach the API, when a proxy stands before it")
    trusted_proxies: tuple[str, ...] = _setting(
        (), _networks, "addresses whose `X-Forwarded-For` is believed, comma-separated"
    )
    log_level: str = _setting("info", _choice("debug", "info", "warning", "error"), "least level that is logged")

    connections: int = _setting(
        10_000, _number(1, 1_000_000), "clients that may be connected to one API process; more are answered 503"
    )
    head_s: int = _setting(10, _number(1, 3_600), "seconds a client may take to send a request's headers")
    body_s: int = _setting(
        30,
        _number(1, 3_600),
        "seconds a client may take to send a body, or to read an answer; one more for each 16 KiB of it",
    )
    idle_s: int = _setting(75, _number(1, 3_600), "seconds a connection is kept open between two requests")

    access_token_s: int = _setting(900, _number(30, 86_400), "seconds an access token is valid")
    session_s: int = _setting(2_592_000, _number(60, 31_536_000), "seconds a session lasts at the longest")
    login_rate_address: int = _setting(60, _number(1, 1_000_000), "logins a minute from one address")
    login_rate_account: int = _setting(20, _number(1, 1_000_000), "logins a minute to one account")
    request_rate_address: int = _setting(
        600, _number(1, 1_000_000), "unauthenticated requests a second from one address"
    )
    request_rate_user: int = _setting(5_000, _number(1, 1_000_000), "requests a second of one user, API keys included")
    request_rate_operator: int = _setting(5_000, _number(1, 1_000_000), "requests a second of one operator")
    request_rate_admin: int = _setting(5_000, _number(1, 1_000_000), "requests a second of one administrator")

    mailbox_limit: int = _setting(1_000_000, _number(1, 100_000_000), "commands that may wait for one actor (then 503)")
    turn_commands: int = _setting(2_000, _number(1, 10_000), "commands a turn takes at the most")
    turn_postings: int = _setting(10_000, _number(1_000, 1_000_000), "postings a turn takes at the most")
    turn_attempts: int = _setting(3, _number(1, 100), "runs of one command that crash before it is a dead letter")
    turn_time_ms: int = _setting(2_000, _number(50, 30_000), "milliseconds a worker stays with one actor at the most")
    sweep_ms: int = _setting(
        2_000,
        _number(100, 600_000),
        "milliseconds between sweeps, and how long a command may wait before one rings for it",
    )
    statement_timeout_ms: int = _setting(15_000, _number(100, 600_000), "milliseconds one SQL statement may take")
    cache_ttl_s: int = _setting(300, _number(1, 86_400), "seconds a cached view lives at the longest")
    handlers: tuple[str, ...] = _setting((), _names, "modules with `@on(Event)` handlers to load, comma-separated")

    instance: int = _setting(1, _number(1, 1_000), "this process's number within its pool; `daybook up` counts them")
    state_dir: str = _setting(".daybook", _text, "folder for beat's schedule, and for the servers of `daybook up`")
    admin_username: str = _setting("admin", _text, "name of the first user, whom `daybook prepare` creates")
    admin_password: str = _setting(
        "",
        _text,
        "the first user's password, 12 characters or more; without it none is created; only `daybook prepare` reads it",
        secret=True,
    )
    flower_host: str = _setting("127.0.0.1", _text, "address Flower listens on")
    flower_port: int = _setting(5555, _number(1, 65535), "port Flower listens on")
    flower_user: str = _setting("operator", _basic, "Flower's user name")
    flower_password: str = _setting("", _basic, "Flower's password; Flower refuses to start without", secret=True)


REQUIRED: Final = ("database_url", "redis_url", "kafka_servers", "secret_key")


def parse(environ: Mapping[str, str], also: Collection[str] = ()) -> Settings:
    """Reads `DAYBOOK_*` from `environ`; the settings named in `also` must be there, too.

    Raises SettingsError naming every unknown variable, every value that makes no sense and everything missing; for
    production also every value that is not safe.
    """
    settings, wrong = examine(environ, also)
    if settings.environment == "production":
        wrong += dangers(settings, environ)
    if wrong:
        raise SettingsError("The settings can't be used:\n" + "\n".join(f"  - {line}" for line in sorted(wrong)))
    return settings


def examine(environ: Mapping[str, str], also: Collection[str] = ()) -> tuple[Settings, list[str]]:
    """The settings of `environ`, and what is wrong with it; what is wrong or missing is left at its default."""
    known = {PREFIX + spec.name.upper(): spec for spec in fields(Settings)}
    wrong = [f"{name} is not a setting" for name in environ if name.startswith(PREFIX) and name not in known]
    values: dict[str, Any] = {}
    for name, spec in known.items():
        raw = environ.get(name, "")
        if not raw:
            if spec.name in (*REQUIRED, *also):
                wrong.append(f"{name} is missing: {spec.metadata['doc']}")
            continue
        try:
            values[spec.name] = spec.metadata["parse"](raw)
        except ValueError as error:
            wrong.append(f"{name} {error}")
    values.setdefault("broker_url", values.get("redis_url", ""))
    return Settings(**values), wrong


@lru_cache(maxsize=2)
def load(*also: str) -> Settings:
    """The settings of this process, parsed from its environment at the first call; see `parse`."""
    return parse(os.environ, also)

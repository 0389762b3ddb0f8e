"""Production refuses to start with what can be guessed, read on the way, or was left open; it says all at once."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.up import read_procfile
from infrastructure.safety import KEY_BITS, KEY_BYTES, PASSWORD_BITS, PASSWORD_BYTES, estimated_bits, weakness
from infrastructure.settings import Settings, SettingsError, parse

ROOT = Path(__file__).parents[1]

KEY = secrets.token_urlsafe(36)
PASSWORDS = [secrets.token_urlsafe(18) for _ in range(6)]
DATABASE, REDIS, BROKER, KAFKA, ADMIN, FLOWER = PASSWORDS

SAFE = {
    "DAYBOOK_ENVIRONMENT": "production",
    "DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@db.internal:5432/daybook?sslmode=verify-full",
    "DAYBOOK_REDIS_URL": f"rediss://:{REDIS}@cache.internal:6379/0",
    "DAYBOOK_BROKER_URL": f"amqps://daybook:{BROKER}@queue.internal:5671//",
    "DAYBOOK_KAFKA_SERVERS": "kafka-1.internal:9093,kafka-2.internal:9093",
    "DAYBOOK_KAFKA_SECURITY": "sasl_ssl",
    "DAYBOOK_KAFKA_USERNAME": "daybook",
    "DAYBOOK_KAFKA_PASSWORD": KAFKA,
    "DAYBOOK_SECRET_KEY": KEY,
    "DAYBOOK_FORMER_SECRET_KEY": secrets.token_hex(16),
    "DAYBOOK_ADMIN_PASSWORD": ADMIN,
    "DAYBOOK_FLOWER_PASSWORD": FLOWER,
    "DAYBOOK_HOST": "0.0.0.0",
    "DAYBOOK_PUBLIC_URL": "https://books.internal",
    "DAYBOOK_TRUSTED_PROXIES": "10.1.2.0/24,fd00::/32,192.0.2.7",
}

# What one machine needs less of.
LOOPBACK = {
    "DAYBOOK_DATABASE_URL": "postgresql:///daybook?host=/run/postgresql",
    "DAYBOOK_REDIS_URL": "redis://127.0.0.1:6379/0",
    "DAYBOOK_BROKER_URL": "amqp://[::1]:5672//",
    "DAYBOOK_KAFKA_SERVERS": "localhost:9092",
    "DAYBOOK_KAFKA_SECURITY": "plaintext",
    "DAYBOOK_HOST": "127.0.0.1",
    "DAYBOOK_PUBLIC_URL": "",
}


SHOWN = r'DAYBOOK_\w*(?:SECRET_KEY|PASSWORD)"?\s*[:=]\s*("[^"\n]*"(?:\s*\*\s*\d+)?)'
"""A secret in a test: a Python expression."""


def complaints(**changed: str) -> list[str]:
    """What production says about the safe settings when these are changed."""
    try:
        parse({**SAFE, **changed})
    except SettingsError as error:
        return [line.removeprefix("  - ") for line in str(error).splitlines()[1:]]
    return []


def test_safe_settings_pass() -> None:
    assert complaints() == []
    assert complaints(**LOOPBACK) == []


UNSAFE = {
    "a key that is short": ({"DAYBOOK_SECRET_KEY": KEY[:31]}, "DAYBOOK_SECRET_KEY must be at least 32 bytes"),
    "a key that is an example": ({"DAYBOOK_SECRET_KEY": "my-super-secret-signing-key-2024-q"}, "DAYBOOK_SECRET_KEY"),
    "a key in disguise": ({"DAYBOOK_SECRET_KEY": "p4ssw0rd!p4$$w0rd!ZxY81kQm2vbNwE"}, "DAYBOOK_SECRET_KEY looks"),
    "a key of one character": ({"DAYBOOK_SECRET_KEY": "x" * 40}, "DAYBOOK_SECRET_KEY can be guessed"),
    "a key that repeats": ({"DAYBOOK_SECRET_KEY": "kQ9#mZ2!" * 5}, "DAYBOOK_SECRET_KEY can be guessed"),
    "a key that counts": ({"DAYBOOK_SECRET_KEY": "".join(map(chr, range(126, 90, -1)))}, "DAYBOOK_SECRET_KEY can be"),
    "a former key that is the present": ({"DAYBOOK_FORMER_SECRET_KEY": KEY}, "FORMER_SECRET_KEY is the same as"),
    "a former key that is weak": ({"DAYBOOK_FORMER_SECRET_KEY": "y" * 40}, "DAYBOOK_FORMER_SECRET_KEY can be"),
    "a password that is the key": ({"DAYBOOK_ADMIN_PASSWORD": KEY}, "ADMIN_PASSWORD is the same as DAYBOOK_SECRET_KEY"),
    "a password for two": ({"DAYBOOK_FLOWER_PASSWORD": ADMIN}, "FLOWER_PASSWORD is the same as DAYBOOK_ADMIN"),
    "a first user's password": ({"DAYBOOK_ADMIN_PASSWORD": "admin"}, "DAYBOOK_ADMIN_PASSWORD is shorter than 16"),
    "a known password": ({"DAYBOOK_ADMIN_PASSWORD": "Password12345678"}, "DAYBOOK_ADMIN_PASSWORD looks like"),
    "a Flower password of few": ({"DAYBOOK_FLOWER_PASSWORD": "abababababababab"}, "FLOWER_PASSWORD can be guessed"),
    "two users of Flower": ({"DAYBOOK_FLOWER_PASSWORD": f"{FLOWER},eve:x"}, "FLOWER_PASSWORD must not contain a comma"),
    "a user's comma": ({"DAYBOOK_FLOWER_USER": "eve:x,operator"}, "FLOWER_USER must not contain a comma"),
    "Postgres without TLS": (
        {"DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@db.internal/daybook"},
        "DAYBOOK_DATABASE_URL reaches db.internal without TLS",
    ),
    "Postgres with TLS if it likes": (
        {"DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@db.internal/daybook?sslmode=prefer"},
        "DAYBOOK_DATABASE_URL reaches db.internal without TLS",
    ),
    "Postgres that trusts": (
        {"DAYBOOK_DATABASE_URL": "postgresql://daybook@db.internal/daybook?sslmode=require"},
        "DAYBOOK_DATABASE_URL reaches db.internal without a password",
    ),
    "Postgres with a known password": (
        {"DAYBOOK_DATABASE_URL": "postgresql://daybook:postgres@db.internal/daybook?sslmode=require"},
        "The password in DAYBOOK_DATABASE_URL is shorter",
    ),
    "one of two Postgres without TLS": (
        {"DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@127.0.0.1:1,db.internal:2/daybook"},
        "DAYBOOK_DATABASE_URL reaches db.internal without TLS",
    ),
    "Postgres named in the query": (
        {"DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@/daybook?host=db.internal"},
        "DAYBOOK_DATABASE_URL reaches db.internal without TLS",
    ),
    "Postgres named beside it": (
        {"DAYBOOK_DATABASE_URL": f"postgresql://daybook:{DATABASE}@/daybook", "PGHOST": "db.internal"},
        "DAYBOOK_DATABASE_URL reaches db.internal without TLS",
    ),
    "Redis without TLS": (
        {"DAYBOOK_REDIS_URL": f"redis://:{REDIS}@10.0.0.5:6379/0"},
        "DAYBOOK_REDIS_URL reaches 10.0.0.5 without TLS",
    ),
    "Redis without a password": (
        {"DAYBOOK_REDIS_URL": "rediss://cache.internal:6379/0"},
        "DAYBOOK_REDIS_URL reaches cache.internal without a password",
    ),
    "Redis with any certificate": (
        {"DAYBOOK_REDIS_URL": f"rediss://:{REDIS}@cache.internal:6379/0?ssl_cert_reqs=none"},
        "DAYBOOK_REDIS_URL turns off the check of cache.internal's certificate",
    ),
    "a broker without TLS": (
        {"DAYBOOK_BROKER_URL": f"amqp://daybook:{BROKER}@queue.internal//"},
        "DAYBOOK_BROKER_URL reaches queue.internal without TLS",
    ),
    "a Redis broker without TLS": (
        {"DAYBOOK_BROKER_URL": f"redis://:{BROKER}@queue.internal/1"},
        "DAYBOOK_BROKER_URL reaches queue.internal without TLS",
    ),
    "a broker with its first password": (
        {"DAYBOOK_BROKER_URL": "amqps://guest:guest@queue.internal//"},
        "The password in DAYBOOK_BROKER_URL is shorter",
    ),
    "a broker nobody can judge": ({"DAYBOOK_BROKER_URL": "filesystem:///tmp/queue"}, "DAYBOOK_BROKER_URL is neither"),
    "a broker behind our back": (
        {"CELERY_BROKER_URL": "redis://elsewhere"},
        "CELERY_BROKER_URL is set, which Celery takes instead of DAYBOOK_BROKER_URL",
    ),
    "Kafka without anything": (
        {"DAYBOOK_KAFKA_SECURITY": "plaintext"},
        "KAFKA_SERVERS reaches kafka-1.internal, kafka-2.internal without TLS or password",
    ),
    "Kafka without a password": ({"DAYBOOK_KAFKA_SECURITY": "ssl"}, "kafka-2.internal without a password"),
    "Kafka without TLS": ({"DAYBOOK_KAFKA_SECURITY": "sasl_plaintext"}, "kafka-2.internal without TLS"),
    "Kafka without a user": ({"DAYBOOK_KAFKA_USERNAME": ""}, "set DAYBOOK_KAFKA_USERNAME and DAYBOOK_KAFKA_PASSWORD"),
    "no such authority": ({"DAYBOOK_KAFKA_CA_FILE": "/nowhere/ca.pem"}, "DAYBOOK_KAFKA_CA_FILE names no file"),
    "a public address without TLS": (
        {"DAYBOOK_PUBLIC_URL": "http://books.internal"},
        "DAYBOOK_PUBLIC_URL is not https",
    ),
    "every network": ({"DAYBOOK_PUBLIC_URL": ""}, "DAYBOOK_HOST opens the API to every network without TLS"),
    "every network of the sixth kind": (
        {"DAYBOOK_PUBLIC_URL": "", "DAYBOOK_HOST": "::"},
        "DAYBOOK_HOST opens the API to every network",
    ),
    "one network": ({"DAYBOOK_PUBLIC_URL": "", "DAYBOOK_HOST": "10.1.1.1"}, "DAYBOOK_HOST opens the API to 10.1.1.1"),
    "proxies of any name": ({"DAYBOOK_TRUSTED_PROXIES": "*"}, "DAYBOOK_TRUSTED_PROXIES"),
    "proxies everywhere": ({"DAYBOOK_TRUSTED_PROXIES": "0.0.0.0/0"}, "DAYBOOK_TRUSTED_PROXIES trusts all of"),
    "proxies in half the world": ({"DAYBOOK_TRUSTED_PROXIES": "::/1"}, "DAYBOOK_TRUSTED_PROXIES trusts all of"),
    "an open Flower": (
        {"DAYBOOK_FLOWER_HOST": "0.0.0.0", "DAYBOOK_FLOWER_PASSWORD": ""},
        "DAYBOOK_FLOWER_HOST opens Flower to every network without authentication",
    ),
    "a log that tells all": ({"DAYBOOK_LOG_LEVEL": "debug"}, "DAYBOOK_LOG_LEVEL is debug"),
    "DEBUG": ({"DEBUG": "1"}, "DEBUG is set"),
    "Litestar's DEBUG": ({"LITESTAR_DEBUG": "1"}, "LITESTAR_DEBUG is set"),
    "a DEBUG of our own": ({"DAYBOOK_DEBUG": "true"}, "DAYBOOK_DEBUG is not a setting"),
    "Flower's own back door": ({"FLOWER_UNAUTHENTICATED_API": "true"}, "FLOWER_UNAUTHENTICATED_API is set"),
}


@pytest.mark.parametrize(("changed", "expected"), UNSAFE.values(), ids=UNSAFE.keys())
def test_what_is_unsafe_is_refused_in_production_only(changed: dict[str, str], expected: str) -> None:
    found = complaints(**changed)
    assert any(expected in line for line in found), found
    assert len(found) <= 3, "what was not changed is complained about"
    for line in found:
        for secret in (KEY, *PASSWORDS, *(value for name, value in changed.items() if "KEY" in name or "PASS" in name)):
            assert not secret or secret not in line
    if all("must" not in line and "not a setting" not in line for line in found):
        parse({**SAFE, **changed, "DAYBOOK_ENVIRONMENT": "development"})


def test_all_that_is_wrong_is_said_at_once_and_how_to_mend_it() -> None:
    everything: dict[str, str] = {}
    for changed, _ in UNSAFE.values():
        everything |= changed
    found = complaints(**everything, DAYBOOK_PORT="none", DAYBOOK_COLOUR="red")
    assert len(found) >= 20
    assert "DAYBOOK_PORT must be a whole number from 1 to 65535" in found
    for line in found:
        assert ": " in line or "must" in line or "not a setting" in line, f"no word on how to mend it: {line}"


@given(st.sampled_from([secrets.token_urlsafe, secrets.token_hex]), st.integers(32, 64))
def test_random_keys_are_never_refused(make: object, size: int) -> None:
    secret = make(size)  # type: ignore[operator]
    assert weakness(secret, KEY_BYTES, KEY_BITS) is None


@given(st.text(min_size=1, max_size=8), st.integers(16, 40))
def test_what_repeats_is_always_refused(part: str, times: int) -> None:
    assert estimated_bits(part * times) < PASSWORD_BITS
    assert weakness(part * times, PASSWORD_BYTES, PASSWORD_BITS) is not None


def test_no_secret_that_the_repository_shows_is_accepted() -> None:
    """What documents, containers and tests use as secrets; the tests' own are Python expressions, as `"s" * 48`."""
    shown: set[str] = set()
    files = [ROOT / name for name in ("README.md", "docker-compose.yml", ".env.example", "Dockerfile", "Makefile")]
    for file in [*files, *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        if file == Path(__file__):
            continue
        text = file.read_text()
        for expression in re.findall(SHOWN, text):
            shown.add(eval(expression))
        shown |= set(re.findall(r"DAYBOOK_\w*(?:SECRET_KEY|PASSWORD)[:=]\s*([^\s$\"'`{]\S*)", text))
        shown |= set(re.findall(r"://[^\s:@/{]*:([^\s:@/{$]+)@", text))
    shown = {secret for secret in shown if len(secret) > 1}
    assert {"s" * 48, "k" * 32, "chosen by the operator"} <= shown
    accepted = {secret for secret in shown if weakness(secret, PASSWORD_BYTES, PASSWORD_BITS) is None}
    assert accepted == set()


def test_every_process_refuses_with_the_whole_list() -> None:
    unsafe = {
        **SAFE,
        "DAYBOOK_SECRET_KEY": "change-me-" * 4,
        "DAYBOOK_REDIS_URL": "redis://cache.internal",
        "DAYBOOK_FLOWER_PASSWORD": "",
        "DAYBOOK_LOG_LEVEL": "debug",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    commands = {**read_procfile(ROOT / "Procfile"), "prepare": ("daybook", "prepare")}
    assert {"api", "ledgers", "beat", "flower"} <= set(commands)
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "cli", *command[1:]],
            env={**inherited, **unsafe},
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for name, command in commands.items()
    }
    for name, process in running.items():
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 2, name
        for setting in ("SECRET_KEY looks like", "REDIS_URL reaches cache.internal without TLS", "LOG_LEVEL is debug"):
            assert f"DAYBOOK_{setting}" in said, name
        assert ("DAYBOOK_FLOWER_PASSWORD is missing" in said) == (name == "flower")
        assert "Traceback" not in said
        assert "change-me" not in said


def test_development_needs_none_of_this() -> None:
    settings = parse(
        {
            "DAYBOOK_DATABASE_URL": "postgresql://db.internal/daybook",
            "DAYBOOK_REDIS_URL": "redis://cache.internal",
            "DAYBOOK_KAFKA_SERVERS": "kafka.internal:9092",
            "DAYBOOK_SECRET_KEY": "s" * 48,
        }
    )
    assert isinstance(settings, Settings)

"""What production refuses to start with: secrets that can be guessed, servers that anybody on the way can read.

Each line names the setting, says what is wrong and how to mend it, and never shows a secret. Nothing is contacted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from infrastructure.settings import Settings

    Rule: TypeAlias = Callable[["Settings", Mapping[str, str]], Iterator[str]]

KEY_BYTES: Final = 32
KEY_BITS: Final = 96
PASSWORD_BYTES: Final = 16
PASSWORD_BITS: Final = 50
"""Estimates (`estimated_bits`): 32 random hexadecimal digits have about 120, sixteen random letters about 60."""

MAKE_ONE: Final = "put a random one there, as from python3 -c 'import secrets; print(secrets.token_urlsafe(36))'"

# Each is long enough not to come up in random text by chance.
EXAMPLES: Final = (
    *("changeme", "changethis", "replaceme", "replacethis", "placeholder", "example", "sample", "default", "yourown"),
    *("password", "passwort", "passphrase", "secret", "insecure", "unsafe", "letmein", "qwerty", "qwertz", "iloveyou"),
    *("administrator", "superuser", "operator", "postgres", "daybook", "flower", "chosenby", "correcthorse"),
    *("12345678", "87654321", "abcdefgh", "11111111", "00000000"),
)
BEGINNINGS: Final = ("test", "admin", "dummy", "guest", "demo", "todo")
_UNDISGUISED: Final = str.maketrans("4301$5@", "aeoissa")

SAFE_POSTGRES_TLS: Final = ("require", "verify-ca", "verify-full")
DEBUG_SWITCHES: Final = (
    *("DEBUG", "LITESTAR_DEBUG", "LITESTAR_PDB", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE"),
    *("FLOWER_DEBUG", "FLOWER_UNAUTHENTICATED_API"),
)
# Celery takes these before what it was told.
BROKER_SWITCHES: Final = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
LARGEST_PROXY_NETWORK: Final = {4: 8, 6: 16}
"""The shortest prefix that can still be a network of proxies."""


def dangers(chosen: Settings, environ: Mapping[str, str]) -> list[str]:
    """All that keeps these settings from production; empty when nothing does. Settings left empty are not judged."""
    return [line for rule in RULES for line in rule(chosen, environ)]


# -- secrets ----------------------------------------------------------------------------------------------------------


def weakness(secret: str, least_bytes: int, least_bits: int) -> str | None:
    """Why a secret can be guessed, or None. The answer does not tell the secret."""
    plain = "".join(filter(str.isalnum, secret.lower()))
    undisguised = plain.translate(_UNDISGUISED)
    if len(secret.encode()) < least_bytes:
        return f"is shorter than {least_bytes} bytes"
    if any(word in plain or word in undisguised for word in EXAMPLES) or plain.startswith(BEGINNINGS):
        return "looks like an example or a common password"
    if estimated_bits(secret) < least_bits:
        return "can be guessed: it is made of few, repeated or consecutive characters"
    return None


def estimated_bits(secret: str) -> float:
    """How much there is to guess, at the most: what repeats an earlier part, or goes on counting, adds little."""
    each = math.log2(max(2, len(set(secret))))
    bits, at = 0.0, 0
    while at < len(secret):
        length = max(_repeated(secret, at), _counted(secret, at))
        bits += each if length == 1 else 2.0
        at += length
    return bits


def _repeated(secret: str, at: int) -> int:
    """How many characters from `at` on were there before, in this order; 1 when fewer than three were."""
    length = 3
    if at + length > len(secret) or secret[at : at + length] not in secret[: at + length - 1]:
        return 1
    while at + length < len(secret) and secret[at : at + length + 1] in secret[: at + length]:
        length += 1
    return length


def _counted(secret: str, at: int) -> int:
    """How many characters from `at` on go up or down by one, as in `abcd` or `4321`; 1 when fewer than three do."""
    step, length = 0, 1
    while at + length < len(secret):
        difference = ord(secret[at + length]) - ord(secret[at + length - 1])
        if abs(difference) != 1 or (step and difference != step):
            break
        step, length = difference, length + 1
    return length if length >= 3 else 1


def _secrets(chosen: Settings) -> dict[str, tuple[str, int, int]]:
    """Every secret that is set, by the name it is called, with the least it must have in bytes and bits."""
    keys = {"DAYBOOK_SECRET_KEY": chosen.secret_key, "DAYBOOK_FORMER_SECRET_KEY": chosen.former_secret_key}
    passwords = {
        "The password in DAYBOOK_DATABASE_URL": _password_of(chosen.database_url),
        "The password in DAYBOOK_REDIS_URL": _password_of(chosen.redis_url),
        "The password in DAYBOOK_BROKER_URL": _password_of(chosen.broker_url),
        "DAYBOOK_KAFKA_PASSWORD": chosen.kafka_password,
        "DAYBOOK_ADMIN_PASSWORD": chosen.admin_password,
        "DAYBOOK_FLOWER_PASSWORD": chosen.flower_password,
    }
    if chosen.broker_url == chosen.redis_url:
        del passwords["The password in DAYBOOK_BROKER_URL"]
    return {
        **{name: (secret, KEY_BYTES, KEY_BITS) for name, secret in keys.items() if secret},
        **{name: (secret, PASSWORD_BYTES, PASSWORD_BITS) for name, secret in passwords.items() if secret},
    }


def _guessable(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    for name, (secret, least_bytes, least_bits) in _secrets(chosen).items():
        why = weakness(secret, least_bytes, least_bits)
        if why is not None:
            yield f"{name} {why}: {MAKE_ONE}"


def _shared(chosen: Settings, _environ: Mapping[str, str]) -> Iterator[str]:
    """One that leaks must not open another door; a former key that is the present one is no rotation."""
    same_server = {"The password in DAYBOOK_REDIS_URL", "The password in DAYBOOK_BROKER_URL"}
    if _hosts_of(chosen.redis_url) != _hosts_of(chosen.broker_url):
        same_server = set()
    secrets = {name: secret for name, (secret, _, _) in _secrets(chosen).items()}
    for one, other in combinations(secrets, 2):
        if secrets[one] == secrets[other] and {one, other} != same_server:
            yield f"{other} is the same as {one.replace('The', 'the')}: {MAKE_ONE}"


# -- servers ----------------------------------------------------------------------------------------------------------


def _postgres(chosen: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    name, query = "DAYBOOK_DATABASE_URL", _query_of(chosen.database_url)
    hosts = query["host"].split(",") if "host" in query else _hosts_of(chosen.database_url)
    away = _away(hosts if any(hosts) else environ.get("PGHOST", "").split(","))
    if not (chosen.database_url and away):
        return
    if query.get("sslmode", environ.get("PGSSLMODE", "")) not in SAFE_POSTGRES_TLS:
        yield f"{name} reaches {away} without TLS: add ?sslmode=verify-full (at the least sslmode=require)"
    if not (_password_of(chosen.database_url) or "sslcert" in query):
        yield f"{name} reaches {away} without a password: put user:password@ before its host, and have Postgres ask"


def _redis(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    yield from _redis_like("DAYBOOK_REDIS_URL", chosen.redis_url, "redis")


def _broker(chosen: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    name, url = "DAYBOOK_BROKER_URL", chosen.broker_url
    for other in BROKER_SWITCHES:
        if environ.get(other):
            yield f"{other} is set, which Celery takes instead of {name}: unset it"
    scheme = url.partition("://")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        yield from _redis_like(name, url, "amqp")
    elif scheme in ("redis", "rediss"):
        if url != chosen.redis_url:
            yield from _redis_like(name, url, "redis")
    elif url:
        yield f"{name} is neither rediss:// nor amqps://: use one of these, whose protection can be judged"


def _redis_like(name: str, url: str, scheme: str) -> Iterator[str]:
    """Of a URL whose scheme says by an added `s` that it is protected by TLS."""
    away, query = _away(_hosts_of(url)), _query_of(url)
    if not (url and away):
        return
    if not url.startswith(f"{scheme}s://"):
        yield f"{name} reaches {away} without TLS: let it begin with {scheme}s://"
    if query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_") != "required" or (
        query.get("ssl_check_hostname", "true").lower() in ("false", "0", "no")
    ):
        yield f"{name} turns off the check of {away}'s certificate: take ssl_cert_reqs and ssl_check_hostname out of it"
    if not _password_of(url):
        yield f"{name} reaches {away} without a password: put :password@ before its host, and have the server ask"


def _kafka(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    servers = [_host(server) for server in chosen.kafka_servers.rpartition("://")[2].split(",")]
    away, security = _away(servers), chosen.kafka_security
    if security.startswith("sasl") and not (chosen.kafka_username and chosen.kafka_password):
        yield "DAYBOOK_KAFKA_SECURITY wants a user: set DAYBOOK_KAFKA_USERNAME and DAYBOOK_KAFKA_PASSWORD"
    if chosen.kafka_servers and away and security != "sasl_ssl":
        lacks = {"ssl": "without a password", "sasl_plaintext": "without TLS"}.get(security, "without TLS or password")
        yield f"DAYBOOK_KAFKA_SERVERS reaches {away} {lacks}: set DAYBOOK_KAFKA_SECURITY to sasl_ssl"
    if chosen.kafka_ca_file and not Path(chosen.kafka_ca_file).is_file():
        yield "DAYBOOK_KAFKA_CA_FILE names no file: put there the certificates of Kafka's authority"


# -- what faces the network -------------------------------------------------------------------------------------------


def _public(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    if chosen.public_url and not chosen.public_url.startswith("https://"):
        yield "DAYBOOK_PUBLIC_URL is not https://: put a proxy that speaks TLS before the API, and its address here"
    if not chosen.public_url and not _is_loopback(chosen.host):
        yield (
            f"DAYBOOK_HOST opens the API to {_network_of(chosen.host)} without TLS: put a proxy that speaks TLS before "
            "it and set DAYBOOK_PUBLIC_URL to the proxy's https:// address, or listen on 127.0.0.1"
        )


def _proxies(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    for proxy in chosen.trusted_proxies:
        try:
            network = ip_network(proxy, strict=False)
        except ValueError:
            yield f"DAYBOOK_TRUSTED_PROXIES has {proxy!r}, which is no address: name your proxies by address or network"
            continue
        if network.prefixlen < LARGEST_PROXY_NETWORK[network.version]:
            yield f"DAYBOOK_TRUSTED_PROXIES trusts all of {network}: name your proxies alone"


def _flower(chosen: Settings, _: Mapping[str, str]) -> Iterator[str]:
    if not chosen.flower_password and not _is_loopback(chosen.flower_host):
        yield (
            f"DAYBOOK_FLOWER_HOST opens Flower to {_network_of(chosen.flower_host)} without authentication: "
            "set DAYBOOK_FLOWER_PASSWORD, or let Flower listen on 127.0.0.1"
        )


def _debugging(chosen: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    if chosen.log_level == "debug":
        yield "DAYBOOK_LOG_LEVEL is debug, which writes down what messages hold: set it to info"
    for name in DEBUG_SWITCHES:
        if environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            yield f"{name} is set: unset it"


RULES: Final[tuple[Rule, ...]] = (
    *(_guessable, _shared),
    *(_postgres, _redis, _broker, _kafka),
    *(_public, _proxies, _flower, _debugging),
)


# -- addresses --------------------------------------------------------------------------------------------------------


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _password_of(url: str) -> str:
    user = _split(url).netloc.rpartition("@")[0]
    return unquote(user.partition(":")[2]) or _query_of(url).get("password", "")


def _query_of(url: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(_split(url).query).items()}


def _hosts_of(url: str) -> list[str]:
    return [_host(server) for server in _split(url).netloc.rpartition("@")[2].split(",")]


def _host(server: str) -> str:
    """The host of `host:port`, `[::1]:port` or a host alone."""
    server = server.strip()
    if server.startswith("["):
        return server[1:].partition("]")[0]
    return server.partition(":")[0]


def _away(hosts: list[str]) -> str:
    """Those of the hosts that are not this machine."""
    return ", ".join(unquote(host) for host in hosts if not _is_loopback(unquote(host)))


def _is_loopback(host: str) -> bool:
    # without a host, or with a path, it is a socket of this machine
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _network_of(host: str) -> str:
    return "every network" if host.strip("0:.") == "" else host

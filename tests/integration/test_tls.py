"""Redis by TLS: every client checks whom it talks to, Celery's too, in the API and behind the gate of a worker."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infrastructure.broker import queues_of, tls_of
from infrastructure.embedded import Addresses

ROOT = Path(__file__).resolve().parents[2]

# Each client of Redis that there is, in a process of its own, since authorities are read once.
CLIENTS = {
    "the requests' connection": """
import asyncio
from infrastructure.redis import SharedRedis
async def main():
    shared = SharedRedis(settings.redis_url)
    try:
        await shared.call("PING")
    finally:
        await shared.close()
asyncio.run(main())
""",
    "the service's client": """
import asyncio
from infrastructure.redis import open_redis
async def main():
    async with open_redis(settings) as client:
        await client.ping()
asyncio.run(main())
""",
    "Celery, sending": """
from tasks.app import app
with app.connection_for_write() as connection:
    connection.connect()
    connection.default_channel.client.ping()
""",
    "Celery, in a worker": """
from tasks.gate import stand_guard, app
stand_guard()
with app.connection_for_read() as connection:
    connection.connect()
    connection.default_channel.client.ping()
""",
}
RUN = "from infrastructure.settings import load\nsettings = load()\n{code}\nprint('connected')"


@dataclass
class Guarded:
    """Valkey behind TLS: its port, and the file of the authority that vouches for `localhost` alone."""

    url: str
    authority: Path


@pytest.fixture(scope="module")
def guarded(servers: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    authority, private = folder / "authority.pem", folder / "key.pem"
    authority.write_bytes(certificate.public_bytes(pem))
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, private)
    at = urlsplit(servers.redis_url)
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    over = threading.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(at.hostname, at.port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async def serve() -> None:
        async with await asyncio.start_server(pipe, "127.0.0.1", 0, ssl=context, family=socket.AF_INET) as server:
            ports.put(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield Guarded(f"rediss://:{at.password}@localhost:{ports.get(timeout=10)}/0", authority)
    over.set()
    thread.join()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
    target.close()


def connects(client: str, url: str, authority: Path | None) -> bool:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DAYBOOK_", "SSL_"))}
    environment = {
        "DAYBOOK_DATABASE_URL": "postgresql://nowhere/x",
        "DAYBOOK_REDIS_URL": url,
        "DAYBOOK_KAFKA_SERVERS": "nowhere:1",
        "DAYBOOK_SECRET_KEY": "s" * 48,
        **({} if authority is None else {"SSL_CERT_FILE": str(authority)}),
    }
    run = subprocess.run(
        [sys.executable, "-c", RUN.format(code=CLIENTS[client])],
        env={**inherited, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "connected" in run.stdout


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_checks_whom_it_talks_to(guarded: Guarded, client: str) -> None:
    assert connects(client, guarded.url, guarded.authority)
    assert not connects(client, guarded.url, None), "an authority that nobody named is believed"
    other = guarded.url.replace("localhost", "127.0.0.1")
    assert not connects(client, other, guarded.authority), "a certificate of another host is believed"


def test_what_an_address_says_counts_and_plain_ones_stay_plain() -> None:
    found = tls_of("rediss://:x@cache.internal:6379/0?ssl_ca_certs=/etc/ca.pem")
    assert found == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": "/etc/ca.pem"}
    assert tls_of("amqps://x@queue.internal//") == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    assert tls_of("redis://:x@127.0.0.1") is None
    # what an address says to Celery, redis-py does not understand
    said = "rediss://:x@cache.internal:6379/1?ssl_cert_reqs=CERT_REQUIRED&visibility_timeout=300"
    assert queues_of(said) == (
        "rediss://:x@cache.internal:6379/1",
        {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True},
    )
    assert queues_of("redis://:x@127.0.0.1/2?socket_timeout=3") == ("redis://:x@127.0.0.1/2", {})
    assert queues_of("amqps://x@queue.internal//") is None
    assert tls_of("amqp://x@127.0.0.1") is None

"""How the broker is reached by TLS: checking the certificate and the name in it, which Celery by itself does not.

And how its queues are reached without Celery, to see who waits in them.
"""

from __future__ import annotations

import ssl
from typing import Any

from kombu.utils.url import parse_url


def tls_of(url: str) -> dict[str, Any] | None:
    """Celery's `broker_use_ssl` for a broker's address; None where it speaks without TLS.

    What the address says itself (`?ssl_ca_certs=…`) counts. Authorities are the system's, or those of `SSL_CERT_FILE`.
    """
    if url.startswith("rediss://"):
        said: dict[str, Any] = parse_url(url).get("ssl") or {}
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **said}
    if url.startswith("amqps://"):
        # None: the host of the address
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
    return None


def queues_of(url: str) -> tuple[str, dict[str, Any]] | None:
    """Where redis-py finds the queues of a broker, and its options: those in a broker's address are Celery's.

    None where the broker is not Redis: its queues can't be looked into.
    """
    if not url.startswith(("redis://", "rediss://")):
        return None
    return url.partition("?")[0], tls_of(url) or {}

"""How Celery reaches its broker by TLS: it checks the certificate and the name in it, which by itself it does not."""

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

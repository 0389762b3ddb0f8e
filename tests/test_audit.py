"""The audit of dependencies tells clean, vulnerable and not audited apart, on an advisory service of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from requirements.audit import FILES, FOLDER, pinned

REQUIREMENTS = f"""
alpha==1.0 \\
    --hash=sha256:{"a" * 64}
beta==2.0 \\
    --hash=sha256:{"b" * 64}
gamma==3.0 ; sys_platform == 'win32' \\
    --hash=sha256:{"c" * 64}
"""
ADVISORY = {
    "id": "TEST-2026-1",
    "summary": "Anybody may come in.",
    "affected": [
        {
            "package": {"name": "beta", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
        }
    ],
}


class Service(ThreadingHTTPServer):
    """Speaks OSV's protocol: against whom there are advisories, and of whom it can't tell."""

    vulnerable: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        body = json.dumps({"vulns": [ADVISORY]} if asked in self.server.vulnerable else {}).encode()
        self.send_response(500 if asked in self.server.failing else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def audit(folder: Path, service: Service, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "some.txt"
    file.write_text(REQUIREMENTS)
    return subprocess.run(
        [sys.executable, str(FOLDER / "audit.py"), str(file)],
        env={**os.environ, "AUDIT_OSV_URL": f"http://127.0.0.1:{service.server_address[1]}/v1/query", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_clean(tmp_path: Path, service: Service) -> None:
    run = audit(tmp_path, service, AUDIT="required")
    assert (run.returncode, run.stdout) == (0, "Audited 2 packages: no advisory against any of them.\n"), run.stderr


def test_vulnerable(tmp_path: Path, service: Service) -> None:
    service.vulnerable = frozenset({"beta"})
    run = audit(tmp_path, service)
    assert run.returncode == 1
    assert run.stdout.splitlines() == ["VULNERABLE:", "  beta 2.0: TEST-2026-1 (fixed in 2.1)"]


@pytest.mark.parametrize(("required", "status"), [("", 0), ("required", 1)])
def test_a_service_that_does_not_answer_is_no_clean_audit(
    tmp_path: Path, service: Service, required: str, status: int
) -> None:
    service.failing = frozenset({"beta"})
    run = audit(tmp_path, service, AUDIT=required)
    assert run.returncode == status
    assert run.stdout.startswith("NOT AUDITED:")
    assert "AUDIT=required makes this an error" in run.stdout
    assert len(run.stdout.splitlines()) == 1


def test_every_locked_package_is_asked_about() -> None:
    names = pinned([FOLDER / name for name in FILES])
    assert {"litestar", "asyncpg", "celery", "pytest"} <= set(names)
    assert names["uvloop"] is False, "it is behind a marker"
    lines = "".join((FOLDER / name).read_text() for name in FILES).splitlines()
    assert set(names) == {line.partition("==")[0] for line in lines if "==" in line and line[0].isalnum()}

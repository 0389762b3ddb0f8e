"""The log: one JSON object a line, whoever writes at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

THREADS = 16
LINES = 1_000

PROGRAM = f"""
import sys
import threading
import structlog
from infrastructure.logs import configure_logging
from infrastructure.settings import parse

configure_logging(parse({{
    "DAYBOOK_DATABASE_URL": "postgresql://nowhere", "DAYBOOK_REDIS_URL": "redis://nowhere",
    "DAYBOOK_KAFKA_SERVERS": "nowhere:9092", "DAYBOOK_SECRET_KEY": "k" * 32,
}}))
log = structlog.get_logger("test")
# threads take turns as often as they can
sys.setswitchinterval(1e-6)

def write():
    for number in range({LINES}):
        log.info("line", number=number)

threads = [threading.Thread(target=write) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_lines_of_several_threads_stay_apart() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    lines = ran.stderr.splitlines()
    assert len(lines) == THREADS * LINES
    assert {json.loads(line)["event"] for line in lines} == {"line"}

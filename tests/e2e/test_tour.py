"""The README's tour, typed in as it stands: every block runs, and shows what it says it shows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.stack import Stack

README = Path(__file__).parents[2] / "README.md"

_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_SHOWN = re.compile(r"^#> (.*)$", re.MULTILINE)
_END = "=== end of block ==="


def blocks() -> list[str]:
    """The tour's shell blocks, in order."""
    _, _, tour = README.read_text().partition("## Five minutes")
    return _BLOCK.findall(tour.partition("\n## ")[0])


def test_the_tour_shows_what_it_says(stack: Stack, tmp_path: Path) -> None:
    script = f"\necho '{_END}'\n".join(blocks()).replace("/tmp/", f"{tmp_path}/")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "CONNECTION": str(stack.state / "connection.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for block, output in zip(blocks(), ran.stdout.split(_END), strict=True):
        shown = _SHOWN.findall(block)
        assert shown, f"a block that shows nothing:\n{block}"
        for excerpt in shown:
            assert excerpt in output, f"{excerpt!r} is not in what this block prints:\n{block}\n{output}"

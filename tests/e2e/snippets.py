"""Shell snippets in documentation, typed in as they stand: every block runs, and shows what it says it shows.

A line `#> text` says what the block prints, in that order: the text is somewhere in the output, behind the one before.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.stack import Stack

_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_SHOWN = re.compile(r"^#> (.*)$", re.MULTILINE)
_END = "=== end of block ==="


def blocks_of(text: str) -> list[str]:
    """The shell blocks of a page, in order."""
    return _BLOCK.findall(text)


def run(stack: Stack, blocks: Sequence[str], scratch: Path) -> None:
    """Types the blocks into one shell. Fails where a command does, or where something else is shown."""
    script = f"\necho '{_END}'\n".join(blocks).replace("/tmp/", f"{scratch}/")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "CONNECTION": str(stack.state / "connection.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    for block, output in zip(blocks, ran.stdout.split(_END), strict=True):
        shown = _SHOWN.findall(block)
        assert shown, f"a block that shows nothing:\n{block}"
        rest = output
        for excerpt in shown:
            before, found, rest = rest.partition(excerpt)
            assert found, f"{excerpt!r} is not in what is left of what this block prints:\n{block}\n{before}"

"""Who listens on a port of this machine, as far as the kernel tells us."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"


def listener(port: int) -> str | None:
    """Name and pid of the process that listens on a TCP port; None if nobody does, or it can't be seen. Linux only."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(Path("/proc/net") / table, port)}
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return None


def _inodes(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [line[9] for line in fields if line[3] == _LISTEN and int(line[1].rpartition(":")[2], 16) == port]

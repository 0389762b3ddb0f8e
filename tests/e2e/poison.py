"""A module that the workers of a test load as if it held handlers of events (`DAYBOOK_HANDLERS`): it spoils commands.

What a transaction's description says happens when it is decided: `raise!` raises, `kill!` kills the worker's process as
the kernel does when memory runs out, `hold!` and a file's path waits for as long as there is such a file.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from domain.catalog import HANDLERS
from domain.ledger.commands import PostTransaction
from domain.messages import Event

_decide = HANDLERS[PostTransaction]


def spoilt(command: PostTransaction, *others: Any) -> list[Event]:
    what, _, path = (command.description or "").partition("!")
    if what == "raise":
        raise RuntimeError("spoilt")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "hold" and Path(path).exists():
        time.sleep(0.01)
    return _decide(command, *others)


HANDLERS[PostTransaction] = spoilt  # type: ignore[index]

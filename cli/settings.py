"""`daybook settings`: every setting, what it is now, and what it means."""

from __future__ import annotations

import os
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from infrastructure.settings import PREFIX, Settings


def show() -> None:
    """List the settings with their values in this environment. Secrets are not shown."""
    table = Table("variable", "value", "meaning")
    for spec in fields(Settings):
        name = PREFIX + spec.name.upper()
        raw = os.environ.get(name, "")
        value = "(set)" if raw and spec.metadata["secret"] else raw or str(spec.default)
        table.add_row(name, value, spec.metadata["doc"])
    Console().print(table)

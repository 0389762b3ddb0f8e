"""The README's table of settings is the one the program has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from infrastructure.settings import PREFIX, REQUIRED, Settings

README = Path(__file__).parents[1] / "README.md"


def table() -> str:
    """The settings as the README shows them."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for spec in fields(Settings):
        default = spec.default
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        cell = "required" if spec.name in REQUIRED else f"`{shown}`" if shown else ""
        rows.append(f"| `{PREFIX}{spec.name.upper()}` | {cell} | {spec.metadata['doc']} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_true() -> None:
    _, _, rest = README.read_text().partition("<!-- settings -->\n")
    shown, found, _ = rest.partition("\n<!-- /settings -->")
    assert found, "the README has no table of settings"
    assert shown == table()

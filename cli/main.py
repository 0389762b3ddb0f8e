"""The `daybook` command. Each subcommand names its function as text, and only the one that is run gets imported."""

from __future__ import annotations

import sys
from importlib.metadata import version

from cyclopts import App

from infrastructure.settings import SettingsError

app = App(name="daybook", help="A self-hosted double-entry ledger service.", version=lambda: version("daybook"))

app.command("cli.up:up", name="up")
app.command("cli.serve:api", name="api")
app.command("cli.serve:worker", name="worker")
app.command("cli.serve:beat", name="beat")
app.command("cli.serve:flower", name="flower")
app.command("cli.prepare:migrate", name="migrate")
app.command("cli.prepare:prepare", name="prepare")
app.command("cli.settings:show", name="settings")


def main() -> None:
    """Runs the command line; ends with status 2 and a plain message when the settings make no sense."""
    try:
        app()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

"""The `daybook` command. Each subcommand names its function as text, and only the one that is run gets imported."""

from __future__ import annotations

import sys
from importlib.metadata import version

from cyclopts import App

from infrastructure.settings import SettingsError

app = App(name="daybook", help="A self-hosted double-entry ledger service.", version=lambda: version("daybook"))

app.command("cli.up:up", name="up", help="Run everything on this machine: servers, API, workers, beat and Flower.")
app.command("cli.serve:api", name="api", help="Run the HTTP API.")
app.command("cli.serve:worker", name="worker", help="Run a Celery worker of one pool.")
app.command("cli.serve:beat", name="beat", help="Run Celery's scheduler.")
app.command("cli.serve:flower", name="flower", help="Run Flower, Celery's monitor.")
app.command("cli.prepare:migrate", name="migrate", help="Bring the database's schema to the newest version.")
app.command("cli.prepare:prepare", name="prepare", help="Migrate, create topics and the first user; safe to repeat.")
app.command("cli.users:app", name="users", help="Add users.")
app.command("cli.keys:app", name="keys", help="Keys that sign access tokens: list, rotate, retire.")
app.command("cli.events:app", name="events", help="Publish events again; see how far subscribers are behind.")
app.command("cli.importing.command:import_file", name="import", help="Post a CSV file's transactions through the API.")
app.command("cli.verify:verify", name="verify", help="Recompute the books from the journal; say what differs.")
app.command("cli.rebuild:rebuild", name="rebuild", help="Make what is kept of ledgers again, from their journals.")
app.command("cli.doctor:doctor", name="doctor", help="Say what is wrong: settings, servers, migrations, queues.")
app.command("cli.settings:show", name="settings", help="List the settings, their values and meanings.")


def main() -> None:
    """Runs the command line; ends with status 2 and a plain message when the settings make no sense."""
    try:
        app()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

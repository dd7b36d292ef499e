"""The command `migrate`: the tables of the database, before the service starts."""

from __future__ import annotations

import click

from backend.settings import load_settings, prepare_data_dir


@click.command()
def migrate() -> None:
    """Make the tables of the database, or bring those of an earlier release up to date.

    The service does the same at its start. Alone, it shows a failure before old processes end.
    """
    from backend.storage.database import WORKER_BUSY_MS
    from backend.storage.store import open_store

    settings = load_settings()
    prepare_data_dir(settings)
    store = open_store(settings.database, busy_ms=WORKER_BUSY_MS)
    store.create()
    store.close()
    click.echo("The tables of the database are those of this release.")

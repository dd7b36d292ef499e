"""The identity of this installation."""

from __future__ import annotations

import secrets

from backend.storage.database import Database
from backend.storage.tables import Project


class Installation:
    """The id and the secret of this installation, made once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def answer(self, project: Project | None) -> str:
        """Return the model version that /setup answers: the live one, or this installation's name.

        Label Studio stores the answer in the project's ML backend entry; it identifies our entry.
        """
        if project is not None and project.live_version:
            return project.live_version
        return f"firstlight-{self.id}"

    @property
    def id(self) -> str:
        """Eight hex digits, the same for as long as the database lives."""
        return self._database.once("installation", secrets.token_hex(4))

    @property
    def webhook_secret(self) -> str:
        """The secret that webhooks carry if WEBHOOK_SECRET is not set; made once."""
        return self._database.once("webhook secret", secrets.token_urlsafe(32))

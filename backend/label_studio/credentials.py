"""The credentials that Label Studio sends with its requests to us."""

from __future__ import annotations

from collections.abc import Callable

from backend.settings import Settings

SECRET_HEADER = "X-Webhook-Secret"  # noqa: S105


def entry_credentials(settings: Settings) -> dict[str, str]:
    """Return the fields of a backend entry that let Label Studio sign its requests to us."""
    if not settings.basic_auth_user:
        return {"auth_method": "NONE"}
    return {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": settings.basic_auth_user,
        "basic_auth_pass": settings.basic_auth_pass.get_secret_value(),
    }


def webhook_secret(settings: Settings, stored: Callable[[], str]) -> str:
    """Return the secret that a webhook must send, "" if webhooks are open to everybody.

    Args:
        settings: WEBHOOK_SECRET wins. With neither it nor a password, webhooks are open.
        stored: Reads the secret that the database keeps for this installation.
    """
    if given := settings.webhook_secret.get_secret_value():
        return given
    return stored() if settings.basic_auth_user else ""


def webhook_headers(secret: str) -> dict[str, str]:
    """Return the headers of a webhook. Every account of Label Studio can read them there.

    So they hold the secret, which opens /webhook alone, and never the password.
    """
    return {SECRET_HEADER: secret} if secret else {}

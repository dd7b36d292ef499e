"""Who may call this service: what Label Studio is given to sign with, and how it is checked."""

from __future__ import annotations

import base64
import hmac
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
    """Return the secret that a webhook has to bring, "" where webhooks are open to everybody.

    Args:
        settings: WEBHOOK_SECRET wins. Without a password and without it, webhooks are open.
        stored: Reads the secret that the database keeps for this installation.
    """
    if given := settings.webhook_secret.get_secret_value():
        return given
    return stored() if settings.basic_auth_user else ""


def webhook_headers(secret: str) -> dict[str, str]:
    """Return the headers of a webhook. Every account of Label Studio can read them there.

    So the password is never among them: the secret opens /webhook alone.
    """
    return {SECRET_HEADER: secret} if secret else {}


def has_basic_auth(authorization: str, settings: Settings) -> bool:
    """Return whether this header brings the user and password, if the settings have them."""
    if not settings.basic_auth_user:
        return True
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(_decoded(token), _pair(settings))


def has_secret(given: str, expected: str) -> bool:
    """Return whether this is the secret that is expected."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _pair(settings: Settings) -> bytes:
    return f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}".encode()


def _decoded(token: str) -> bytes:
    try:
        return base64.b64decode(token.strip())
    except ValueError:
        return b""

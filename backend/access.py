"""Who may call this service: what Label Studio is given to sign with, and how it is checked."""

from __future__ import annotations

import base64
import hmac

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


def webhook_headers(settings: Settings) -> dict[str, str]:
    """Return the headers of a webhook: Label Studio signs none by itself, so they lie with it."""
    headers = {}
    if settings.basic_auth_user:
        pair = base64.b64encode(_pair(settings)).decode()
        headers["Authorization"] = f"Basic {pair}"
    if secret := settings.webhook_secret.get_secret_value():
        headers[SECRET_HEADER] = secret
    return headers


def has_basic_auth(authorization: str, settings: Settings) -> bool:
    """Return whether this header brings the user and password, if the settings have them."""
    if not settings.basic_auth_user:
        return True
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(_decoded(token), _pair(settings))


def has_secret(given: str, settings: Settings) -> bool:
    """Return whether this is the secret of webhooks, if the settings have one."""
    expected = settings.webhook_secret.get_secret_value()
    return not expected or hmac.compare_digest(given.encode(), expected.encode())


def _pair(settings: Settings) -> bytes:
    return f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}".encode()


def _decoded(token: str) -> bytes:
    try:
        return base64.b64decode(token.strip())
    except ValueError:
        return b""

"""Read Label Studio's answers, and turn its refusals into our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from backend.errors import LabelStudioError, NotFound, Unauthorized, Unreachable

MOST = 2**63 - 1  # the largest integer of a database
DEEPEST = 9  # levels of an error that are read; Label Studio is known to nest two or three


def decoded(response: httpx.Response) -> Any:
    """Return the JSON of an answer, with "?" for lone surrogates: no database stores those."""
    found = response.json()
    if b"\\ud" not in response.content.lower():
        return found
    return json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))


def fits(found: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> bool:
    """Return whether a field exists, has the type, and is no integer too large for a database."""
    value = found.get(name, fits)  # the default, a function, is of no type in use
    if isinstance(value, int) and abs(value) > MOST:
        return False
    return isinstance(value, kind)


def annotator(annotation: Mapping[str, Any]) -> int:
    """Return the user id of the person who submitted an annotation, 0 if it names nobody."""
    user = annotation.get("completed_by")
    number = user.get("id") if isinstance(user, dict) else user
    if isinstance(number, bool) or not isinstance(number, int):
        return 0
    return number if 0 < number < 2**31 else 0


def is_label_studios(response: httpx.Response) -> bool:
    """Return whether an error comes from Label Studio itself, and not from a proxy."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return False
    own = isinstance(found, dict) and found.get("status_code") == response.status_code
    return own and isinstance(found.get("detail"), str)


def detail(response: httpx.Response) -> str:
    """Return Label Studio's own sentence about an error, and nothing else of the body."""
    try:
        return sentence(decoded(response)) or response.reason_phrase
    except (ValueError, RecursionError):
        return response.reason_phrase


def sentence(body: object) -> str:
    """Return Label Studio's own sentence in the decoded body of a refusal, "" without one."""
    found = body
    if isinstance(body, dict):
        found = body.get("validation_errors") or body.get("detail") or ""
    return "; ".join(_leaves(found))[:300]


def _leaves(found: object, deep: int = DEEPEST) -> Iterator[str]:
    """Yield the sentences in what Label Studio nests by field."""
    if isinstance(found, dict | list):
        for part in (found.values() if isinstance(found, dict) else found) if deep else ():
            yield from _leaves(part, deep - 1)
    elif found:
        yield str(found)


def refusal(status: int, detail: str) -> LabelStudioError:
    """Return the error that stands for a refused request.

    Args:
        status: The HTTP status of the answer.
        detail: Label Studio's own sentence.
    """
    if status in {401, 403}:
        return Unauthorized(
            f"Label Studio refused the request ({status}): {detail}", _token_fix(detail)
        )
    if status == 404:
        return NotFound(
            f"Label Studio does not have what it was asked for (404): {detail}",
            "Check the number of the project: it stands in the project's address in Label Studio, "
            "/projects/NUMBER. The token must be of somebody who may see the project. If the "
            "project's backend entry was deleted, connect the project again.",
        )
    if status == 429 or status >= 500:
        return Unreachable(
            f"Label Studio answered {status}.",
            "See Label Studio's log. The service asks again by itself.",
        )
    return LabelStudioError(f"Label Studio refused the request ({status}): {detail}")


def _token_fix(detail: str) -> str:
    """Return how to get a token that Label Studio accepts, by its reason to refuse this one."""
    if "legacy token authentication has been disabled" in detail:
        return (
            "Set LABEL_STUDIO_API_KEY to a personal access token (Account & Settings > Personal "
            "Access Token), or let the organisation's owner allow legacy tokens (Organization > "
            "API Tokens Settings)."
        )
    if "wrong type" in detail:
        return (
            "LABEL_STUDIO_API_KEY is a short-lived access token: set it to the personal access "
            "token that it was made from."
        )
    return (
        "Check LABEL_STUDIO_API_KEY: a personal access token, or a legacy token where "
        "the organisation still allows them."
    )

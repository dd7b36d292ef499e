"""The one way out to Label Studio: signed, repeated where that does no harm, failures translated.

Requests go through the HTTP client of label_studio_sdk, which repeats them after 408, 409, 429 and
5xx. The SDK's typed methods are not used: they refuse a whole answer for one odd field that nobody
reads, and look at every number of every mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from label_studio_sdk.core.http_client import HttpClient

from backend.errors import Unreachable
from backend.label_studio.answers import decoded, detail, fits, is_label_studios, refusal
from backend.label_studio.personal_tokens import signing

# Importing 500 large masks takes Label Studio seconds, on a busy machine a minute.
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
# What is read of Label Studio's answers, each with its type; whatever else is in them may be odd.
Fields = Mapping[str, type | tuple[type, ...]]


class Transport:
    """Requests to one Label Studio; every failure comes out as a LabelStudioError."""

    def __init__(self, url: str, key: str, http: httpx.Client | None = None) -> None:
        self._url = url
        # Followed, a redirect would turn a POST into a GET; it is refused and said instead.
        self._http = http or httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        with self._translated():
            self.token = signing(key, f"{url}/api/token/refresh/", self._http)
        self._http.auth = self.token
        self._sdk = HttpClient(
            httpx_client=self._http,
            base_url=lambda: url,
            base_headers=dict,  # the token is put in by what signs
            base_timeout=lambda: None,  # the client has its own
        )

    def get_unsigned(self, path: str) -> Any:
        """Return the answer to a GET without the token."""
        with self._translated():
            response = self._http.get(f"{self._url}/{path}", auth=None, follow_redirects=False)
            self._refuse_redirect(response)
            if response.status_code >= 400:
                raise refusal(response.status_code, detail(response))
            return decoded(response)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
        retries: int = 2,
    ) -> Any:
        """Return the decoded answer to a request, None for an empty one.

        Args:
            method: Such as GET.
            path: Below Label Studio's address.
            body: What is sent as JSON; None for nothing.
            params: Of the query.
            retries: How often it may be repeated by itself.
        """
        # Left to the SDK, this takes longer than the whole rest of an import: it looks at every
        # number of every mask.
        content = None if body is None else _as_json(body)

        with self._translated():
            response: httpx.Response = self._sdk.request(
                path,
                method=method,
                content=content,
                headers={"Content-Type": "application/json"} if content else None,
                params=dict(params or {}),
                request_options={"max_retries": retries},
            )
            self._refuse_redirect(response)
            if response.status_code == 404 and not is_label_studios(response):
                raise self.foreign()
            if response.status_code >= 400:
                # A refused queue would be quoted back with what is drawn on it.
                why = response.reason_phrase if isinstance(body, list) else detail(response)
                raise refusal(response.status_code, why)
            return decoded(response) if response.content else None

    def authorisation(self) -> dict[str, str]:
        """Return the header that signs a request of somebody else's."""
        with self._translated():
            return {"Authorization": self.token.header()}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rows(self, found: Any, fields: Fields) -> list[dict[str, Any]]:
        """Return a list of objects that have these fields, as Label Studio's always do."""
        if not isinstance(found, list):
            raise self.foreign()
        return [self.object(row, fields) for row in found]

    def object(self, found: Any, fields: Fields) -> dict[str, Any]:
        """Return an object that has these fields."""
        if isinstance(found, dict) and all(fits(found, *field) for field in fields.items()):
            return found
        raise self.foreign()

    def foreign(self) -> Unreachable:
        """Return the error for an answer that is none of Label Studio's."""
        return Unreachable(
            f"{self._url} answered something that is not Label Studio's API.",
            "Check LABEL_STUDIO_URL: the address of Label Studio itself, without /api.",
        )

    def _refuse_redirect(self, response: httpx.Response) -> None:
        if response.has_redirect_location:
            target = response.next_request.url if response.next_request else ""
            raise Unreachable(
                f"{self._url} redirects, to {_origin(target)}.",
                "Set LABEL_STUDIO_URL to Label Studio's final address.",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the SDK and the network raise into one of our errors."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"Label Studio at {self._url} did not answer ({type(error).__name__}).",
                "Is it running, and is LABEL_STUDIO_URL right? It is asked again by itself.",
            ) from None
        except (ValueError, TypeError, OverflowError, OSError, RecursionError):
            # From reading what came: it is no JSON, or holds a token whose end is no time.
            raise self.foreign() from None


def _as_json(body: object) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _origin(url: object) -> str:
    """Return where an address leads, without its path and query."""
    parsed = httpx.URL(str(url))
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"

"""All requests to Label Studio: signed, retried where that is safe, with failures translated.

Requests go through the HTTP client of label_studio_sdk, which repeats them after 408, 409, 429 and
5xx. The SDK's typed methods are not used: they refuse a whole answer for one odd field that we do
not read, and they check every number of every mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from label_studio_sdk.core.http_client import HttpClient

from backend.errors import Unreachable, reason
from backend.label_studio.answers import decoded, detail, fits, is_label_studios, refusal
from backend.label_studio.personal_tokens import signing

# Importing 500 large masks takes Label Studio seconds, on a busy machine a minute.
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
# The fields that we read of an answer, with their types; other fields may hold anything.
Fields = Mapping[str, type | tuple[type, ...]]


class Transport:
    """Requests to one Label Studio; every failure raises a LabelStudioError."""

    def __init__(self, url: str, key: str, http: httpx.Client | None = None) -> None:
        self._url = url
        # A followed redirect would turn a POST into a GET: refuse and report it instead.
        self._http = http or httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        with self._translated():
            self.token = signing(key, f"{url}/api/token/refresh/", self._http)
        self._http.auth = self.token
        self._sdk = HttpClient(
            httpx_client=self._http,
            base_url=lambda: url,
            base_headers=dict,  # `self.token` signs
            base_timeout=lambda: None,  # the client sets the timeout
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
            body: Sent as JSON; None sends nothing.
            params: The parameters of the query.
            retries: How often the SDK may repeat the request.
        """
        # The SDK would check every number of every mask, which takes longer than the whole rest of
        # an import.
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
                # Label Studio would quote a refused queue with its masks.
                why = response.reason_phrase if isinstance(body, list) else detail(response)
                raise refusal(response.status_code, why)
            return decoded(response) if response.content else None

    def upload(
        self, path: str, files: Mapping[str, bytes], *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the decoded answer to a POST of files, by name; never repeated."""
        # Of several files in one field Label Studio would read the last.
        with self._translated():
            response = self._http.post(
                f"{self._url}/{path}",
                files={name: (name, content) for name, content in files.items()},
                params=dict(params or {}),
            )
            self._refuse_redirect(response)
            if response.status_code == 404 and not is_label_studios(response):
                raise self.foreign()
            if response.status_code >= 400:
                raise refusal(response.status_code, detail(response))
            return decoded(response)

    def refusal_of(self, method: str, path: str, body: object = None) -> str:
        """Return the text by which Label Studio refuses a request; "" if it accepts it.

        Raises:
            LabelStudioError: When it fails, refuses the token, or does not know the path.
        """
        with self._translated():
            response = self._http.request(
                method, f"{self._url}/{path}", json=body, follow_redirects=False
            )
            self._refuse_redirect(response)
            if response.status_code in {401, 404} or response.status_code >= 500:
                raise refusal(response.status_code, detail(response))
            return response.text if response.status_code >= 400 else ""

    def authorisation(self) -> dict[str, str]:
        """Return the header that signs a request; a personal token is exchanged for it."""
        with self._translated():
            return {"Authorization": self.token.header()}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rows(self, found: Any, fields: Fields) -> list[dict[str, Any]]:
        """Return a list of objects; raise `foreign` unless all of them have these fields."""
        if not isinstance(found, list):
            raise self.foreign()
        return [self.object(row, fields) for row in found]

    def object(self, found: Any, fields: Fields) -> dict[str, Any]:
        """Return an object; raise `foreign` unless it has these fields."""
        if isinstance(found, dict) and all(fits(found, *field) for field in fields.items()):
            return found
        raise self.foreign()

    def foreign(self) -> Unreachable:
        """Return the error for an answer that Label Studio did not give."""
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
                f"Label Studio at {self._url} did not answer ({reason(error)}).",
                "Check that it runs and that LABEL_STUDIO_URL is right. The service asks again by "
                "itself.",
            ) from None
        except (ValueError, TypeError, OverflowError, OSError, RecursionError):
            # The answer is no JSON, or holds a token with an invalid time of expiry.
            raise self.foreign() from None


def _as_json(body: object) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _origin(url: object) -> str:
    """Return where an address leads, without its path and query."""
    parsed = httpx.URL(str(url))
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"

"""Fetch a task's image, only from allowed hosts and within limits.

Label Studio's token goes to LABEL_STUDIO_URL only. Messages name the task and the host, never a
path or a query: file names can be patient data, and queries carry signatures.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote, unquote_to_bytes

import httpx

from backend.errors import ImageError, reason

_SERVED = ("/data/", "/storage-data/", "/tasks/")
_BUCKETS = ("s3", "gs", "azure-blob")
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 2
_LONGEST_URL = 5000  # characters; httpx accepts so many even when all are percent-encoded
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LATER = "It will be tried again."
_MAY_PASS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_RETRY_WITHIN = 45.0  # seconds; Label Studio waits 100 for a draft, and an answer may take 30
_ELSEWHERE = "Serve the image from Label Studio, or list its host in IMAGE_HOSTS."


def resolve(host: str) -> list[str]:
    """Return the IP addresses of a host name."""
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]


class _TransientError(ImageError):
    """A failure that the next attempt may not meet again."""


@dataclass(frozen=True)
class _Request:
    """One GET request, and the number of redirects that it may still follow.

    `own` marks requests to Label Studio; only these carry the token. `address` is the IP address
    that was checked: the connection goes there, so a second DNS answer cannot change the host.
    """

    url: httpx.URL
    redirects: int = 0
    own: bool = False
    address: str | None = None


@dataclass(frozen=True)
class ImageSource:
    """Turns the image URL of a task into bytes.

    Args:
        label_studio_url: Base URL of Label Studio, with its sub-path if it has one.
        authorise: Returns the headers with the token; called only for requests to Label Studio.
        image_hosts: Other hosts that images may come from, as `host` or `host:port`.
        max_bytes: Largest size of an image in bytes.
        client: Sets timeouts and certificates, but no credentials and no proxy.
        aliases: Other URLs under which tasks name this Label Studio.
        resolve: Host name to IP addresses.
        max_seconds: Longest time for one body.
        pauses: Seconds before each further attempt. Further attempts follow a missing or broken
            connection, a timeout, 408, 429 and 5xx.
        clock: Seconds, monotonic.
        wait: Sleeps for some seconds.
    """

    label_studio_url: str
    authorise: Callable[[], dict[str, str]]
    image_hosts: Collection[str]
    max_bytes: int
    client: httpx.Client
    aliases: Sequence[str] = ()
    resolve: Callable[[str], list[str]] = resolve
    max_seconds: float = 120.0
    pauses: Sequence[float] = (0.25, 1.0)
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep

    def fetch(self, url: object, task_id: int) -> bytes:
        """Return the bytes behind the image URL of a task.

        Raises:
            ImageError: If the URL is not allowed, or its image did not arrive completely.
            LabelStudioError: From `authorise`.
        """
        try:
            return self._fetched(url, task_id)
        except ImageError as error:
            raise ImageError(f"Task {task_id}: {error.what}", error.fix) from None

    def _fetched(self, url: object, task_id: int) -> bytes:
        if not isinstance(url, str) or not url.strip():
            raise ImageError(
                "it has no image URL.",
                "Fill the data key that the Image tag names; a valueList takes a list of URLs.",
            )
        url = url.strip()
        if url[:5].lower() == "data:":
            return self._inline(url)
        answer: bytes | _Request = self._first(_clean(url), task_id)
        while isinstance(answer, _Request):
            answer = self._patiently(answer)
        return answer

    def _patiently(self, request: _Request) -> bytes | _Request:
        end = self.clock() + _RETRY_WITHIN
        for pause in self.pauses:
            try:
                return self._get(request)
            except _TransientError:
                if self.clock() + pause > end:
                    raise
            self.wait(pause)
        return self._get(request)

    def _inline(self, url: str) -> bytes:
        head, _, payload = url.partition(",")
        if not head.lower().endswith(";base64"):
            raise ImageError("its data: URL is not base64.", "Write data:image/png;base64,...")
        try:
            body = base64.b64decode(unquote_to_bytes(payload), validate=True)
        except ValueError:
            raise ImageError("its data: URL is not valid base64.", "Import it again.") from None
        if len(body) > self.max_bytes:
            raise self._too_large()
        return body

    def _first(self, text: str, task_id: int) -> _Request:
        if text.partition("://")[0].lower() in _BUCKETS:
            uri = base64.urlsafe_b64encode(text.encode()).decode()
            return self._own(f"/tasks/{task_id}/resolve/?fileuri={uri}")
        url = _parsed(text)
        path = self._served(url)
        if path is not None:
            return self._own(path)
        if self._listed(url):
            return _Request(url)
        raise _forbidden(url)

    def _own(self, path: str) -> _Request:
        url = httpx.URL(str(self._root).rstrip("/") + path)
        return _Request(url, redirects=_MOST_REDIRECTS, own=True)

    @cached_property
    def _root(self) -> httpx.URL:
        return httpx.URL(self.label_studio_url)

    @cached_property
    def _roots(self) -> list[httpx.URL]:
        roots = [self._root]
        for alias in self.aliases:
            with suppress(httpx.InvalidURL):  # ignore an alias that is not a URL
                roots.append(httpx.URL(alias))
        return roots

    @cached_property
    def _hosts(self) -> frozenset[str]:
        return frozenset(host.lower() for host in self.image_hosts)

    def _served(self, url: httpx.URL) -> str | None:
        """Return path and query below Label Studio's root; None if the URL leads elsewhere."""
        whole = url.raw_path.decode("ascii")
        for root in self._roots:
            if not _is_bare(url) and _origin(url) != _origin(root):
                continue
            for path in (whole.removeprefix(root.path.rstrip("/")), whole):
                rooted = path if path.startswith("/") else f"/{path}"
                if rooted.startswith(_SERVED):
                    return rooted
        return None

    def _listed(self, url: httpx.URL) -> bool:
        names = {url.host, url.netloc.decode("ascii")}
        return url.scheme in ("http", "https") and not names.isdisjoint(self._hosts)

    def _get(self, request: _Request) -> bytes | _Request:
        url, headers, extensions = request.url, {"Accept-Encoding": "identity"}, {}
        if request.own:
            headers |= self.authorise()
        if request.address is not None:
            headers["Host"] = url.netloc.decode("ascii")
            extensions["sni_hostname"] = url.raw_host.decode("ascii")
            url = url.copy_with(host=request.address)
        try:
            sent = self.client.build_request("GET", url, headers=headers, extensions=extensions)
            # Cookies ignore ports: Label Studio's would go to a bucket server on the same host.
            sent.headers.pop("cookie", None)
            with closing(self.client.send(sent, stream=True, follow_redirects=False)) as response:
                return self._read(response, request)
        except httpx.HTTPError as error:  # its own text can quote headers and the whole URL
            what = f"{_name(request)} gave no answer ({reason(error)})."
            passing = isinstance(error, _MAY_PASS)
            raise (_TransientError if passing else ImageError)(what, _LATER) from None

    def _read(self, response: httpx.Response, request: _Request) -> bytes | _Request:
        if response.status_code in _REDIRECTS:
            return self._redirected(response.headers.get("location", ""), request)
        if response.status_code != 200:
            raise _bad_status(response.status_code, request)
        # Refuse compressed bodies: unpacking could exceed max_bytes in one step.
        if response.headers.get("content-encoding", "identity") != "identity":
            what = f"{_name(request)} sends the image with a Content-Encoding."
            raise ImageError(what, "Store the image without a Content-Encoding.")
        return self._body(response, request)

    def _body(self, response: httpx.Response, request: _Request) -> bytes:
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large()
        body, end = bytearray(), self.clock() + self.max_seconds
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self.max_bytes:
                raise self._too_large()
            if self.clock() > end:
                what = f"{_name(request)} took more than {self.max_seconds:.0f} s."
                raise ImageError(what, _LATER)
        return bytes(body)

    def _too_large(self) -> ImageError:
        what = f"its image has more than the {self.max_bytes} bytes allowed."
        return ImageError(what, "Shrink it, or raise MAX_IMAGE_BYTES.")

    def _redirected(self, location: str, request: _Request) -> _Request:
        if not request.redirects:
            what = f"{_name(request)} redirects, and the backend does not follow that redirect."
            raise ImageError(what, "Put the final address in the task. " + _ELSEWHERE)
        url = request.url.join(_parsed(_clean(location)))
        left = request.redirects - 1
        if self._listed(url):
            return _Request(url, redirects=left)
        if url.host == self._root.host and url.port in (self._root.port, None):
            raise ImageError(
                "Label Studio redirects to itself, as it does when it wants a login.",
                "Check LABEL_STUDIO_API_KEY, and that LABEL_STUDIO_URL is its final address.",
            )
        if url.scheme != "https":
            raise _forbidden(url)
        return _Request(url, redirects=left, address=self._public_address(url))

    def _public_address(self, url: httpx.URL) -> str:
        try:
            addresses = self.resolve(url.raw_host.decode("ascii"))
        except (OSError, UnicodeError):
            raise ImageError(f"host {url.host} was not found.", _LATER) from None
        if not addresses or not all(map(_is_public, addresses)):
            raise _forbidden(url)
        return addresses[0]


def _clean(text: str) -> str:
    if len(text) > _LONGEST_URL:
        what = f"its image URL has {len(text)} characters, more than the allowed {_LONGEST_URL}."
        raise ImageError(what, "Correct it in the task.")
    if re.search(r"[\\\x00-\x1f\x7f\ud800-\udfff]", text):
        raise ImageError("its image URL has characters that a URL may not have.", "Encode them.")
    # Decode twice, because a proxy and the server behind it may each decode once.
    if ".." in re.split(r"[/\\?&=;#]", unquote(unquote(text))):
        raise ImageError("its image URL climbs with '..'.", "Write the path without '..'.")
    return text


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise ImageError("its image URL cannot be read.", "Correct it in the task.") from None
    if url.userinfo:
        raise ImageError("its image URL holds a user name or password.", "Remove them.")
    return url


def _forbidden(url: httpx.URL) -> ImageError:
    if _is_bare(url):
        return ImageError(
            "its image URL is relative, but leads to no file of Label Studio.",
            f"Start it with one of {', '.join(_SERVED)}.",
        )
    if url.scheme not in ("http", "https"):
        return ImageError(f"its image URL has the scheme {url.scheme[:20]!r}.", _ELSEWHERE)
    return ImageError(
        f"its image lies on {url.scheme}://{url.host}, which is not allowed.", _ELSEWHERE
    )


def _bad_status(status: int, request: _Request) -> ImageError:
    if status >= 500 or status in (408, 429):
        return _TransientError(f"{_name(request)} answered {status}.", _LATER)
    if not request.own:
        fix = "Check that this machine may read there, and the storage's credentials."
    elif status in (401, 403):
        fix = "Check LABEL_STUDIO_API_KEY, and that its owner may see the project."
    elif status == 404:
        fix = "The file is missing in Label Studio: upload it again, or check its storage."
    else:
        fix = "Open the task in Label Studio to see whether the image shows there."
    return ImageError(f"{_name(request)} answered {status}.", fix)


def _name(request: _Request) -> str:
    return f"Label Studio ({request.url.host})" if request.own else f"host {request.url.host}"


def _is_bare(url: httpx.URL) -> bool:
    # httpx calls file:/data/x and //host/data/x relative as well.
    return not url.scheme and not url.host


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_public(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            return ip.is_global and ip in _GLOBAL_IPV6
        ip = inner
    return ip.is_global and not ip.is_multicast

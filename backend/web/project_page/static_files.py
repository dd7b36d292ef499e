"""The scripts and styles of the pages: our own, and the script that plotly's package holds."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cache
from importlib import resources

from flask import Response, abort, request

PLOTLY = "plotly.min.js"
_NAMES = {PLOTLY, "page.js", "page.css", "icon.svg"}
_YEAR = "public, max-age=31536000, immutable"
_LEAST = 1_000  # bytes; less is not worth compressing


def address(name: str) -> str:
    """Return the address of a file; it changes with the content, so that browsers may keep it."""
    return f"/static/{name}?v={_mark(name)}"


def serve(name: str) -> Response:
    """Return one of the files; 404 for any other name."""
    if name not in _NAMES:
        abort(404, f"There is no file {name[:60]!r} here.")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    body, small = _read(name), _packed(name)
    response = packed(body, kind, small=small)
    response.headers["Cache-Control"] = _YEAR
    return response


def packed(body: bytes, kind: str, *, small: bytes | None = None) -> Response:
    """Return an answer, compressed if the client accepts gzip and the body is long enough."""
    if not request.accept_encodings.quality("gzip") or len(body) < _LEAST:
        response = Response(body, mimetype=kind)
    else:
        response = Response(small or gzip.compress(body, 5), mimetype=kind)
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    return response


@cache
def _read(name: str) -> bytes:
    if name == PLOTLY:
        from plotly.offline import get_plotlyjs  # imported here: only pages need it

        return str(get_plotlyjs()).encode()
    return resources.files("backend.web.project_page").joinpath("static", name).read_bytes()


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(_read(name), 6)


@cache
def _mark(name: str) -> str:
    return hashlib.sha256(_read(name)).hexdigest()[:12]

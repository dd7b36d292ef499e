from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from backend.errors import ImageError, Unauthorized
from backend.images import ImageSource, decode, resolve, shrink

QUICK = settings(deadline=None, max_examples=150)
MANY = 10**6
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(image: Image.Image, format: str = "PNG", **options: Any) -> np.ndarray[Any, Any]:
    return decode(encoded(image, format, **options), max_pixels=MANY)


# ---- decode


def test_eight_bit_grey_is_divided_by_255() -> None:
    found = read(Image.fromarray(GREY))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GREY / 255, rtol=1e-6)


def test_colour_keeps_its_three_channels() -> None:
    np.testing.assert_allclose(read(Image.fromarray(COLOUR)), COLOUR / 255, rtol=1e-6)


def test_grey_kept_as_colour_becomes_one_channel() -> None:
    image = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_allclose(read(image), GREY / 255, rtol=1e-6)


def test_sixteen_bit_grey_is_stretched_from_its_lowest_to_its_highest_value() -> None:
    values = RNG.integers(500, 4096, (7, 5), dtype=np.uint16)
    found = read(Image.fromarray(values))
    low, high = int(values.min()), int(values.max())
    np.testing.assert_allclose(found, (values - low) / (high - low), rtol=1e-6)
    assert found.dtype == np.float32
    assert (float(found.min()), float(found.max())) == (0, 1)


def test_sixteen_bit_grey_of_one_value_is_black() -> None:
    assert not read(Image.fromarray(np.full((3, 4), 900, dtype=np.uint16))).any()


def test_black_and_white_is_zero_and_one() -> None:
    np.testing.assert_array_equal(read(Image.fromarray(GREY > 99)), GREY > 99)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_resolved(bits: int) -> None:
    image = Image.fromarray(GREY >> (8 - bits))
    image.putpalette(RNG.integers(0, 256, 3 * 2**bits).tolist())
    expected = np.asarray(image.convert("RGB")) / 255
    np.testing.assert_allclose(read(image, bits=bits), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_becomes_black(mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    opaque = np.asarray(image.convert("L" if mode == "LA" else "RGB")) / 255
    shown = (alpha > 0) if mode == "LA" else (alpha > 0)[..., None]
    np.testing.assert_allclose(read(image), opaque * shown, rtol=1e-6)


def test_a_transparent_palette_entry_becomes_black() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([200, 100, 50, 10, 20, 30])
    found = read(image, transparency=0)
    np.testing.assert_allclose(found[0] * 255, [[0, 0, 0], [10, 20, 30]], atol=1e-4)


@pytest.mark.parametrize(("mode", "shape"), [("L", (40, 30)), ("RGB", (40, 30, 3))])
def test_a_jpeg_is_close_to_what_was_saved(mode: str, shape: tuple[int, ...]) -> None:
    smooth = Image.fromarray(COLOUR).convert(mode).resize((30, 40), Image.Resampling.BICUBIC)
    found = read(smooth, "JPEG", quality=98, subsampling=0)
    assert found.shape == shape
    assert np.abs(found - np.asarray(smooth) / 255).mean() < 0.02


def test_a_cmyk_jpeg_becomes_colour() -> None:
    cmyk = Image.fromarray(COLOUR).resize((30, 40)).convert("CMYK")
    found = read(cmyk, "JPEG", quality=98)
    assert found.shape == (40, 30, 3)
    assert np.abs(found - np.asarray(cmyk.convert("RGB")) / 255).mean() < 0.05


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_exif_orientation_is_turned_upright(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(GREY), format, exif=exif)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)) / 255
    np.testing.assert_allclose(decode(data, max_pixels=MANY), expected, rtol=1e-6)


@pytest.mark.parametrize("image", [Image.fromarray(GREY.astype(np.uint16)), Image.new("1", (5, 7))])
def test_every_depth_can_be_turned(image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(image, exif=exif).shape == (5, 7)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff", b"rubbish" * 9])
def test_an_image_whose_exif_is_broken_is_left_as_it_lies(exif: bytes) -> None:
    np.testing.assert_allclose(read(Image.fromarray(GREY), exif=exif), GREY / 255, rtol=1e-6)


def test_only_exif_turns_an_image_as_in_a_browser() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    assert read(Image.fromarray(GREY), "JPEG", xmp=xmp).shape == GREY.shape


@pytest.mark.parametrize(
    "image_format", ["TIFF", "BMP", "GIF", "PPM", "WEBP", "ICO", "JPEG2000", "TGA"]
)
def test_other_formats_are_refused(image_format: str) -> None:
    with pytest.raises(ImageError, match="neither PNG nor JPEG"):
        decode(encoded(Image.fromarray(GREY), image_format), max_pixels=MANY)


def test_no_bytes_and_no_image_are_refused() -> None:
    with pytest.raises(ImageError, match="The image is empty"):
        decode(b"", max_pixels=MANY)
    with pytest.raises(ImageError, match="neither PNG nor JPEG"):
        decode(b"<html>Log in</html>", max_pixels=MANY)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(format: str, share: float) -> None:
    data = encoded(Image.fromarray(COLOUR).resize((90, 90)), format)
    with pytest.raises(ImageError, match=r"damaged|neither"):
        decode(data[: int(len(data) * share)], max_pixels=MANY)


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageError, match=f"has {side} x {side} pixels, more than the 1000000"):
        decode(header_only_png(side, side), max_pixels=MANY)


def test_the_limit_itself_is_still_allowed() -> None:
    data = encoded(Image.fromarray(GREY))
    assert decode(data, max_pixels=GREY.size).shape == GREY.shape
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
        decode(data, max_pixels=GREY.size - 1)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="damaged"):
        decode(header_only_png(*size), max_pixels=MANY)


TURNED = Image.Exif()
TURNED[0x0112] = 6
WHOLE = [
    encoded(Image.fromarray(COLOUR)),
    encoded(Image.fromarray(GREY.astype(np.uint16) * 7), exif=TURNED),
    encoded(Image.fromarray(COLOUR).convert("P"), transparency=3),
    encoded(Image.fromarray(COLOUR).convert("RGBA"), dpi=(9, 9), icc_profile=b"x" * 50),
    encoded(Image.fromarray(COLOUR), "JPEG", exif=TURNED),
    encoded(Image.fromarray(COLOUR), "JPEG", progressive=True),
    encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
]


def with_crcs(data: bytes) -> bytes:
    """Return a PNG whose chunks carry the checksums of what they now hold."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack(">I", out[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(out[at + 4 : end])))
        at = end + 4
    return bytes(out)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), min_size=1, max_size=5),
    st.booleans(),
)
@settings(QUICK, max_examples=400)
def test_a_mutated_image_is_decoded_or_refused(
    data: bytes, cuts: list[tuple[int, bytes]], mend: bool
) -> None:
    for at, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + len(new) :]
    with suppress(ImageError):
        found = decode(with_crcs(data) if mend else data, max_pixels=10_000)
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the EXIF it cannot read
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]), st.binary(max_size=400))
@QUICK
def test_random_bytes_are_refused(magic: bytes, data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(magic + data, max_pixels=10_000)


# ---- shrink


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80), st.booleans())
@QUICK
def test_shrinking_keeps_the_aspect_and_the_range_and_never_enlarges(
    height: int, width: int, longest: int, colour: bool
) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(height).random(shape, dtype=np.float32).round()
    small = shrink(image, longest)
    assert small.dtype == np.float32
    assert small.ndim == image.ndim
    assert max(small.shape[:2]) == min(longest, max(height, width))
    assert (
        abs(min(small.shape[:2]) - min(height, width) * min(1, longest / max(height, width))) <= 1
    )
    assert 0 <= small.min() <= small.max() <= 1


def test_a_small_image_is_left_alone() -> None:
    image = np.ones((4, 6), dtype=np.float32)
    assert shrink(image, 6) is image


def test_shrinking_averages_where_picking_pixels_would_show_stripes() -> None:
    stripes = np.zeros((64, 64), dtype=np.float32)
    stripes[:, ::2] = 1
    np.testing.assert_allclose(shrink(stripes, 8)[:, 1:-1], 0.5, atol=0.02)


def test_a_side_below_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shrink(np.ones((4, 6), dtype=np.float32), 0)


# ---- fetch

TOKEN = "Token s3cr3t"
BODY = b"pixels"
PUBLIC = "93.184.216.34"
Handler = Callable[[httpx.Request], httpx.Response]


class Net:
    """Every host at once: remembers the requests, answers from a table of URLs."""

    def __init__(self, answers: dict[str, httpx.Response] | Handler | None = None) -> None:
        self.seen: list[httpx.Request] = []
        self.answers = answers or {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if callable(self.answers):
            return self.answers(request)
        return self.answers.get(str(request.url), httpx.Response(200, content=BODY))

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.seen]

    @property
    def authorised(self) -> list[bool]:
        return ["authorization" in request.headers for request in self.seen]


def source(net: Net, **other: Any) -> ImageSource:
    options: dict[str, Any] = {
        "label_studio_url": "http://studio:8080",
        "authorise": lambda: {"Authorization": TOKEN},
        "image_hosts": ("pacs.example.org", "minio:9000"),
        "max_bytes": 1000,
        "client": httpx.Client(transport=httpx.MockTransport(net)),
        "resolve": lambda host: [PUBLIC],
    }
    return ImageSource(**options | other)


def redirect(to: str, status: int = 303) -> httpx.Response:
    return httpx.Response(status, headers={"Location": to})


STUDIO = "http://studio:8080"
S3_URI = base64.urlsafe_b64encode(b"s3://bucket/a b.png").decode()


@pytest.mark.parametrize(
    ("base", "url", "fetched"),
    [
        (STUDIO, "/data/upload/1/a.png", f"{STUDIO}/data/upload/1/a.png"),
        (STUDIO, "data/upload/1/a.png", f"{STUDIO}/data/upload/1/a.png"),
        (STUDIO, " /data/upload/1/a.png\n", f"{STUDIO}/data/upload/1/a.png"),
        (STUDIO + "/", "/data/upload/1/a..b.png", f"{STUDIO}/data/upload/1/a..b.png"),
        (STUDIO, "/data/upload/1/Röntgen 1.png", f"{STUDIO}/data/upload/1/R%C3%B6ntgen%201.png"),
        (STUDIO, "/data/upload/1/a%20b%23c.png", f"{STUDIO}/data/upload/1/a%20b%23c.png"),
        (STUDIO, "/data/local-files/?d=s/x.png", f"{STUDIO}/data/local-files/?d=s/x.png"),
        (STUDIO, "/storage-data/uploaded/?x=1", f"{STUDIO}/storage-data/uploaded/?x=1"),
        (STUDIO, "/tasks/7/resolve/?fileuri=czM", f"{STUDIO}/tasks/7/resolve/?fileuri=czM"),
        (STUDIO, f"{STUDIO}/data/local-files/?d=x.png", f"{STUDIO}/data/local-files/?d=x.png"),
        (STUDIO, "HTTP://STUDIO:8080/data/a.png", f"{STUDIO}/data/a.png"),
        ("http://ls", "http://ls:80/data/a.png", "http://ls/data/a.png"),
        (STUDIO, "http://localhost:8080/data/a.png?x=1", f"{STUDIO}/data/a.png?x=1"),
        (STUDIO, "https://ls.clinic/label/data/a.png", f"{STUDIO}/data/a.png"),
        ("https://h/label", "/data/a.png", "https://h/label/data/a.png"),
        ("https://h/label/", "/label/data/a.png", "https://h/label/data/a.png"),
        ("https://h/label", "https://h/label/data/a.png", "https://h/label/data/a.png"),
        ("https://h/label", "https://h/data/a.png", "https://h/label/data/a.png"),
        ("https://h/label", "http://localhost:8080/data/a.png", "https://h/label/data/a.png"),
        ("https://h/data", "/data/a.png", "https://h/data/data/a.png"),
        (STUDIO, "s3://bucket/a b.png", f"{STUDIO}/tasks/7/resolve/?fileuri={S3_URI}"),
    ],
)
def test_what_belongs_to_label_studio_is_asked_from_label_studio_url_with_the_token(
    base: str, url: str, fetched: str
) -> None:
    net = Net()
    aliases = ("http://localhost:8080", "https://ls.clinic/label", "", "http://h:no port")
    got = source(net, label_studio_url=base, aliases=aliases).fetch(url, 7)
    assert got == BODY
    assert net.urls == [fetched]
    assert net.seen[0].headers["authorization"] == TOKEN


@pytest.mark.parametrize("start", ["/data/", "s3://"])
def test_the_longest_url_in_any_script_is_still_sent(start: str) -> None:
    assert source(Net()).fetch(start + "\U0001fac1" * 4_990, 7) == BODY


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob", "S3"])
def test_bucket_urls_go_through_label_studios_resolver(scheme: str) -> None:
    net = Net()
    source(net).fetch(f"{scheme}://bucket/ä.png", 31)
    path, _, uri = net.seen[0].url.raw_path.decode().partition("?fileuri=")
    assert path == "/tasks/31/resolve/"
    assert base64.urlsafe_b64decode(uri).decode() == f"{scheme}://bucket/ä.png"


@pytest.mark.parametrize(
    "url",
    [
        "http://pacs.example.org/a.png",
        "https://pacs.example.org/data/a.png?sig=1",
        "https://PACS.example.org:8443/a.png",
        "http://minio:9000/bucket/a.png",
    ],
)
def test_listed_hosts_are_asked_without_the_token(url: str) -> None:
    net = Net()
    assert source(net).fetch(url, 7) == BODY
    assert net.urls == [str(httpx.URL(url))]
    assert net.authorised == [False]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no image URL"),
        ("   ", "no image URL"),
        (None, "no image URL"),
        (5, "no image URL"),
        ({"url": "/data/a.png"}, "no image URL"),
        ("/api/users/", "relative"),
        ("/user/login", "relative"),
        ("a.png", "relative"),
        ("/database/a.png", "relative"),
        ("?d=/data/", "relative"),
        ("/%64ata/a.png", "relative"),
        ("http://studio:8080/api/projects", "not allowed"),
        ("http://studio:8080/", "not allowed"),
        ("https://studio:8080/data/a.png", "not allowed"),
        ("http://studio:8081/data/a.png", "not allowed"),
        ("http://studio/data/a.png", "not allowed"),
        ("http://evil.example/data/a.png", "not allowed"),
        ("http://pacs.example.org.evil.example/a.png", "not allowed"),
        ("http://minio/a.png", "not allowed"),
        ("http://127.0.0.1/a.png", "not allowed"),
        ("http://[::1]/a.png", "not allowed"),
        ("http://169.254.169.254/latest/meta-data", "not allowed"),
        ("//evil.example/data/a.png", "scheme"),
        ("///evil.example/data/a.png", "relative"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("file:/data/a.png", "scheme 'file'"),
        ("ftp://pacs.example.org/a.png", "scheme 'ftp'"),
        ("gopher://studio:8080/data/", "scheme 'gopher'"),
        ("C:/scans/a.png", "scheme 'c'"),
        ("javascript:alert(1)", "scheme"),
        ("http://user:pw@pacs.example.org/a.png", "user name or password"),
        ("http://studio:8080@evil.example/data/a.png", "user name or password"),
        ("http://pacs.example.org\\@evil.example/a.png", "characters"),
        ("/data/\\..\\a.png", "characters"),
        ("/data/a\nb.png", "characters"),
        ("/data/a\x00.png", "characters"),
        ("http://pacs.example.org\t.evil.example/a.png", "characters"),
        ("/data/../api/users", "climbs"),
        ("/data/..", "climbs"),
        ("/data/%2e%2e/api", "climbs"),
        ("/data/.%2E/api", "climbs"),
        ("/data/%252e%252e/api", "climbs"),
        ("/data/..%2fapi", "climbs"),
        ("/data/..%5capi", "climbs"),
        ("/data/..;/api", "climbs"),
        ("/data/local-files/?d=../../etc/passwd", "climbs"),
        ("s3://bucket/../other/a.png", "climbs"),
        ("http://pacs.example.org/a/../b.png", "climbs"),
        ("http://[bad/a.png", "not allowed"),
        ("http:/data/a.png", "not allowed"),
        ("http:data/a.png", "not allowed"),
        ("http://pacs.example.org:port/a.png", "cannot be read"),
        ("http://", "not allowed"),
        ("/data/" + "a" * 5_000, "has 5006 characters"),
        ("s3://" + "a" * 90_000, "has 90005 characters"),
        ("/data/\ud800.png", "characters"),
        ("s3://bucket/\ud800.png", "characters"),
    ],
)
def test_everything_else_is_refused_before_any_request(url: Any, says: str) -> None:
    net = Net()
    with pytest.raises(ImageError, match=f"^Task 7: .*{says}") as caught:
        source(net).fetch(url, 7)
    assert caught.value.mend
    assert "\n" not in str(caught.value)
    assert net.seen == []


@given(
    st.text(max_size=30)
    | st.tuples(
        st.sampled_from(["http", "https", "s3", "data", "", "file"]),
        st.sampled_from(["://", ":", "//", "/"]),
        st.text("studio:8080pacs.example.org/data@#?%2e[]\\", max_size=30),
    ).map("".join)
)
@QUICK
def test_no_url_sends_the_token_elsewhere_or_fails_in_another_way(url: str) -> None:
    net = Net()
    with suppress(ImageError):
        source(net).fetch(url, 7)
    assert all(
        (request.url.host, request.url.port) == ("studio", 8080)
        for request in net.seen
        if "authorization" in request.headers
    )
    assert {request.url.host for request in net.seen} <= {"studio", "pacs.example.org"}


def test_data_urls_are_decoded_without_any_request() -> None:
    net = Net()
    payload = base64.b64encode(bytes(range(256))).decode()
    assert source(net).fetch(f"data:image/png;base64,{payload}", 7) == bytes(range(256))
    quoted = payload.replace("+", "%2B").replace("=", "%3D")
    assert source(net).fetch(f"DATA:image/png;name=x;BASE64,{quoted}", 7) == bytes(range(256))
    assert net.seen == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png,abc", "not base64"),
        ("data:", "not base64"),
        ("data:image/png;base64,a", "not valid base64"),
        ("data:image/png;base64,####", "not valid base64"),
        ("data:image/png;base64,ä\ud800==", "not valid base64"),
        ("data:image/png;base64," + base64.b64encode(b"x" * 1001).decode(), "more than the 1000"),
    ],
)
def test_broken_or_large_data_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        source(Net()).fetch(url, 7)


# ---- redirects

ASKED = "/tasks/7/resolve/?fileuri=czM"
HIDDEN = "https://bucket.example/p/Jane_Doe.png?X-Amz-Signature=abc"


def redirected(*hops: httpx.Response, **other: Any) -> Net:
    """Return what was asked when Label Studio and then others give these answers."""
    rest: Iterator[httpx.Response] = iter(hops)
    net = Net(lambda request: next(rest, httpx.Response(200, content=BODY)))
    assert source(net, **other).fetch(ASKED, 7) == BODY
    return net


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_presigned_redirect_goes_to_the_address_that_was_checked(status: int) -> None:
    net = redirected(redirect(HIDDEN, status))
    hop = net.seen[1]
    assert net.authorised == [True, False]
    assert hop.url.host == PUBLIC
    assert hop.url.raw_path == b"/p/Jane_Doe.png?X-Amz-Signature=abc"
    assert hop.headers["host"] == "bucket.example"
    assert hop.extensions["sni_hostname"] == "bucket.example"


def test_the_name_is_resolved_once_so_that_dns_cannot_change_its_mind() -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    net = redirected(redirect(HIDDEN), resolve=lambda host: next(answers))
    assert net.seen[1].url.host == PUBLIC
    assert next(answers) == ["127.0.0.1"]


def test_an_ipv6_address_and_a_port_are_pinned_too() -> None:
    net = redirected(
        redirect("https://b.example:8443/x"), resolve=lambda host: ["2606:2800:220:1::1"]
    )
    assert net.urls[1] == "https://[2606:2800:220:1::1]:8443/x"
    assert net.seen[1].headers["host"] == "b.example:8443"


def test_a_listed_host_is_followed_by_name_over_http_too() -> None:
    net = redirected(redirect("http://minio:9000/b/x.png"), resolve=lambda host: ["10.0.0.1"])
    assert net.urls[1] == "http://minio:9000/b/x.png"
    assert net.authorised == [True, False]


def test_two_redirects_are_followed_and_relative_ones_stay_on_their_host() -> None:
    net = redirected(redirect("https://b.example/one"), redirect("/two", 307))
    assert net.urls[1:] == [f"https://{PUBLIC}/one", f"https://{PUBLIC}/two"]
    assert [request.headers["host"] for request in net.seen[1:]] == ["b.example"] * 2
    assert net.authorised == [True, False, False]


def test_a_third_redirect_is_refused() -> None:
    with pytest.raises(ImageError, match=r"host b\.example redirects"):
        redirected(*[redirect("https://b.example/again")] * 3)


def test_a_listed_host_may_not_redirect() -> None:
    net = Net({"http://pacs.example.org/a.png": redirect("https://b.example/x")})
    with pytest.raises(ImageError, match=r"host pacs\.example\.org redirects"):
        source(net).fetch("http://pacs.example.org/a.png", 7)
    assert len(net.seen) == 1


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://bucket.example/x.png", "http://bucket.example, not allowed"),
        ("ftp://bucket.example/x.png", "scheme 'ftp'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("https://user:pw@bucket.example/x.png", "user name"),
        ("https://bucket.example/../x.png", "climbs"),
        ("https://b.example:port/", "gave no answer"),
        ("/user/login/?next=/tasks", "redirects to itself"),
        ("https://studio/data/a.png", "redirects to itself"),
        ("", "redirects to itself"),
    ],
)
def test_a_redirect_to_anything_but_https_or_a_listed_host_is_refused(
    location: str, says: str
) -> None:
    net = Net(lambda request: redirect(location))
    with pytest.raises(ImageError, match=says):
        source(net).fetch(ASKED, 7)
    assert len(net.seen) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.17.0.2", "192.168.0.1", "100.64.0.1", "169.254.169.254",
        "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::",
        "2001:db8::1", "2001::1", "100::1", "rubbish", "",
    ],
)  # fmt: skip
def test_a_redirect_to_an_address_that_is_not_public_is_refused(address: str) -> None:
    for addresses in ([address], [PUBLIC, address]):
        net = Net(lambda request: redirect(HIDDEN))
        with pytest.raises(ImageError, match=r"bucket\.example, not allowed"):
            source(net, resolve=lambda host, found=addresses: found).fetch(ASKED, 7)
        assert len(net.seen) == 1


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:4700::1111", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
)
def test_a_public_address_is_followed(address: str) -> None:
    net = redirected(redirect(HIDDEN), resolve=lambda host: [address])
    assert httpx.URL(net.urls[1]).host == address


def test_a_name_that_cannot_be_resolved_is_tried_again_later() -> None:
    def fail(host: str) -> list[str]:
        raise OSError("no such host")

    with pytest.raises(ImageError, match=r"not found\. It will be tried again"):
        redirected(redirect(HIDDEN), resolve=fail)
    with pytest.raises(ImageError, match="not allowed"):
        redirected(redirect(HIDDEN), resolve=lambda host: [])


def test_the_standard_resolver_knows_this_machine() -> None:
    assert {"127.0.0.1", "::1"} & set(resolve("localhost"))


# ---- bodies, statuses, failures


class Drip(httpx.SyncByteStream):
    def __init__(self, chunks: int) -> None:
        self.left = chunks

    def __iter__(self) -> Iterator[bytes]:
        while self.left:
            self.left -= 1
            yield b"x" * 100


def test_a_body_of_exactly_the_limit_passes() -> None:
    net = Net(lambda request: httpx.Response(200, stream=Drip(10)))
    assert source(net).fetch("/data/a.png", 7) == b"x" * 1000


def test_a_longer_body_is_cut_while_it_streams() -> None:
    body = Drip(10**6)
    net = Net(lambda request: httpx.Response(200, stream=body))
    with pytest.raises(ImageError, match="more than the 1000 bytes allowed"):
        source(net).fetch("/data/a.png", 7)
    assert body.left == 10**6 - 11


def test_an_announced_size_above_the_limit_is_not_read_at_all() -> None:
    body = Drip(50)
    headers = {"Content-Length": "5000"}
    net = Net(lambda request: httpx.Response(200, stream=body, headers=headers))
    with pytest.raises(ImageError, match="MAX_IMAGE_BYTES"):
        source(net).fetch("/data/a.png", 7)
    assert body.left == 50


def test_a_body_that_drips_too_slowly_is_left() -> None:
    seconds = iter(range(0, 10_000, 50))
    net = Net(lambda request: httpx.Response(200, stream=Drip(10)))
    with pytest.raises(ImageError, match=r"took more than 120 s\. It will be tried again"):
        source(net, clock=lambda: float(next(seconds))).fetch("/data/a.png", 7)


def test_a_compressed_body_is_neither_asked_for_nor_unpacked() -> None:
    headers = {"Content-Encoding": "gzip"}
    net = Net(lambda request: httpx.Response(200, stream=Drip(1), headers=headers))
    with pytest.raises(ImageError, match="compressed"):
        source(net).fetch("/data/a.png", 7)
    assert net.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("/data/Jane_Doe.png?sig=1", 401, r"\(studio\) answered 401. Check LABEL_STUDIO_API_KEY"),
        ("/data/Jane_Doe.png?sig=1", 403, "answered 403. Check LABEL_STUDIO_API_KEY"),
        ("/data/Jane_Doe.png?sig=1", 404, "answered 404. The file is missing in Label Studio"),
        ("/data/Jane_Doe.png?sig=1", 500, "answered 500. It will be tried again"),
        ("/data/Jane_Doe.png?sig=1", 429, "answered 429. It will be tried again"),
        ("/data/Jane_Doe.png?sig=1", 206, "answered 206. Open the task"),
        ("/data/Jane_Doe.png?sig=1", 304, "answered 304. Open the task"),
        (
            "http://pacs.example.org/Jane_Doe.png?sig=1",
            403,
            r"host pacs\.example\.org answered 403",
        ),
        ("http://pacs.example.org/Jane_Doe.png?sig=1", 503, "answered 503. It will be tried again"),
    ],
)
def test_another_status_is_named_with_its_mend_and_nothing_private(
    url: str, status: int, says: str
) -> None:
    net = Net(lambda request: httpx.Response(status, content=b"secret body"))
    with pytest.raises(ImageError, match=says) as caught:
        source(net).fetch(url, 7)
    for private in ("s3cr3t", "Jane", "sig", "secret"):
        assert private not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadTimeout, httpx.ReadError,
        httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.PoolTimeout,
    ],
)  # fmt: skip
def test_a_failed_connection_is_tried_again_and_tells_nothing_private(
    error: type[httpx.TransportError],
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error(f"{request.url} {request.headers['authorization']}")

    with pytest.raises(ImageError, match=rf"\({error.__name__}\). It will be tried") as caught:
        source(Net(fail)).fetch("/data/Jane_Doe.png?sig=1", 7)
    for private in ("s3cr3t", "Jane", "sig"):
        assert private not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url", ["https://h.example/Jane_Doe.png?sig=1", "/Jane_Doe?sig=1", "/data/../Jane_Doe?sig"]
)
def test_a_refusal_never_shows_path_or_query(url: str) -> None:
    with pytest.raises(ImageError) as caught:
        source(Net()).fetch(url, 7)
    assert "Jane" not in str(caught.value)
    assert "sig" not in str(caught.value)


def test_a_refused_token_is_not_taken_for_a_broken_image() -> None:
    def refuse() -> dict[str, str]:
        raise Unauthorized("The token was refused.")

    with pytest.raises(Unauthorized):
        source(Net(), authorise=refuse).fetch("/data/a.png", 7)


def test_the_token_is_not_even_asked_for_when_another_host_is_meant() -> None:
    def never() -> dict[str, str]:
        raise AssertionError

    assert source(Net(), authorise=never).fetch("http://minio:9000/a.png", 7) == BODY


def test_cookies_and_redirect_settings_of_the_client_change_nothing() -> None:
    net = Net({f"{STUDIO}/data/a.png": redirect("http://evil.example/")})
    client = httpx.Client(transport=httpx.MockTransport(net), follow_redirects=True)
    with pytest.raises(ImageError, match="not allowed"):
        source(net, client=client).fetch("/data/a.png", 7)
    assert len(net.seen) == 1

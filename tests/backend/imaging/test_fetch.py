from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ImageError, Unauthorized
from backend.imaging.fetch import ImageSource, resolve

QUICK = settings(max_examples=150)
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
        "wait": lambda seconds: None,
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
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert net.seen == []


@pytest.mark.seconds
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
        ("http://bucket.example/x.png", "http://bucket.example, which is not allowed"),
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
    assert len({request.url for request in net.seen}) == 1  # it may ask once more, never there


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
        with pytest.raises(ImageError, match=r"bucket\.example, which is not allowed"):
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
    with pytest.raises(ImageError, match="Content-Encoding"):
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
    ("error", "attempts"),
    [
        (httpx.ConnectError, 3), (httpx.ConnectTimeout, 3), (httpx.ReadTimeout, 3),
        (httpx.ReadError, 3), (httpx.RemoteProtocolError, 3), (httpx.PoolTimeout, 3),
        (httpx.LocalProtocolError, 1),
    ],
)  # fmt: skip
def test_a_failed_connection_is_tried_again_and_tells_nothing_private(
    error: type[httpx.TransportError], attempts: int
) -> None:
    seen = []

    def fail(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise error(f"{request.url} {request.headers['authorization']}")

    with pytest.raises(ImageError, match=r"gave no answer \(.+\)\. It will be tried") as caught:
        source(Net(fail)).fetch("/data/Jane_Doe.png?sig=1", 7)
    for private in ("s3cr3t", "Jane", "sig"):
        assert private not in str(caught.value)
    assert error.__name__ not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert len(seen) == attempts


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


class Pauses:
    """A clock that only waiting moves; remembers how long each wait was."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_recovers_is_asked_again_after_a_short_pause(status: int) -> None:
    answers = [httpx.Response(status), httpx.Response(status), httpx.Response(200, content=BODY)]
    net, clock = Net(lambda request: answers.pop(0)), Pauses()
    assert source(net, clock=clock, wait=clock.wait).fetch("/data/a.png", 7) == BODY
    assert clock.waited == [0.25, 1.0]
    assert net.authorised == [True] * 3


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ConnectError, httpx.ReadError])
def test_a_connection_that_breaks_is_tried_again(error: type[httpx.TransportError]) -> None:
    answers: list[Exception | None] = [error("away"), None]

    def answer(request: httpx.Request) -> httpx.Response:
        failed = answers.pop(0)
        if failed:
            raise failed
        return httpx.Response(200, content=BODY)

    assert source(Net(answer)).fetch("/data/a.png", 7) == BODY


@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 410])
def test_a_refusal_is_not_asked_for_twice(status: int) -> None:
    net = Net(lambda request: httpx.Response(status))
    with pytest.raises(ImageError):
        source(net).fetch("/data/a.png", 7)
    assert len(net.seen) == 1


def test_a_server_that_stays_down_is_left_until_later() -> None:
    net = Net(lambda request: httpx.Response(503))
    with pytest.raises(ImageError, match=r"Task 7: .*answered 503. It will be tried again"):
        source(net).fetch("/data/a.png", 7)
    assert len(net.seen) == 3


def test_no_attempt_begins_when_the_first_ones_took_long() -> None:
    clock = Pauses()

    def hang(request: httpx.Request) -> httpx.Response:
        clock.now += 30
        raise httpx.ReadTimeout("slow")

    net = Net(hang)
    with pytest.raises(ImageError, match="it took too long"):
        source(net, clock=clock, wait=clock.wait).fetch("/data/a.png", 7)
    assert len(net.seen) == 2


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


def test_a_cookie_of_label_studio_goes_to_no_other_port_of_its_host() -> None:
    presigned = redirect("http://minio:9000/a.png")
    presigned.headers["Set-Cookie"] = "sessionid=s3cr3t; Path=/"
    net = Net({"http://minio:8080/data/a.png": presigned})
    assert source(net, label_studio_url="http://minio:8080").fetch("/data/a.png", 7) == BODY
    assert net.urls[-1] == "http://minio:9000/a.png"
    assert not any("cookie" in request.headers for request in net.seen)

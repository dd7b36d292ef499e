"""Whatever comes over a wire is answered or refused: requests, interfaces, regions, answers."""

from __future__ import annotations

import json
import logging
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import httpx
import jwt
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import SecretStr
from werkzeug.test import TestResponse

from backend.errors import FirstlightError, ImageError, OptionsError, UnsupportedLabelConfig
from backend.imaging.decode import decode
from backend.label_studio import labels, probes, review_predictions
from backend.label_studio.client import LabelStudio
from backend.label_studio.queue_import import QueueItem
from backend.options import ProjectOptions, parse_options
from backend.rounds import sync
from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.tables import Base, Project
from backend.web.app import create_app
from model import masks
from tests.backend.conftest import the
from tests.backend.fake_label_studio import CONFIG, TOKEN, URL
from tests.backend.web.project_page.test_views import NOW, annotate, keep_scan, record_rounds

Json = dict[str, Any]
SLOW = list(HealthCheck)  # fixtures are made once for all examples, and that is meant

# Halves of characters and zero bytes too, which no database stores.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["\ud800", "a\udfff", "\0", "a\0b"]
)
ODD_NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([0, -1, 3, 2**31, 2**63, 10**400, 1e308])
)
ATOMS = st.none() | st.booleans() | ODD_NUMBERS | ANY_TEXT | st.sampled_from([CONFIG, "3", "3.2"])
JSON = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(ANY_TEXT | st.sampled_from(["id", "project", "data"]), inner, max_size=4)
    ),
    max_leaves=10,
)
# Python reads about a thousand levels, so what it reads may be too deep for whoever looks at it.
DEEP = st.sampled_from([100, 900, 940, 960, 970, 980, 990, 10_000])


def nested(levels: int, inside: str = "") -> str:
    return "[" * levels + inside + "]" * levels


# -- every route ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A request, as far as a test client can send it."""

    path: str
    method: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def furnished(folder: Path) -> tuple[Flask, Store]:
    """Return an app whose project 3 has scans, labels, rounds, versions and a kept picture."""
    store = open_store(f"sqlite:///{folder / 'memory.sqlite'}")
    store.clock = lambda: NOW
    store.create()
    store.projects.request_refresh(3)
    settled = {"extra_params": {"alpha": 0.3}}
    store.projects.update(
        3, title="Liver CT", completed=1, full_sync=False, label_config=CONFIG, seen=settled
    )
    known = Settings(data_dir=folder)
    record_rounds(store, known)
    annotate(store, 1)
    annotate(store, 2, problem="brush region 0: it has no label")
    keep_scan(known, 1, np.zeros((8, 8), np.uint8))
    return create_app(known, store, lambda project, task: [{"id": str(task)}]), store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Flask, Store]]:
    app, store = furnished(tmp_path_factory.mktemp("fuzzed"))
    yield app, store
    store.close()


def rules(app: Flask) -> list[str]:
    return sorted({str(rule) for rule in app.url_map.iter_rules()})


METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW")
IN_PATHS = st.one_of(
    st.sampled_from(["3", "1", "0", "-1", "4", str(2**31), "9" * 400, "3.0", "٣", "\0", "..", "."]),
    st.sampled_from(["../../etc/passwd", "..\\..", "%2e%2e%2f", "//", "page.js", "plotly.min.js"]),
    st.text(max_size=8),
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["format", "round", "from", "v", "version", "access_token"]),
        st.sampled_from(["html", "json", "text", "", "1", "-1", "nan", "1" * 5_000, "%ff", "%00"])
        | st.text(max_size=8).map(lambda text: quote(text, safe="")),
    ),
    max_size=3,
).map(lambda pairs: "&".join("=".join(pair) for pair in pairs))
LATIN = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)
VALUES = LATIN | st.sampled_from(
    [
        *("http://[", "null", "http://localhost", "//", "http://localhost:9090:1", "[::1", "::1"),
        *("text/html", "application/json;q=é", "*/*;q=nan", "text/html;level=1;q=2", "gzip;q=0"),
        *("multipart/form-data", "multipart/form-data; boundary=x", "application/json; charset=x"),
        *("Basic é", "Bearer x", "Basic YTpi", "Negotiate", "same-origin", "none", "bytes=9-1"),
        "application/x-www-form-urlencoded",
    ]
)
NAMES = st.sampled_from(
    [
        *("Content-Type", "Authorization", "Origin", "Sec-Fetch-Site", "Accept", "Host", "Range"),
        *("Accept-Encoding", "X-Webhook-Secret", "If-None-Match", "Cookie", "Referer"),
        *("X-Forwarded-For", "X-Forwarded-Host", "If-Modified-Since", "Content-Encoding"),
    ]
)
KNOWN = ("schema", "label_config", "hostname", "extra_params", "tasks", "task", "action", "job")
MESSAGES = st.fixed_dictionaries(
    {"project": st.sampled_from([3, "3.1795391735", {"id": 3, "label_config": "<View/>"}]) | JSON},
    optional={
        **{key: JSON for key in (*KNOWN, "annotation", "project_id", "access_token")},
        "hostname": ANY_TEXT.map(lambda text: f"http://{text}/{text}"),
        "extra_params": st.dictionaries(
            st.sampled_from([*ProjectOptions.model_fields, "_env_file", "_cli_parse_args"])
            | ANY_TEXT,
            JSON,
            max_size=3,
        ),
    },
)
BODIES = st.one_of(
    MESSAGES.map(lambda body: json.dumps(body).encode()),
    MESSAGES.map(lambda body: json.dumps({**body, "project": 3}).encode()),
    JSON.map(lambda body: json.dumps(body).encode()),
    DEEP.map(lambda levels: nested(levels).encode()),
    DEEP.map(lambda levels: f'{{"project": 3, "extra_params": {nested(levels)}}}'.encode()),
    DEEP.map(lambda levels: json.dumps({"extra_params": nested(levels)}).encode()),
    st.sampled_from([b'{"project": ' + b"3" * 5_000 + b"}", b"NaN", b'{"project": 1e999}']),
    st.sampled_from([b"version=v1", b"version=%00", b"version=" + b"%ff" * 99, b"--x\r\n\r\n"]),
    st.binary(max_size=60),
)


@st.composite
def requests(draw: st.DrawFn, app: Flask) -> Sent:
    rule = draw(st.sampled_from(sorted(app.url_map.iter_rules(), key=str)))
    safe = draw(st.sampled_from(["", "/"]))
    path = re.sub("<[^>]*>", lambda _: quote(draw(IN_PATHS), safe=safe), str(rule))
    # Mostly the right method, since of the others little is read.
    method = draw(st.sampled_from([*sorted(rule.methods or ()) * 5, *METHODS]))
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=2, unique_by=lambda pair: pair[0]))
    return Sent(path, method, draw(QUERIES), headers, draw(BODIES))


def ask(client: FlaskClient, sent: Sent) -> None:
    """Send it, and check the answer."""
    response = client.open(
        sent.path, method=sent.method, query_string=sent.query, headers=sent.headers, data=sent.body
    )
    with response:  # closed at the end: few records are sent at a time, and HEAD reads no answer
        check(sent, response)


def check(sent: Sent, response: TestResponse) -> None:
    assert response.status_code < 500, response.text
    if response.mimetype == "image/png" or sent.method == "HEAD":
        return
    assert "Traceback" not in response.text
    if response.mimetype == "application/json":
        assert response.get_json() is not None
    elif sent.path.startswith("/projects"):
        assert response.status_code < 400 or response.status_code == 409  # said on the page
        assert response.mimetype in {"text/html", "text/plain"}
    else:
        assert response.status_code < 400


MAY_CHANGE = {
    column.name
    for column in (
        *(Project.requested, Project.waits_since, Project.full_sync, Project.full_requested),
        *(Project.not_before, Project.hostname),
    )
}


def remembered(store: Store) -> dict[str, list[Json]]:
    """Return every row, without what a request may change: these columns, a pin, a new project."""
    found: dict[str, list[Json]] = {}
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            rows = [dict(row._mapping) for row in connection.execute(table.select())]
            found[table.name] = sorted(rows, key=repr)
    found["projects"] = [
        {name: value for name, value in row.items() if name not in MAY_CHANGE}
        for row in found["projects"]
        if row["id"] == 3
    ]
    found["meta"] = [row for row in found["meta"] if not row["key"].startswith("pin")]
    return found


@pytest.mark.slow
@given(data=st.data())
@limits(max_examples=200, suppress_health_check=SLOW)
def test_no_sequence_of_requests_makes_the_service_fail_or_forget(
    world: tuple[Flask, Store], caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    app, store = world
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    before, client = remembered(store), app.test_client()
    for sent in data.draw(st.lists(requests(app), min_size=1, max_size=6)):
        ask(client, sent)
        health = client.get("/health")
        assert (health.status_code, health.get_json()["status"]) == (200, "UP")
    assert remembered(store) == before
    assert not [record for record in caplog.records if record.exc_info]


def test_every_route_is_among_those_that_are_tried(world: tuple[Flask, Store]) -> None:
    known = rules(world[0])
    assert len(known) >= 16
    assert {"/health", "/setup", "/predict", "/webhook", "/metrics", "/projects"} < set(known)


@pytest.mark.parametrize(
    ("path", "body", "headers", "code"),
    [
        ("/setup", b"{}", {"Origin": "http://["}, 403),
        ("/setup", b'{"project": 3, "hostname": "http://a/\\ud800"}', {}, 200),
        ("/setup", b'{"project": 3, "hostname": "http://a/\\u0000"}', {}, 200),
        ("/setup", json.dumps({"extra_params": nested(10_000)}).encode(), {}, 200),
        ("/setup", b'{"extra_params": {"_cli_parse_args": ["--help"]}}', {}, 200),
        ("/setup", b'{"extra_params": {"__pydantic_self__": 1}}', {}, 200),
        ("/setup", b'{"extra_params": {"_build_sources": 1}}', {}, 200),
        ("/predict", nested(10_000).encode(), {}, 400),
        ("/webhook", b'{"project": ' + b"3" * 5_000 + b"}", {}, 400),
    ],
)
def test_what_once_was_an_internal_error_is_answered(
    world: tuple[Flask, Store], path: str, body: bytes, headers: dict[str, str], code: int
) -> None:
    before = the(world[1], 3).hostname
    response = world[0].test_client().post(path, data=body, headers=headers)
    assert response.status_code == code, response.text
    assert the(world[1], 3).hostname == before


# -- options --------------------------------------------------------------------------------------


@pytest.mark.seconds
@given(JSON | st.dictionaries(st.sampled_from([*ProjectOptions.model_fields]) | ANY_TEXT, JSON))
@limits(max_examples=200)
def test_any_options_are_read_or_refused(given_options: object) -> None:
    with suppress(OptionsError):
        assert parse_options(given_options).horizon >= 1


@pytest.mark.parametrize(
    "order",
    [
        "_env_file",
        "_secrets_dir",
        "_cli_parse_args",
        "_env_prefix",
        "_build_sources",
        "_x",
        "__x__",
    ],
)
def test_no_option_gives_an_order_to_the_library_that_reads_them(
    order: str, tmp_path: Path
) -> None:
    (tmp_path / "alpha").write_text("0.7")
    (tmp_path / "file").write_text("HOSTS_PASSWORD=1\nFIRSTLIGHT_ALPHA=0.7\n")
    for value in (str(tmp_path), str(tmp_path / "file"), ["--help"], True):
        with pytest.raises(OptionsError, match=f"extra_params: {order}: unknown option") as caught:
            parse_options({order: value})
        assert "password" not in str(caught.value).lower()


# -- labelling interfaces -------------------------------------------------------------------------

TAGS = st.sampled_from(
    [
        *("View", "Image", "Brush", "BrushLabels", "PolygonLabels", "RectangleLabels", "Ellipse"),
        *("Labels", "Label", "Choices", "Text", "image", "LABEL", "MagicWand", "BitmaskLabels"),
    ]
)
PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=5)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["name", "toName", "value", "alias", "predicted_values", "background"]),
    st.sampled_from(["image", "$image", "Lung", "a,b", "tag", "", " "]) | PLAIN_TEXT,
    max_size=4,
)


def tagged(name: str, attributes: dict[str, str], inside: list[ElementTree.Element]) -> Any:
    made = ElementTree.Element(name, attributes)
    made.extend(inside)
    return made


TREES = st.recursive(
    st.builds(tagged, TAGS, ATTRIBUTES, st.just([])),
    lambda inner: st.builds(tagged, TAGS, ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.lists(TREES, max_size=4), st.booleans())
@limits(max_examples=300)
def test_any_tree_of_tags_is_an_interface_or_refused(trees: list[Any], whole: bool) -> None:
    root = ElementTree.fromstring(CONFIG) if whole else ElementTree.Element("View")  # noqa: S314
    root.extend(trees)
    with suppress(UnsupportedLabelConfig):
        found = labels.parse(ElementTree.tostring(root, encoding="unicode"))
        assert found.labels
        assert set(found.rows.values()) == set(range(len(found.labels)))
        assert all(found.tool_for(label) in found.tools for label in found.labels)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
HOSTILE = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]><View>&a11;</View>',
    "one huge entity": f'<!DOCTYPE x [<!ENTITY a "{"a" * 10**5}">]><View>{"&a;" * 10**4}</View>',
    "a file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
    "a network": '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://169.254.169.254/">%a;]><View/>',
    "a DTD elsewhere": '<!DOCTYPE x SYSTEM "http://169.254.169.254/x.dtd"><View/>',
    "an encoding": '<?xml version="1.0" encoding="utf-7"?><View/>',
    "half a character": "<View>\ud800</View>",
    "no character": "<View>\0</View>",
    "very deep": "<a>" * 100_000 + "</a>" * 100_000,
    "very wide": f"<View>{'<a/>' * 200_000}</View>",
    "very long": f"<View>{'<a/>' * 2_000_000}</View>",
}


@pytest.mark.seconds
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_interface_is_refused_at_once(kind: str) -> None:
    start = time.process_time()
    with pytest.raises(UnsupportedLabelConfig):
        labels.parse(HOSTILE[kind])
    assert time.process_time() - start < 2


def repeated(before: str, after: str = "", *, times: int) -> str:
    many = "".join(before.replace("@", str(number)) for number in range(times))
    return f'<View><Image name="i" value="$i"/>{many}{after * times}</View>'


TOOL = '<BrushLabels name="b@" toName="i"><Label value="@"/>'
LARGE = {
    "tags of any kind": repeated("<a></a>", times=60_000),
    "labels": CONFIG.replace("<Label", "".join(f'<Label value="{n}"/>' for n in range(20_000))
                             + "<Label"),
    "tools in a row": repeated(f"{TOOL}</BrushLabels>", times=10_000),
    "tools in each other": repeated(TOOL, "</BrushLabels>", times=10_000),
    "tools for many labels": repeated(
        '<Brush name="b@" toName="i"/><Labels name="l@" toName="i"><Label value="@"/></Labels>',
        times=7_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_an_interface_that_would_take_minutes_is_refused_with_its_size(kind: str) -> None:
    start = time.process_time()
    with pytest.raises(UnsupportedLabelConfig, match=r"has [0-9]+ .*, expected at most [0-9]+\."):
        labels.parse(LARGE[kind])
    assert time.process_time() - start < 5


def test_an_interface_of_hundreds_of_labels_and_a_huge_taxonomy_is_served() -> None:
    codes = "".join(f'<Choice value="{number}"/>' for number in range(20_000))
    xml = repeated('<Label value="@"/>', times=500).replace(
        "</View>", f'</BrushLabels><Taxonomy name="t" toName="i">{codes}</Taxonomy></View>'
    )
    xml = xml.replace('<Label value="0"/>', '<BrushLabels name="b" toName="i"><Label value="0"/>')
    assert len(labels.parse(xml).labels) == 500


# -- regions --------------------------------------------------------------------------------------

SHAPED = "".join(
    f'<{kind}Labels name="{kind}" toName="image"><Label value="Lung"/><Label value="Rib"/>'
    f"</{kind}Labels>"
    for kind in ("Brush", "Polygon", "Ellipse", "Rectangle")
)
EVERY = labels.parse(f'<View><Image name="image" value="$image"/>{SHAPED}</View>')
DRAWN: dict[str, Json] = {
    "brush": {"format": "rle", "rle": masks.encode(np.eye(8, 10, dtype=bool))},
    "rectangle": {"x": 20, "y": 50, "width": 40, "height": 50, "rotation": 30},
    "ellipse": {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25, "rotation": 30},
    "polygon": {"points": [[0, 0], [100, 0], [0, 100]]},
}
SIZES = st.sampled_from([0, -1, 1, 8, 10, 10**9, 2**28, 2**31, 10**30, 8.0, "8", True, None])
POINTS = st.lists(st.lists(ODD_NUMBERS | st.floats(-9, 109), max_size=3), max_size=5)
RUNS = st.lists(st.integers(-1, 256) | ODD_NUMBERS, max_size=40)


@st.composite
def regions(draw: st.DrawFn) -> Json:
    """A region of any kind in which a few things are odd or missing."""
    kind = draw(st.sampled_from(sorted(DRAWN)))
    value = {f"{kind}labels": ["Lung"], **DRAWN[kind]}
    odd = JSON | POINTS | RUNS
    value |= draw(st.dictionaries(st.sampled_from(sorted(value)), odd, max_size=2))
    made: Json = {
        "id": kind,
        "from_name": kind.capitalize(),
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": 10,
        "original_height": 8,
        "value": value,
    }
    sizes = st.sampled_from(["original_width", "original_height"])
    made |= draw(st.dictionaries(sizes, SIZES, max_size=2))
    made |= draw(st.dictionaries(st.sampled_from(sorted(made)), JSON, max_size=1))
    for name in draw(st.lists(st.sampled_from(sorted(made)), max_size=1)):
        del made[name]
    return made


@pytest.mark.slow
@given(st.lists(regions() | JSON, max_size=3))
@limits(max_examples=400)
def test_any_result_is_a_mask_or_a_value_error_in_little_memory(result: list[Any]) -> None:
    tracemalloc.start()
    start = time.process_time()
    with suppress(ValueError):
        found = labels.masks(result, EVERY, size=(8, 10))
        assert found.dtype == np.bool_
        assert found.shape == (2, 8, 10)
    took, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 2
    assert peak < 20_000_000


@pytest.mark.parametrize("name", ["id", "type", "to_name", "original_width", "value"])
def test_a_region_nested_as_deeply_as_can_be_sent_is_refused(name: str) -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    for odd in (deep, {"x": deep}, {"brushlabels": deep}, {"brushlabels": [deep]}):
        region = {"to_name": "image", "type": "rectanglelabels", "value": {}, name: odd}
        with pytest.raises(ValueError, match=r"region|nested"):
            labels.masks([region], EVERY, size=(8, 10))


# -- run lengths ----------------------------------------------------------------------------------


@pytest.mark.seconds
@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.lists(st.tuples(st.integers(0, 400), RUNS), max_size=3),
    st.tuples(SIZES, SIZES) | st.none(),
)
@limits(max_examples=400)
def test_a_mutated_encoding_is_a_mask_of_the_size_asked_for_or_a_value_error(
    mask: Any, cuts: list[tuple[int, list[Any]]], size: tuple[Any, Any] | None
) -> None:
    rle: list[Any] = masks.encode(mask)
    for at, new in cuts:
        rle[at : at + len(new)] = new
    whole = [length for length in size or mask.shape if type(length) is int]
    height, width = whole if len(whole) == 2 else mask.shape
    tracemalloc.start()
    with suppress(ValueError):
        found = masks.decode(rle, height, width)
        assert found.dtype == np.bool_
        assert found.shape == (height, width)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


# -- pictures of several frames -------------------------------------------------------------------


def frames(kind: str, **options: Any) -> bytes:
    shown = [Image.new("RGB", (9, 7), (40 * number, 99, 7)) for number in range(3)]
    file = BytesIO()
    shown[0].save(file, kind, save_all=True, append_images=shown[1:], **options)
    return file.getvalue()


SEVERAL = [
    frames("TIFF"),
    frames("TIFF", compression="tiff_lzw"),
    frames("GIF"),
    frames("WEBP", lossless=True),
    frames("PNG"),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of what it cannot read
@given(
    st.sampled_from(SEVERAL),
    st.lists(st.tuples(st.integers(0, 2_000), st.binary(max_size=4)), max_size=5),
)
@limits(max_examples=200)
def test_a_mutated_picture_of_several_frames_is_decoded_or_refused(
    data: bytes, cuts: list[tuple[int, bytes]]
) -> None:
    for at, new in cuts:
        at %= len(data) + 1
        data = data[:at] + new + data[at + len(new) :]
    with suppress(ImageError):
        found = decode(data, max_pixels=10_000)
        assert 0 <= found.min() <= found.max() <= 1


# -- what only looks like Label Studio ------------------------------------------------------------

MOMENT = "2026-01-02T03:04:05.000000Z"
ROW: Json = {
    "id": 7,
    "data": {"image": "/a.png"},
    "updated_at": MOMENT,
    "created_at": MOMENT,
    "is_labeled": True,
    "total_annotations": 1,
    "cancelled_annotations": 0,
    "result": [],
    "was_cancelled": False,
    "ground_truth": False,
    "model_version": "v",
    "count": 1,
    "url": "http://us/webhook",
    "title": "v",
    "project": 3,
    "extra_params": {},
    "label_config": CONFIG,
    "task_number": 1,
    "release": "1.23.2",
    "total": 1,
}
PAGE: Json = {
    **ROW,
    "tasks": [{**ROW, "annotations": [ROW]}],
    "static": [ROW],
    "annotations": [ROW],
}


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """What Label Studio could answer to any question, with a few odd things in it."""
    page: Json = json.loads(json.dumps(PAGE))
    places = [page, page["tasks"][0], page["static"][0], page["tasks"][0]["annotations"][0]]
    for place in draw(st.lists(st.sampled_from(places), max_size=2)):
        place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
    for place in draw(st.lists(st.sampled_from(places), max_size=1)):
        place.pop(draw(st.sampled_from(sorted(PAGE))), None)
    several = draw(st.sampled_from([0, 1, 2, 3]))
    return json.dumps(page if several == 3 else [page] * several).encode()


ERRORS = st.fixed_dictionaries({"detail": JSON}) | st.fixed_dictionaries(
    {"validation_errors": JSON}
)
ANSWERS = st.one_of(
    contents(),
    (JSON | ERRORS).map(lambda body: json.dumps(body).encode()),
    DEEP.map(lambda levels: nested(levels).encode()),
    DEEP.map(lambda levels: f'{{"detail": {nested(levels, "1")}}}'.encode()),
    DEEP.map(lambda levels: f'{{"tasks": {nested(levels)}, "total": 1e999}}'.encode()),
    st.binary(max_size=30),
)
STATUSES = st.sampled_from([200, 200, 200, 201, 204, 301, 302, 304, 400, 401, 404, 409, 429, 503])
SENT = st.dictionaries(
    st.sampled_from(["Location", "Content-Type", "Set-Cookie", "Content-Encoding"]),
    st.sampled_from(["http://[", "/x", "//", "", "text/html; charset=x", "gzip", "a=b", "http://é"])
    | LATIN,
    max_size=2,
)


class Pretender:
    """A server that answers in any way whatever it is asked."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.answers = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.answers += 1
        assert self.answers < 60, "asked for ever"
        code, content = self._data.draw(STATUSES), self._data.draw(ANSWERS)
        headers = [(k.encode(), v.encode("latin-1")) for k, v in self._data.draw(SENT).items()]
        # As from the network, where a body is unpacked while it is read.
        return httpx.Response(code, headers=headers, stream=httpx.ByteStream(content))


def opened(key: str, handler: Callable[[httpx.Request], httpx.Response]) -> LabelStudio:
    known = Settings(label_studio_url=URL, label_studio_api_key=SecretStr(key))
    return LabelStudio(known, httpx.Client(transport=httpx.MockTransport(handler)))


FIELDS = {"url": "http://us/webhook", "project": 3, "title": "v"}
CALLS: Mapping[str, Callable[[LabelStudio], object]] = {
    "server_version": lambda studio: studio.server_version(),
    "check_token": lambda studio: studio.check_token(),
    "transport entry": lambda studio: probes.check_entry_address(studio, "http://us"),
    "transport webhook": lambda studio: probes.check_webhook_address(studio, "http://us"),
    "transport review": lambda studio: review_predictions.publish(
        studio, 3, "v", [QueueItem(7, [])], {7: 0.5}, lambda: False
    ),
    "project": lambda studio: studio.project(3),
    "has_vanished": lambda studio: studio.has_vanished(3),
    "newest_update": lambda studio: studio.newest_update(3),
    "tasks": lambda studio: list(studio.tasks(3)),
    "tasks since": lambda studio: list(studio.tasks(3, since=MOMENT)),
    "annotations": lambda studio: list(studio.annotations(3, [7, 8])),
    "user_names": lambda studio: studio.user_names(),
    "entries": lambda studio: studio.entries(3),
    "entry": lambda studio: studio.entry(3, "v"),
    "version_count": lambda studio: studio.version_count(3, "v"),
    "version_counts": lambda studio: studio.version_counts(3),
    "import_queue": lambda studio: studio.import_queue(3, "v", []),
    "switch": lambda studio: studio.switch(3, "v"),
    "set_label_config": lambda studio: studio.set_label_config(3, "<View/>"),
    "set_interactive": lambda studio: studio.set_interactive({**FIELDS, "id": 1}, {}),
    "require_annotations": lambda studio: studio.require_annotations(7, 2),
    "rename": lambda studio: studio.rename({**FIELDS, "id": 1}, "v", {}),
    "delete_version": lambda studio: studio.delete_version(3, "v"),
    "connect": lambda studio: studio.connect(FIELDS),
    "webhooks": lambda studio: studio.webhooks(3),
    "ensure_webhook": lambda studio: studio.ensure_webhook(3, "http://us/webhook", {}),
    "remove_entry": lambda studio: studio.remove_entry(1),
    "remove_webhooks": lambda studio: studio.remove_webhooks(3, "http://us/webhook"),
    "tabs": lambda studio: studio.tabs(3),
    "add_tab": lambda studio: studio.add_tab(3, {}),
    "remove_tab": lambda studio: studio.remove_tab(1),
    "authorisation": lambda studio: studio.authorisation(),
}


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.0)


def test_every_call_of_the_gateway_is_among_those_that_are_tried() -> None:
    public = {name for name in vars(LabelStudio) if not name.startswith("_")}
    assert public - {"token_kind", "close"} == {name.partition(" ")[0] for name in CALLS}


@pytest.mark.slow
@pytest.mark.usefixtures("_no_waiting")
@given(data=st.data())
@limits(max_examples=600, suppress_health_check=SLOW)
def test_whatever_label_studio_answers_only_our_errors_come_out(data: st.DataObject) -> None:
    studio = opened(TOKEN, Pretender(data))
    with suppress(FirstlightError):
        CALLS[data.draw(st.sampled_from(sorted(CALLS)))](studio)
    studio.close()


def odd_token(claims: object) -> str:
    """Return a token with these claims, which need not be what claims are."""
    head, _, tail = jwt.encode({}, "a key that is long enough for HS256", "HS256").split(".")
    body = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    return f"{head}.{body}.{tail}"


EXPIRIES: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1e400, 10**12, 1e17, 4 * 10**9, -1, "x", None, [], True]
)
TOKENS = st.fixed_dictionaries({"exp": EXPIRIES | JSON}, optional={"token_type": JSON}) | JSON


@pytest.mark.slow
@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")
@given(TOKENS, TOKENS, JSON)
@limits(max_examples=200, suppress_health_check=SLOW)
def test_no_token_makes_the_gateway_fail_in_another_way(
    personal: object, access: object, odd: object
) -> None:
    answers = iter([{"access": odd_token(access)}, odd, {"access": odd}])

    def answer(request: httpx.Request) -> httpx.Response:
        refresh = request.url.path.endswith("/token/refresh/")
        return httpx.Response(200, content=json.dumps(next(answers, None) if refresh else []))

    for key in (odd_token(personal), odd_token({"exp": 4 * 10**9, "token_type": "refresh"})):
        for _ in range(3):
            with suppress(FirstlightError):
                opened(key, answer).authorisation()


@pytest.mark.seconds
@pytest.mark.usefixtures("_no_waiting")
@given(data=st.data())
@limits(max_examples=150, suppress_health_check=SLOW)
def test_a_sync_with_what_is_no_label_studio_ends_with_one_of_our_errors(
    store: Store, data: st.DataObject
) -> None:
    if store.projects.get(3) is None:
        store.projects.request_refresh(3)
    store.projects.update(3, live_version="v")

    def answer(request: httpx.Request) -> httpx.Response:
        content: Any = json.loads(json.dumps(PAGE))
        if data.draw(st.booleans()):
            content = json.loads(data.draw(contents()))
        if request.url.path in {"/api/ml", "/api/ml/"} and isinstance(content, dict):
            content = [content]
        return httpx.Response(200, content=json.dumps(content))

    studio = opened(TOKEN, answer)
    for look in (sync.look, sync.sync):
        with suppress(FirstlightError):
            look(studio, store, the(store, 3))
    studio.close()


def test_a_list_of_tasks_that_never_ends_is_left() -> None:
    page = json.dumps({"tasks": [{**ROW, "annotations": []}], "total": 10**6})
    studio = opened(TOKEN, lambda request: httpx.Response(200, content=page))
    with pytest.raises(FirstlightError, match="not Label Studio's API"):
        list(studio.tasks(3))

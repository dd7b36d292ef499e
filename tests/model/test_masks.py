from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from model import masks

few = settings(max_examples=60)
any_mask = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=23))


def sdk_encode(values: NDArray[Any]) -> list[int]:
    rle: list[int] = brush.encode_rle(values.ravel())  # type: ignore[no-untyped-call]
    return rle


def sdk_mask2rle(mask: NDArray[np.bool_]) -> list[int]:
    rle: list[int] = brush.mask2rle(mask.astype(np.uint8) * 255)  # type: ignore[no-untyped-call]
    return rle


def pack(fields: list[tuple[int, int]]) -> list[int]:
    """Bytes of a stream written field by field: (value, bits)."""
    text = "".join(f"{value:0{bits}b}" for value, bits in fields)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def header(values: int, word: int = 8) -> list[tuple[int, int]]:
    return [(values, 32), (word - 1, 5), (2, 4), (3, 4), (7, 4), (15, 4)]


def disc(size: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[:size, :size]
    inside: NDArray[np.bool_] = np.hypot(y - size / 2, x - size / 2) < size / 3
    return inside


def speckle(size: int, share: float) -> NDArray[np.bool_]:
    return np.random.default_rng(0).random((size, size)) < share


@given(any_mask)
@few
def test_encoding_is_byte_identical_to_the_converter_of_label_studio(
    mask: NDArray[np.bool_],
) -> None:
    assert masks.encode(mask) == sdk_mask2rle(mask)


@given(any_mask)
@few
def test_decoding_what_the_converter_wrote_gives_the_mask(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(masks.decode(sdk_mask2rle(mask), *mask.shape), mask)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.zeros((301, 417), bool),
        np.ones((301, 417), bool),
        np.eye(1, 20_000, 19_999, dtype=bool),
        np.eye(123, 181, dtype=bool),
        disc(257),
        speckle(129, 0.05),
        speckle(97, 0.5),
    ],
    ids=["dot-off", "dot-on", "empty", "full", "last-pixel", "line", "disc", "speckle", "noise"],
)
def test_shapes_that_cross_every_run_size_agree_with_the_converter(mask: NDArray[np.bool_]) -> None:
    rle = masks.encode(mask)
    assert rle == sdk_mask2rle(mask)
    assert np.array_equal(masks.decode(rle, *mask.shape), mask)
    assert np.array_equal(brush.decode_rle(rle).reshape(*mask.shape, 4)[..., 3] > 127, mask)


@given(st.integers(16_380, 16_390), st.integers(0, 3), st.booleans())
@example(16_384, 0, True)
@example(16_384, 1, True)
@few
def test_a_run_around_the_longest_token_is_cut_as_the_converter_cuts_it(
    pixels: int, times: int, foreground: bool
) -> None:
    mask = np.full((1, pixels * max(times, 1) + times), foreground)
    assert masks.encode(mask) == sdk_mask2rle(mask)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
@few
def test_any_rgba_picture_decodes_to_alpha_above_127(picture: NDArray[np.uint8]) -> None:
    decoded = masks.decode(sdk_encode(picture), *picture.shape[:2])
    assert np.array_equal(decoded, picture[..., 3] > 127)


@given(arrays(np.uint8, (7, 5, 4), elements=st.sampled_from([0, 126, 127, 128, 255])), st.data())
@few
def test_literal_runs_of_the_browser_decode(
    picture: NDArray[np.uint8], data: st.DataObject
) -> None:
    values, fields, i = picture.ravel().tolist(), header(picture.size), 0
    while i < len(values):
        count = data.draw(st.integers(1, min(len(values) - i, 16)))
        repeats = len(set(values[i : i + count])) == 1 and data.draw(st.booleans())
        words = values[i : i + 1] if repeats else values[i : i + count]
        fields += [(repeats, 1), (1, 2), (count - 1, 4), *((word, 8) for word in words)]
        i += count
    assert np.array_equal(masks.decode(pack(fields), 7, 5), picture[..., 3] > 127)


def scaled(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask by nearest neighbour, or every pixel that it touches where that is empty."""
    rows, columns = (
        [(2 * place + 1) * old // (2 * new) for place in range(new)]
        for new, old in zip(size, mask.shape, strict=True)
    )
    nearest: NDArray[np.bool_] = mask[np.ix_(rows, columns)]
    if nearest.any():
        return nearest
    for axis, (new, old) in enumerate(zip(size, mask.shape, strict=True)):
        mask = np.logical_or.reduceat(mask, np.arange(new) * old // new, axis=axis)
    return mask


@given(any_mask, st.tuples(st.integers(1, 40), st.integers(1, 40)))
@example(np.eye(23, 23, 22, dtype=bool), (3, 30))
@example(np.ones((23, 23), bool), (5, 7))
@few
def test_a_brush_at_another_size_is_its_mask_at_that_size(
    mask: NDArray[np.bool_], size: tuple[int, int]
) -> None:
    height, width = mask.shape
    boxes = masks.decode_boxes(masks.encode(mask), height, width, size)
    assert np.array_equal(masks.painted([boxes], size), scaled(mask, size))


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=9, max_side=23)), st.data())
@few
def test_a_few_pixels_are_found_again_at_a_smaller_size(
    shape: NDArray[np.bool_], data: st.DataObject
) -> None:
    mask = np.zeros(shape.shape, bool)
    start = data.draw(st.integers(0, mask.size - 1))
    mask.ravel()[start : start + data.draw(st.integers(1, 30))] = True
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 30)))
    height, width = mask.shape
    boxes = masks.decode_boxes(masks.encode(mask), height, width, size)
    assert np.array_equal(masks.painted([boxes], size), scaled(mask, size))


def test_the_boxes_of_several_brushes_are_painted_over_each_other() -> None:
    one, other = disc(20), np.eye(20, dtype=bool)
    boxes = [masks.decode_boxes(masks.encode(mask), 20, 20, (20, 20)) for mask in (one, other)]
    assert np.array_equal(masks.painted(boxes, (20, 20)), one | other)
    assert not masks.painted([], (3, 4)).any()


def test_run_sizes_are_read_from_the_header() -> None:
    fields = [(8, 32), (7, 5), (0, 4), (1, 4), (2, 4), (3, 4)]
    fields += [(1, 1), (2, 2), (3, 3), (255, 8)]  # four values with a count of 3 bits
    fields += [(0, 1), (0, 2), (1, 1), (0, 8), (0, 8)]  # two literals with a count of 1 bit
    fields += [(1, 1), (3, 2), (1, 4), (200, 8)]  # two values with a count of 4 bits
    assert masks.decode(pack(fields), 1, 2).tolist() == [[True, True]]


MASK = disc(20)
RLE = masks.encode(MASK)


@pytest.mark.parametrize(
    ("rle", "said"),
    [
        ([], "header"),
        (RLE[:6], "header"),
        (RLE[:-4], "truncated"),
        (RLE[:7], "truncated"),
        ([*RLE[:-1], 256], "0 to 255"),
        ([*RLE[:-1], -1], "0 to 255"),
        ([*RLE[:-1], 1.5], "integers"),
        ([*RLE[:-1], "1"], "integers"),
        ([*RLE[:-1], None], "integers"),
        ([RLE], "integers"),
        ("abc", "list"),
        (None, "list"),
        (10**12, "list"),
        (masks.encode(disc(21)), "original_height"),
        (pack(header(1600, word=16)), "words of 16 bits"),
        (pack([*header(1600), (1, 1), (3, 2), (65_535, 16), (255, 8)]), "beyond"),
        (pack([*header(1600), (0, 1), (3, 2), (65_535, 16), (255, 8)]), "truncated"),
    ],
)
def test_a_malformed_stream_is_refused_with_the_reason(rle: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masks.decode(rle, 20, 20)


def test_every_truncation_of_a_stream_is_refused() -> None:
    needed = len(RLE) - 1 if RLE[-1] == 0 else len(RLE)
    for length in range(needed - 1):
        with pytest.raises(ValueError, match="brush RLE"):
            masks.decode(RLE[:length], 20, 20)


@given(st.lists(st.integers(0, 255), max_size=40), st.booleans())
@few
def test_no_noise_does_more_than_raise_a_value_error(noise: list[int], headed: bool) -> None:
    rle = RLE[:7] + noise if headed else noise
    try:
        mask = masks.decode(rle, 20, 20)
    except ValueError:
        return
    assert mask.shape == (20, 20)


def test_a_stream_that_claims_a_huge_size_allocates_nothing_of_it() -> None:
    tokens = [(1, 1), (3, 2), (65_535, 16), (255, 8)] * 2_000
    rle = pack([*header(2**32 - 4), *tokens])
    matching = pack([*header(1600), *tokens])
    tracemalloc.start()
    for stream in (rle, matching):
        with pytest.raises(ValueError, match="brush RLE"):
            masks.decode(stream, 20, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # the streams claim 4 GB and 131 MB


def test_a_long_tail_behind_the_image_costs_no_memory() -> None:
    rle = RLE + [255] * 2_000_000
    tracemalloc.start()
    assert np.array_equal(masks.decode(rle, 20, 20), MASK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # the stream itself and little more


@pytest.mark.parametrize(("height", "width"), [(0, 20), (20, 0), (-1, 20)])
def test_an_image_without_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        masks.decode(RLE, height, width)


@pytest.mark.parametrize(
    "mask", [np.zeros((0, 3), bool), np.zeros((3, 3), np.uint8), np.zeros((3, 3, 1), bool)]
)
def test_only_a_flat_bool_mask_is_encoded(mask: Any) -> None:
    with pytest.raises(ValueError, match="bool array"):
        masks.encode(mask)


# -- clean-up -------------------------------------------------------------------------------------


def square(side: int = 40) -> NDArray[np.float32]:
    """A foreground of 20 x 20 pixels, 400 in all, so that 1 % is 4 pixels."""
    plane = np.full((1, side, side), 0.1, np.float32)
    plane[0, 10:30, 10:30] = 0.9
    return plane


def test_specks_are_removed_and_pinholes_filled() -> None:
    plane = square()
    plane[0, 2, 2:5] = 0.8  # 3 pixels outside
    plane[0, 15, 15:18] = 0.2  # 3 pixels inside

    assert ((masks.tidied(plane) > 0.5) == (square() > 0.5)).all()


def test_what_is_large_enough_to_be_meant_stays() -> None:
    plane = square()
    plane[0, 2:5, 2:5] = 0.8
    plane[0, 15:18, 15:18] = 0.2

    assert (masks.tidied(plane) == plane).all()


def test_a_gap_that_reaches_the_outside_is_no_hole_and_corners_join_patches() -> None:
    plane = square()
    plane[0, 20, 10:13] = 0.2  # a notch of three pixels, open to the left
    plane[0, 9, 9] = 0.8  # one pixel at the corner of the square

    assert (masks.tidied(plane) == plane).all()


def test_each_class_is_tidied_by_its_own_area() -> None:
    small = np.zeros((1, 40, 40), np.float32)
    small[0, 0, 0:2] = small[0, 5, 5:7] = 0.9

    found = masks.tidied(np.concatenate([square(), small]))

    assert (found[1] == small[0]).all()


@few
@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=12),
              elements=st.floats(0, 1, width=32)))  # fmt: skip
def test_tidying_changes_only_whole_patches_and_is_done_once(plane: NDArray[np.float32]) -> None:
    before = plane.copy()

    once = masks.tidied(plane)

    assert (plane == before).all()
    assert once.shape == plane.shape
    assert once.dtype == np.float32
    changed = (once > 0.5) != (plane > 0.5)
    assert (np.isin(once[changed], [0, 1])).all()
    assert (once[~changed] == plane[~changed]).all()


# -- outlines and shapes --------------------------------------------------------------------------


def area(outline: NDArray[np.float64]) -> float:
    """Signed by direction: positive when the corners go clockwise as one sees the picture."""
    x, y = outline.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@st.composite
def outlines(draw: st.DrawFn) -> NDArray[np.float64]:
    coordinate = st.floats(-5, 25, allow_nan=False, width=32)
    corners = draw(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9))
    return np.array(corners, np.float64)


def winding(outline: NDArray[np.float64], x: float, y: float) -> int:
    """How often the outline goes around a point: the sum of the angles one turns through."""
    to = outline - (x, y)
    angles = np.arctan2(to[:, 1], to[:, 0])
    turns = (np.roll(angles, -1) - angles + np.pi) % (2 * np.pi) - np.pi
    return round(float(turns.sum() / (2 * np.pi)))


@given(outlines())
@few
def test_a_pixel_is_filled_if_the_outline_goes_around_its_centre(
    outline: NDArray[np.float64],
) -> None:
    found = masks.filled(outline, (9, 12))
    naive = [
        [winding(outline, column + 0.5, row + 0.5) != 0 for column in range(12)] for row in range(9)
    ]
    # Where the outline runs through a centre, either answer is right.
    corners = np.stack([outline, np.roll(outline, -1, axis=0)], axis=1)
    for row, column in np.argwhere(found != np.array(naive)):
        point = np.array([column + 0.5, row + 0.5])
        along = corners[:, 1] - corners[:, 0]
        length = np.maximum((along**2).sum(axis=1), 1e-300)
        share = np.clip(((point - corners[:, 0]) * along).sum(axis=1) / length, 0, 1)
        nearest = corners[:, 0] + share[:, None] * along
        assert np.hypot(*(nearest - point).T).min() < 1e-5


@given(outlines())
@few
def test_the_window_of_an_outline_holds_all_that_it_covers(outline: NDArray[np.float64]) -> None:
    covered, window = masks.filled_window(outline, (9, 12))
    whole = masks.filled(outline, (9, 12))
    assert np.array_equal(whole[window], covered)
    assert whole.sum() == covered.sum()
    assert covered.size <= (np.ptp(outline[:, 0]) + 2) * (np.ptp(outline[:, 1]) + 2)


@given(outlines(), st.integers(0, 8))
@few
def test_where_an_outline_starts_and_which_way_it_goes_changes_nothing(
    outline: NDArray[np.float64], start: int
) -> None:
    found = masks.filled(outline, (20, 20))
    assert np.array_equal(masks.filled(outline[::-1], (20, 20)), found)
    assert np.array_equal(masks.filled(np.roll(outline, start, axis=0), (20, 20)), found)


def test_an_outline_that_crosses_itself_covers_what_a_canvas_fills() -> None:
    bow = np.array([[0, 0], [8, 8], [8, 0], [0, 8]], np.float64)
    assert masks.filled(bow, (8, 8)).sum() == pytest.approx(32, abs=8)
    twice = np.array([[1, 1], [7, 1], [7, 7], [1, 7]] * 2, np.float64)
    assert masks.filled(twice, (8, 8)).sum() == 36


def test_a_box_turns_clockwise_around_its_upper_left_corner() -> None:
    corners = masks.Box(x=10, y=20, width=4, height=2, degrees=90).outline
    assert corners == pytest.approx(np.array([[10, 20], [10, 24], [8, 24], [8, 20]]))


def test_an_ellipse_turns_clockwise_around_its_centre() -> None:
    points = masks.Ellipse(x=10, y=20, radius_x=6, radius_y=2, degrees=30).outline
    tip = points[np.argmax(np.hypot(*(points - (10, 20)).T))]
    assert (tip - (10, 20)) * np.sign(tip[0] - 10) == pytest.approx([6 * 0.75**0.5, 3])
    assert abs(area(points)) == pytest.approx(np.pi * 12, rel=1e-3)


@given(any_mask)
@few
def test_parts_cover_the_mask_once_and_do_not_touch(mask: NDArray[np.bool_]) -> None:
    for split in (masks.parts, masks.without_holes):
        votes = np.zeros(mask.shape, int)
        for part, (row, column) in split(mask):
            votes[row : row + part.shape[0], column : column + part.shape[1]] += part
        assert np.array_equal(votes, mask)


@pytest.mark.seconds
@given(any_mask)
@few
def test_a_part_without_holes_has_one_outline_which_covers_it(mask: NDArray[np.bool_]) -> None:
    for part, _ in masks.without_holes(mask):
        size = (part.shape[0], part.shape[1])
        assert np.array_equal(masks.filled(masks.outline_of(part, 0), size), part)
        for tolerance in (0.5, 1, 4, 50):
            found = masks.filled(masks.outline_of(part, tolerance), size)
            assert (found & part).sum() >= 0.95 * (found | part).sum()


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_an_outline_keeps_within_its_tolerance_with_few_points(tolerance: float) -> None:
    exact = masks.outline_of(disc(256), 0)
    simple = masks.outline_of(disc(256), tolerance)
    assert len(exact) > 200
    assert 8 <= len(simple) < len(exact) / 2
    away = np.hypot(*(exact - 128).T) - 256 / 3
    assert np.abs(away).max() < 1.2
    edges = np.linspace(simple, np.roll(simple, -1, axis=0), 20).reshape(-1, 2)
    assert np.abs(np.hypot(*(edges - 128).T) - 256 / 3).max() < tolerance + 1.2


def test_a_ring_is_cut_across_its_hole() -> None:
    ring = np.pad(np.zeros((4, 4), bool), 2, constant_values=True)
    pieces = list(masks.without_holes(ring))
    assert [(piece.shape, corner) for piece, corner in pieces] == [
        ((4, 8), (0, 0)),
        ((4, 8), (4, 0)),
    ]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
@few
def test_the_box_of_a_box_is_itself(x: int, y: int, width: int, height: int) -> None:
    box = masks.Box(x, y, width, height)
    assert masks.box_of(masks.filled(box.outline, (20, 20))) == box


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135, 170])
def test_the_ellipse_of_an_ellipse_is_itself(degrees: float) -> None:
    drawn = masks.Ellipse(120, 90, 60, 25, degrees)
    found = masks.ellipse_of(masks.filled(drawn.outline, (200, 240)))
    assert (found.x, found.y) == pytest.approx((120, 90), abs=0.1)
    assert sorted((found.radius_x, found.radius_y)) == pytest.approx((25, 60), abs=0.2)
    long_axis = found.degrees + (90 if found.radius_y > found.radius_x else 0)
    assert abs((long_axis - degrees + 90) % 180 - 90) < 0.5


def test_the_radius_across_lies_nearer_to_across_than_to_down() -> None:
    tall = masks.Ellipse(30, 90, 10, 60, 20)
    found = masks.ellipse_of(masks.filled(tall.outline, (180, 60)))
    assert (found.radius_x, found.radius_y) == pytest.approx((10, 60), abs=0.2)
    assert found.degrees == pytest.approx(20, abs=0.5)


def test_an_outline_touches_the_pixels_that_it_runs_through() -> None:
    line = np.array([[0.2, 0.2], [3.8, 0.2], [3.8, 0.3], [0.2, 0.3]])
    assert not masks.filled(line, (2, 5)).any()
    np.testing.assert_array_equal(
        masks.touched(line, (2, 5)), [[True, True, True, True, False], [False] * 5]
    )
    assert not masks.touched(line - 9, (2, 5)).any(), "it lies outside"
    assert masks.area_of(line) == pytest.approx(0.36)


def test_the_ellipse_of_one_pixel_has_its_size() -> None:
    found = masks.ellipse_of(np.ones((1, 1), bool))
    assert (found.x, found.y) == (0.5, 0.5)
    assert found.radius_x == pytest.approx(found.radius_y) == pytest.approx((1 / 3) ** 0.5)

"""Masks as Label Studio's brush stores them: run-length encoded.

The brush RLE is a bit stream of runs over the flattened RGBA image of a mask. The header has 32
bits for the number of values, 5 bits for the word size - 1 and four times 4 bits for the run
sizes - 1. Then follow tokens: 1 bit "repeat", 2 bits that choose a run size, as many bits for
count - 1, and one word (repeat) or `count` words (literal). A mask pixel is four equal values.
Source: the rle-pack format, https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Boxes = NDArray[np.int64]  # (n, 4): top, bottom, left, right, the second and fourth excluded
Edges = NDArray[np.int64]
Places = Callable[[Edges, Edges, int, int], tuple[Edges, Edges]]

CHANNELS = 4
WORD = 8  # bits of one value
HEADER = 32 + 5 + 4 * 4  # bits
RUN_SIZES = np.array([3, 4, 8, 16])  # the run sizes that Label Studio writes
OPAQUE = 127  # alpha above this is foreground
LONGEST = 1 << 16  # values in one token of the largest run size


def encode(mask: Mask) -> list[int]:
    """Return the brush RLE of a mask, as Label Studio's own converter writes it.

    Args:
        mask: Foreground, shape (h, w), bool.
    Returns:
        The bytes of the stream as integers, foreground 255 in all four channels.
    Raises:
        ValueError: If the mask is not a non-empty 2-D bool array of less than 2**32 values.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or not 0 < mask.size * CHANNELS < 1 << 32:
        raise ValueError(
            f"mask has shape {mask.shape} and dtype {mask.dtype}; give a non-empty (height, width) "
            "bool array of less than 2**30 pixels"
        )
    counts, foreground = _runs(mask.ravel())
    size = np.searchsorted([8, 16, 256], counts)
    # The converter cuts long runs at LONGEST and writes even a short remainder with the largest
    # size. So choose the size before cutting.
    counts, size, foreground = _cut(counts, size, foreground)
    codes = (((4 | size) << RUN_SIZES[size]) | (counts - 1)) << WORD | foreground * 255
    return _pack(_header(mask.size * CHANNELS), codes, 3 + RUN_SIZES[size] + WORD)


def _runs(pixels: Mask) -> tuple[NDArray[np.int64], Mask]:
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]), pixels.size - 1)
    return np.diff(ends, prepend=-1) * CHANNELS, pixels[ends]


def _cut(
    counts: NDArray[np.int64], size: NDArray[np.int64], foreground: Mask
) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask]:
    pieces = (counts + LONGEST - 1) // LONGEST
    last = np.cumsum(pieces) - 1
    cut = np.full(pieces.sum(), LONGEST)
    cut[last] = counts - (pieces - 1) * LONGEST
    return cut, np.repeat(size, pieces), np.repeat(foreground, pieces)


def _header(values: int) -> int:
    header = values << 5 | (WORD - 1)
    for size in RUN_SIZES.tolist():
        header = header << 4 | (size - 1)
    return header


def _pack(header: int, codes: NDArray[np.int64], widths: NDArray[np.int64]) -> list[int]:
    starts = HEADER + np.cumsum(widths) - widths
    bits = int(starts[-1] + widths[-1])
    # The converter adds a whole byte of zeros if the stream ends at a byte boundary.
    packed = np.zeros(bits // 8 + 1, np.uint8)
    packed[:7] = np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8)
    # A code of at most 27 bits, behind at most 7 bits of its first byte, touches up to five bytes.
    first, aligned = starts // 8, codes << (40 - starts % 8 - widths)
    for byte in range(5):
        part = (aligned >> (32 - 8 * byte) & 255).astype(np.uint8)
        written = np.flatnonzero(part)  # zero parts may lie beyond the end
        np.bitwise_or.at(packed, first[written] + byte, part[written])
    return packed.tolist()


def decode(rle: list[int], height: int, width: int) -> Mask:
    """Return the foreground of a brush RLE: its alpha channel above 127.

    Args:
        rle: The bytes of the stream as integers, from Label Studio's interface or a converter.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    Returns:
        The mask, shape (height, width).
    Raises:
        ValueError: If the stream is malformed or of another size. Memory is never allocated by a
            size that only the stream claims.
    """
    starts, ends = _foreground(rle, height, width).T
    edges = np.zeros(height * width + 1, np.int8)
    edges[starts], edges[ends] = 1, -1
    mask: Mask = np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)
    return mask.reshape(height, width)


def decode_boxes(rle: list[int], height: int, width: int, size: tuple[int, int]) -> Boxes:
    """Return the foreground of a brush RLE at another size, as boxes for `painted`.

    The mask is scaled by nearest neighbour. A foreground that would vanish covers every pixel of
    the other size that it touches. Time and memory depend only on the length of the stream, because
    neither image is made.

    Args:
        rle: As in `decode`.
        height: Height of the stream's image in pixels.
        width: Width of the stream's image in pixels.
        size: Height and width of the requested mask.
    Raises:
        ValueError: As in `decode`.
    """
    drawn = _boxes(_foreground(rle, height, width), width)
    centres = _scaled(drawn, (height, width), size, _centres)
    return centres if len(centres) else _scaled(drawn, (height, width), size, _touched)


def painted(boxes: Sequence[Boxes], size: tuple[int, int]) -> Mask:
    """Return a mask of a size (h, w) that covers the pixels of all boxes."""
    height, width = size
    edges = np.zeros((height + 1, width + 1), np.int32)
    for box in boxes:
        top, bottom, left, right = box.T
        for rows, columns, step in ((top, left, 1), (top, right, -1), (bottom, left, -1)):
            np.add.at(edges, (rows, columns), step)
        np.add.at(edges, (bottom, right), 1)
    for axis in (0, 1):
        np.cumsum(edges, axis=axis, out=edges)
    mask: Mask = edges[:height, :width] > 0
    return mask


def _foreground(rle: list[int], height: int, width: int) -> NDArray[np.int64]:
    """Return the runs of foreground pixels, shape (n, 2): start and end, ascending, apart."""
    if height < 1 or width < 1:
        raise ValueError(f"image size {height} x {width}: height and width must be at least 1")
    stream, sizes = _open(rle, height, width)
    repeat, counts, words = _read_tokens(stream, _token_starts(stream, sizes), sizes)
    total = height * width * CHANNELS
    ends = np.cumsum(counts)
    tokens = int(np.searchsorted(ends, total)) + 1
    if tokens > ends.size:
        raise ValueError(
            f"brush RLE ends after {ends[-1] if ends.size else 0} of {total} values: it is "
            "truncated; send the whole list"
        )
    if ends[tokens - 1] != total:
        raise ValueError(f"brush RLE is corrupt: a run goes beyond the {total} values of the image")
    repeat, counts, words, ends = repeat[:tokens], counts[:tokens], words[:tokens], ends[:tokens]
    # A pixel's alpha is the last of its four values: compute the pixels whose alpha a token holds.
    starts = ends - counts
    first, last = starts // CHANNELS, ends // CHANNELS
    alone, alpha = _literals(stream, starts[~repeat], ends[~repeat], words[~repeat])
    shown = repeat & (_bytes_at(stream, words) > OPAQUE) & (last > first)
    alone = alone[alpha > OPAQUE]
    runs = np.concatenate(
        [np.column_stack([first[shown], last[shown]]), np.column_stack([alone, alone + 1])]
    )
    return _joined(runs[np.argsort(runs[:, 0])])


def _literals(
    stream: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], words: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the pixels whose alpha lies in literal tokens, and the alpha of each."""
    first = starts // CHANNELS
    lengths = ends // CHANNELS - first
    before = np.cumsum(lengths) - lengths
    pixels = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
    places = pixels * CHANNELS + CHANNELS - 1 - np.repeat(starts, lengths)
    return pixels, _bytes_at(stream, np.repeat(words, lengths) + WORD * places)


def _joined(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ascending runs, with adjacent runs joined."""
    if not len(runs):
        return runs
    apart = runs[1:, 0] != runs[:-1, 1]
    starts = runs[np.append(True, apart), 0]
    ends = runs[np.append(apart, True), 1]
    return np.column_stack([starts, ends])


def _boxes(runs: NDArray[np.int64], width: int) -> Boxes:
    """Return runs of pixels as boxes (top, bottom, left, right), at most three for each run.

    They are the row that the run starts in, the row that it ends in, and the rows between.
    """
    (top, left), (bottom, right) = np.divmod(runs[:, 0], width), np.divmod(runs[:, 1] - 1, width)
    several = bottom > top
    ends_at = np.where(several, width, right + 1)
    starts = np.column_stack([top, top + 1, left, ends_at])
    zero, whole = np.zeros_like(top), np.full_like(top, width)
    between = np.column_stack([top + 1, bottom, zero, whole])[bottom > top + 1]
    ends = np.column_stack([bottom, bottom + 1, zero, right + 1])[several]
    return np.concatenate([starts, between, ends])


def _scaled(boxes: Boxes, old: tuple[int, int], new: tuple[int, int], places: Places) -> Boxes:
    rows = places(boxes[:, 0], boxes[:, 1], old[0], new[0])
    columns = places(boxes[:, 2], boxes[:, 3], old[1], new[1])
    scaled = np.column_stack([*rows, *columns])
    kept: Boxes = scaled[(rows[1] > rows[0]) & (columns[1] > columns[0])]
    return kept


def _centres(start: Edges, end: Edges, old: int, new: int) -> tuple[Edges, Edges]:
    """Return the first and last + 1 of `new` pixels whose centres lie in [start, end) of `old`."""
    centres = (2 * np.arange(new) + 1) * old // (2 * new)
    return np.searchsorted(centres, start), np.searchsorted(centres, end)


def _touched(start: Edges, end: Edges, old: int, new: int) -> tuple[Edges, Edges]:
    """Return the first and last + 1 of `new` pixels that hold any of [start, end) of `old`."""
    begins = np.arange(new) * old // new
    first = begins[np.searchsorted(begins, start, side="right") - 1]
    return np.searchsorted(begins, first), np.searchsorted(begins, end - 1, side="right")


def _open(rle: list[int], height: int, width: int) -> tuple[bytes, NDArray[np.int64]]:
    """Return the stream and its four run sizes; raise if the header does not fit the image."""
    if not isinstance(rle, list):
        raise ValueError(f"brush RLE is {type(rle).__name__}; give the list of its bytes")
    try:
        stream = bytes(rle)
    except (TypeError, ValueError) as error:
        raise ValueError(f"brush RLE must be a list of integers from 0 to 255: {error}") from error
    if len(stream) * 8 < HEADER:
        raise ValueError(f"brush RLE has {len(stream)} bytes; its header alone takes 7")
    header = int.from_bytes(stream[:7], "big") >> 3
    values, word = header >> 21, (header >> 16 & 31) + 1
    if values != height * width * CHANNELS:
        raise ValueError(
            f"brush RLE holds {values} values; an image of {height} x {width} pixels and "
            f"{CHANNELS} channels has {height * width * CHANNELS}: check original_height and "
            "original_width of the region"
        )
    if word != WORD:
        raise ValueError(f"brush RLE has words of {word} bits; Label Studio writes {WORD}")
    sizes = np.array([(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)])
    # A token takes at most 3 + 16 + WORD bits a value: drop the bytes that cannot be reached.
    return stream[: (HEADER + values * (3 + 16 + WORD)) // 8 + 1], sizes


def _token_starts(stream: bytes, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bit where each complete token starts.

    A token tells where the next token starts, so this is a loop. It only looks up a table of the
    three bits that follow each bit; array operations do the rest.
    """
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    kinds = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes()
    widths = [3 + size + WORD for size in sizes.tolist()]
    starts, position, last = array("q"), HEADER, bits.size - min(widths)
    while position <= last:
        kind = kinds[position]
        following = position + widths[kind & 3]
        if kind < 4:
            size = widths[kind] - 3 - WORD
            following += WORD * _integer(stream, position + 3, size)
        if following > bits.size:
            break
        starts.append(position)
        position = following
    return np.frombuffer(starts, np.int64)


def _integer(stream: bytes, bit: int, size: int) -> int:
    """Return the `size` <= 16 bits from `bit` on; bits behind the end are zero."""
    window = stream[bit // 8 : bit // 8 + 3].ljust(3, b"\0")
    return int.from_bytes(window, "big") >> (24 - bit % 8 - size) & (1 << size) - 1


def _read_tokens(
    stream: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[Mask, NDArray[np.int64], NDArray[np.int64]]:
    """Return for each token whether it repeats, its count, and the bit of its first word."""
    head = _bytes_at(stream, starts).astype(np.int64)
    size = sizes[head >> 5 & 3]
    pair = _bytes_at(stream, starts + 3).astype(np.int64) << 8 | _bytes_at(stream, starts + 11)
    return head >= 128, (pair >> (16 - size)) + 1, starts + 3 + size


def _bytes_at(stream: bytes, bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the eight bits that start at each of `bits`; bits behind the end are zero."""
    padded = np.frombuffer(stream + b"\0\0", np.uint8)
    first, shift = bits // 8, (bits % 8).astype(np.uint8)
    pair = padded[first].astype(np.uint16) << 8 | padded[first + 1]
    eight: NDArray[np.uint8] = (pair >> (8 - shift)).astype(np.uint8)
    return eight

"""Masks as Label Studio's brush stores them: run-length encoded.

The brush RLE is a bit stream of runs over the flattened RGBA picture of a mask.
The stream opens with 32 bits for the number of values, 5 for the word size - 1 and four times 4 for
the run sizes - 1. Then come tokens: 1 bit "repeat", 2 bits that choose a run size, that many bits
of count - 1, and one word (repeat) or `count` words (literal). A mask pixel is four equal values.
Source: the rle-pack format, https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CHANNELS = 4
WORD = 8  # bits of one value
HEADER = 32 + 5 + 4 * 4  # bits
RUN_SIZES = np.array([3, 4, 8, 16])  # what Label Studio itself writes
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
    # The converter writes what is left of a run cut at LONGEST with the largest size, however short
    # it is, so runs are measured before they are cut.
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
    # The converter pads with a whole byte of zeros when the stream ends on a byte already.
    packed = np.zeros(bits // 8 + 1, np.uint8)
    packed[:7] = np.frombuffer((header << 3).to_bytes(7, "big"), np.uint8)
    # A code of at most 27 bits, behind at most 7 bits of its first byte, touches up to five bytes.
    first, aligned = starts // 8, codes << (40 - starts % 8 - widths)
    for byte in range(5):
        part = (aligned >> (32 - 8 * byte) & 255).astype(np.uint8)
        written = np.flatnonzero(part)  # the others may lie behind the end
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
        ValueError: If the stream is malformed or of another size; nothing of a size that only the
            stream claims is ever allocated.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image size {height} x {width}: height and width must be at least 1")
    stream, sizes = _open(rle, height, width)
    starts = _token_starts(stream, sizes)
    repeat, counts, words = _read_tokens(stream, starts, sizes)
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
    values = np.repeat(_bytes_at(stream, words[:tokens]), counts[:tokens])
    for token in np.flatnonzero(~repeat[:tokens] & (counts[:tokens] > 1)):
        end, count = int(ends[token]), int(counts[token])
        values[end - count : end] = _literal(stream, int(words[token]), count)
    alpha: Mask = values.reshape(height, width, CHANNELS)[..., -1] > 127
    return alpha


def _open(rle: list[int], height: int, width: int) -> tuple[bytes, NDArray[np.int64]]:
    """Return the stream and its four run sizes, once its header fits the image."""
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
    # No token costs more than 3 + 16 + WORD bits a value, so what lies further on is never reached.
    return stream[: (HEADER + values * (3 + 16 + WORD)) // 8 + 1], sizes


def _token_starts(stream: bytes, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bit where each complete token starts.

    A token tells where the next one starts, so this walk is a loop; it looks up what it needs in
    a table of the three bits that follow each bit and leaves all else to array operations.
    """
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    kinds = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes()
    widths = [3 + size + WORD for size in sizes.tolist()]
    starts, position, last = [], HEADER, bits.size - min(widths)
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
    return np.array(starts, np.int64)


def _integer(stream: bytes, bit: int, size: int) -> int:
    """Return the `size` <= 16 bits from `bit` on; bits behind the end are zero."""
    window = stream[bit // 8 : bit // 8 + 3].ljust(3, b"\0")
    return int.from_bytes(window, "big") >> (24 - bit % 8 - size) & (1 << size) - 1


def _read_tokens(
    stream: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[Mask, NDArray[np.int64], NDArray[np.int64]]:
    """Return of each token whether it repeats, its count, and the bit of its first word."""
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


def _literal(stream: bytes, bit: int, count: int) -> NDArray[np.uint8]:
    """Return `count` successive words; the last one lies wholly in the stream."""
    window = np.frombuffer(stream[bit // 8 : bit // 8 + count + 1] + b"\0", np.uint8)
    pairs = window[:count].astype(np.uint16) << 8 | window[1 : count + 1]
    return (pairs >> (8 - bit % 8)).astype(np.uint8)

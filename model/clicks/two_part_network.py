"""A person's own network for clicks, exported in two ONNX files as Segment Anything is.

An encoder embeds an image once; a decoder turns the embedding and prompts into masks. The image is
scaled to the encoder's side and padded at the right and at the bottom; prompts are in pixels of
that square.

Source: Kirillov et al. 2023, "Segment Anything", https://arxiv.org/abs/2304.02643; the decoder's
inputs and outputs are those of its ONNX export.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.clicks.geodesic import REACH
from model.clicks.pixel_graph import window_around
from model.clicks.prompts import Box, Click
from model.onnx_sessions import session

Plane = NDArray[np.float32]

SIDE = 1024  # of the encoder's image, where the file leaves it open
MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of ImageNet, as the encoders expect
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
NEGATIVE, POSITIVE, CORNER, OPPOSITE, NO_BOX = 0, 1, 2, 3, -1  # the decoder's labels of points
MOST_LOGIT = 10.0
INPUTS = frozenset(
    {
        "image_embeddings",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
        "orig_im_size",
    }
)
OUTPUTS = frozenset({"iou_predictions", "low_res_masks"})


def files(folder: Path) -> tuple[Path, Path]:
    """Return the encoder's and the decoder's file in a folder.

    Raises:
        ValueError: If the folder does not hold exactly one of each.
    """
    return _only(folder, "encoder"), _only(folder, "decoder")


def _only(folder: Path, part: str) -> Path:
    found = sorted(path for path in folder.glob("*.onnx") if part in path.name.lower())
    if len(found) != 1:
        raise ValueError(
            f"{folder} holds {len(found)} files *{part}*.onnx, expected one: keep the encoder and "
            "the decoder of a single network in this folder"
        )
    return found[0]


class TwoPartNetwork:
    """Segments what clicks and boxes point at.

    Args:
        folder: Holds the encoder's and the decoder's file (`files`).

    Raises:
        ValueError: If a file is missing, is no ONNX model, or has other inputs and outputs.
    """

    def __init__(self, folder: Path) -> None:
        encoder, decoder = files(folder)
        self._encoder, self._decoder = _opened(encoder), _opened(decoder)
        self._picture, self._side = _input_of(self._encoder, encoder)
        _expect_parts(self._decoder, decoder)
        _expect_pair(self._encoder, self._decoder, folder)

    def embed(self, image: Plane) -> Plane:
        """Return what the encoder makes of an image (h, w) or (h, w, 3), values in [0, 1]."""
        colours = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        height, width = self._inside(image.shape)
        picture = Image.fromarray((np.clip(colours, 0, 1) * 255).round().astype(np.uint8))
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        if len(self._picture.shape) == 4:  # else the file itself scales values and pads
            square = np.zeros((1, 3, self._side, self._side), np.float32)
            square[0, :, :height, :width] = ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)
            pixels = square
        embedding: Plane = self._encoder.run(None, {self._picture.name: pixels})[0]
        return embedding

    def probabilities(
        self,
        shape: tuple[int, ...],
        embedding: Plane,
        draft: Plane | None,
        prompts: Sequence[Click | Box],
    ) -> Plane:
        """Return the probabilities (h, w) of the structure that the prompts point at.

        Args:
            shape: Of the image.
            embedding: What `embed` made of the image.
            draft: Probabilities of the class, shape (h, w), which the decoder sees; None for none.
            prompts: Oldest first. Only the last box counts, because the decoder takes one.
        """
        height, width = shape[:2]
        points, labels = _points(prompts, self._side / max(height, width))
        side = 4 * embedding.shape[-1]  # of the decoder's masks
        inputs = {
            "image_embeddings": embedding,
            "point_coords": points,
            "point_labels": labels,
            "mask_input": self._mask_input(draft, side),
            "has_mask_input": np.array([draft is not None], np.float32),
            # The padded square. Only the output `masks` depends on it, which is not used: exports
            # freeze its crop at the proportions of the image that they were made with.
            "orig_im_size": np.array([self._side, self._side], np.float32),
        }
        quality, masks = self._decoder.run(["iou_predictions", "low_res_masks"], inputs)
        logits = masks[0, int(np.argmax(quality[0]))]
        rows, columns = self._inside(shape, side)
        plane = Image.fromarray(logits[:rows, :columns].astype(np.float32))
        full = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
        found: Plane = 1 / (1 + np.exp(-np.clip(full, -MOST_LOGIT, MOST_LOGIT)))
        return found

    def _inside(self, shape: tuple[int, ...], side: int = 0) -> tuple[int, int]:
        """Return height and width of an image in a square of a side, the encoder's by default."""
        scale = (side or self._side) / max(shape[:2])
        return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)

    def _mask_input(self, draft: Plane | None, side: int) -> Plane:
        """Return the draft as logits in a padded square, shape (1, 1, side, side)."""
        square = np.full((1, 1, side, side), -MOST_LOGIT if draft is not None else 0, np.float32)
        if draft is not None:
            rows, columns = self._inside(draft.shape, side)
            plane = Image.fromarray(draft).resize((columns, rows), Image.Resampling.BILINEAR)
            bounded = np.clip(np.asarray(plane), 1e-6, 1 - 1e-6)
            logits = np.log(bounded / (1 - bounded))
            square[0, 0, :rows, :columns] = np.clip(logits, -MOST_LOGIT, MOST_LOGIT)
        return square


def joined(draft: Plane | None, answer: Plane, prompts: Sequence[Click | Box]) -> Plane:
    """Return the draft (h, w), with a network's answer in the box and around the clicks.

    Pixels farther than REACH from every click, and outside of the last box, keep their probability.
    Without a draft it is the answer.
    """
    if draft is None:
        return answer
    whole, reach = draft.copy(), round(REACH * max(draft.shape))
    for prompt in _heard(prompts):
        if isinstance(prompt, Box):
            window = prompt.window
        else:
            window = window_around([(prompt.row, prompt.column)], reach, draft.shape)
        whole[window] = answer[window]
    return whole


def _heard(prompts: Sequence[Click | Box]) -> list[Click | Box]:
    """Return the prompts that the decoder hears of: all clicks, then the last box."""
    boxes = [prompt for prompt in prompts if isinstance(prompt, Box)]
    return [*(prompt for prompt in prompts if isinstance(prompt, Click)), *boxes[-1:]]


def _points(prompts: Sequence[Click | Box], scale: float) -> tuple[Plane, Plane]:
    """Return points (1, n, 2) as x and y in the encoder's square, and their labels (1, n)."""
    points: list[tuple[float, float, float]] = []
    for prompt in _heard(prompts):
        if isinstance(prompt, Click):
            x, y = (prompt.column + 0.5) * scale, (prompt.row + 0.5) * scale
            points.append((x, y, POSITIVE if prompt.positive else NEGATIVE))
        else:
            points.append((prompt.left * scale, prompt.top * scale, CORNER))
            points.append((prompt.right * scale, prompt.bottom * scale, OPPOSITE))
    if not any(isinstance(prompt, Box) for prompt in prompts):
        points.append((0.0, 0.0, NO_BOX))
    numbers = np.array([points], np.float32)
    return numbers[..., :2], numbers[..., 2]


def _opened(path: Path) -> Any:
    try:
        return session(path)
    except Exception as error:  # noqa: BLE001  # the errors of onnxruntime share no other base
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} cannot be opened as an ONNX model ({reason})") from None


def _input_of(encoder: Any, path: Path) -> tuple[Any, int]:
    """Return the encoder's input, and the side of its square.

    Raises:
        ValueError: If it takes anything else than an image.
    """
    pictures = encoder.get_inputs()
    shape = pictures[0].shape if len(pictures) == 1 else []
    normal = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
    raw = len(shape) == 3 and shape[2] == 3
    if not (normal or raw) or pictures[0].type != "tensor(float)":
        given = ", ".join(f"{each.name} {each.shape} {each.type}" for each in pictures)
        raise ValueError(
            f"the encoder {path} takes {given}; expected one image of float numbers, of shape "
            "(1, 3, side, side) or (height, width, 3): export the image encoder of a network with "
            "Segment Anything's interface"
        )
    return pictures[0], shape[2] if normal and isinstance(shape[2], int) else SIDE


def _expect_parts(decoder: Any, path: Path) -> None:
    """Raise a ValueError if the decoder's inputs or outputs have other names."""
    given = {each.name for each in decoder.get_inputs()}
    made = {each.name for each in decoder.get_outputs()}
    if given != INPUTS or not made >= OUTPUTS:
        raise ValueError(
            f"the decoder {path} takes {', '.join(sorted(given))} and returns "
            f"{', '.join(sorted(made))}; expected the inputs {', '.join(sorted(INPUTS))} and the "
            f"outputs {', '.join(sorted(OUTPUTS))}: export the decoder as Segment Anything does"
        )


def _expect_pair(encoder: Any, decoder: Any, folder: Path) -> None:
    """Raise a ValueError if the decoder takes embeddings of another shape than the encoder makes.

    Sides that a file leaves open are not compared.
    """
    made = encoder.get_outputs()[0].shape
    taken = next(each.shape for each in decoder.get_inputs() if each.name == "image_embeddings")
    sides = [(a, b) for a, b in zip(made, taken, strict=False) if {type(a), type(b)} == {int}]
    if len(made) != len(taken) or any(a != b for a, b in sides):
        raise ValueError(
            f"the encoder in {folder} makes embeddings of shape {made}, and the decoder takes "
            f"{taken}: expected both files of the same network"
        )

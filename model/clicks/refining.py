"""One answer to clicks and boxes, with a draft or without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.clicks import geodesic, walker
from model.clicks.prompts import Box, Click


def refine(
    image: NDArray[np.float32],
    draft: NDArray[np.float32] | None,
    prompts: Sequence[Click | Box],
) -> NDArray[np.float32]:
    """Return the probabilities (h, w) of one class that a person asks for.

    A box stands for a structure inside it. Clicks then correct the draft; without a draft and a
    box they show, on the picture alone, what belongs to the class and what does not.

    Args:
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        draft: Probabilities of the class from the model, shape (h, w); None without a model.
        prompts: Oldest first, inside the image; an empty box is left out.

    Raises:
        ValueError: If image and draft differ in size, or a prompt lies outside of the image.
    """
    shape = image.shape[:2]
    if draft is not None and draft.shape != shape:
        raise ValueError(f"the draft has shape {draft.shape}, but the image has {shape}")
    clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
    for click in clicks:
        if not (0 <= click.row < shape[0] and 0 <= click.column < shape[1]):
            raise ValueError(f"{click} lies outside of an image of {shape[0]} x {shape[1]} pixels")
    boxes = [box for box in prompts if isinstance(box, Box) and image[box.window].size]
    if draft is None and not boxes:
        return walker.drawn(image, clicks)
    refined = np.zeros(shape, np.float32) if draft is None else draft.copy()
    for box in boxes:
        refined[box.window] = walker.boxed(image, draft, box)
    return geodesic.corrected(image, refined, clicks)

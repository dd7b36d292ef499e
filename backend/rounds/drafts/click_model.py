"""The network of CLICK_MODEL: it answers clicks in place of the built-in correction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError
from backend.imaging.scan_cache import Scan
from backend.rounds.drafts.recent import kept
from model.clicks import Box, Click, TwoPartNetwork, joined

KEPT_PAGES = 16  # whose embeddings stay in memory; one of Segment Anything takes 4 MB

Plane = npt.NDArray[np.float32]


class ClickModel:
    """Answers clicks and boxes; its encoder runs once for a page of a scan.

    Args:
        folder: CLICK_MODEL.

    Raises:
        ConfigError: If the folder holds no network with the expected interface.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._network = TwoPartNetwork(folder)
        except ValueError as error:
            raise ConfigError(
                f"CLICK_MODEL cannot be used: {error}.",
                "Correct CLICK_MODEL or the files in this folder, or leave CLICK_MODEL empty.",
            ) from None
        self._embeddings: OrderedDict[tuple[str, int], Plane] = OrderedDict()

    def answer(
        self, scan: Scan, page: int, draft: Plane | None, prompts: Sequence[Click | Box]
    ) -> Plane:
        """Return the probabilities (h, w) of the class that the prompts ask for, at working size.

        Args:
            scan: The scan; equal pixels share an embedding.
            page: The page of the scan that the prompts lie on.
            draft: Probabilities of the class from the live model; None without a draft.
            prompts: Oldest first.
        """
        image, name = scan.pages[page], (scan.digest, page)
        embedding = kept(self._embeddings, name, KEPT_PAGES, lambda: self._network.embed(image))
        found = self._network.probabilities(image.shape, embedding, draft, prompts)
        return joined(draft, found, prompts)

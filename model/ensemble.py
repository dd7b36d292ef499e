"""Several trained networks that predict as one: their probabilities are averaged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.fitted import Fitted, TrainConfig


@dataclass(frozen=True)
class Ensemble:
    """Networks for the same classes. Each sees a scan at the size that it was trained at."""

    members: tuple[Fitted, ...]

    def __post_init__(self) -> None:
        classes = {member.config.classes for member in self.members}
        if len(classes) != 1:
            raise ValueError(
                f"{len(self.members)} networks for {sorted(classes)} classes: expected at least "
                "one network, and the same number of classes in all"
            )

    @property
    def config(self) -> TrainConfig:
        """The settings of the member that sees the most pixels."""
        return max((one.config for one in self.members), key=lambda config: config.image_size)

    def to_bytes(self) -> bytes:
        """Return all networks as one safetensors file."""
        weights: dict[str, Tensor] = {}
        stories = []
        for number, member in enumerate(self.members):
            tensors, story = member.parts()
            weights |= {f"{number}.{name}": tensor for name, tensor in tensors.items()}
            stories.append(story)
        return save(weights, metadata={"ensemble": json.dumps(stories)})


def load(path: Path, *, device: str = "cpu") -> Fitted | Ensemble:
    """Return the network, or the networks, of a file, on `device`.

    Raises:
        ValueError: If the file is damaged, or another release wrote it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if "ensemble" not in (file.metadata() or {}):
                return Fitted.load(path, device=device)
            stories: list[dict[str, Any]] = json.loads(file.metadata()["ensemble"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no trained network, or is damaged: {error}") from error
    members = []
    for number, story in enumerate(stories):
        mark = f"{number}."
        own = {n.removeprefix(mark): part for n, part in weights.items() if n.startswith(mark)}
        members.append(Fitted.of(own, story, str(path), device))
    return Ensemble(tuple(members))

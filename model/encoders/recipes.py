"""The encoders there are. A new one is an entry here, its name in `model.registry` and its
builder in `networks`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from model.encoders import networks
from model.encoders.encoder import SIZE
from model.encoders.networks import Layers
from model.registry import AUTO, KNOWN_ENCODERS, RADIMAGENET, STAND_IN, TIMM, is_timm

# What the Hugging Face repositories of timm call their weights.
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Recipe:
    """How to make one encoder.

    Attributes:
        build: Returns the normalisation and the network, given the file of its weights if it has
            one; its docstring states the input. None: no network, the grey values themselves.
        dim: Length of an embedding; 0 if only the built network can tell.
        weighted: Whether it needs a file of weights.
        repository: Where on Hugging Face that file is published; empty if nowhere.
        files: What it is called there, the preferred name first.
        size: Side of its pictures, in pixels.
        resampling: How images become pictures.
    """

    build: Callable[..., Layers] | None
    dim: int
    weighted: bool = False
    repository: str = ""
    files: tuple[str, ...] = ()
    size: int = SIZE
    resampling: Image.Resampling = Image.Resampling.BILINEAR


def _radimagenet(build: Callable[..., Layers], dim: int, file: str) -> Recipe:
    return Recipe(build, dim, weighted=True, repository="Lab-Rasool/RadImageNet", files=(file,))


RECIPES = {
    RADIMAGENET: _radimagenet(networks.radimagenet_resnet50, 2048, "ResNet50.pt"),
    "radimagenet-densenet121": _radimagenet(
        networks.radimagenet_densenet121, 1024, "DenseNet121.pt"
    ),
    STAND_IN: Recipe(networks.efficientnet_lite0, 1280),
    "resnet50-random": Recipe(networks.random_resnet50, 2048),
    # Pictures of 16 x 16 grey values. Their principal components are taken where the whole pool
    # is known, in model.projection: an encoder sees one scan at a time.
    "pixels": Recipe(None, 256, size=16),
}


def weights_for(name: str, file: Path | None, *, owner: str) -> Path | None:
    """Return a file of weights for an encoder that it is meant for, None for others.

    Args:
        name: The encoder that is wanted, a known name.
        file: Weights, if any were given.
        owner: The encoder beside which they were given. If it takes none, they are meant for
            whichever takes some.
    """
    wanted, meant = _weighted(name), _weighted(owner)
    return file if wanted and meant in ("", wanted) else None


def _weighted(name: str) -> str:
    """Return the encoder that a known name prefers, if it takes a file of weights; else empty."""
    preferred = RADIMAGENET if name == AUTO else name
    return preferred if preferred.startswith(TIMM) or RECIPES[preferred].weighted else ""


def recipe_of(name: str) -> Recipe:
    """Return how to make an encoder.

    Raises:
        ValueError: If there is none of that name.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not is_timm(name):
        raise ValueError(f"encoder {name!r} is unknown; {KNOWN_ENCODERS}")
    return _timm(name.removeprefix(TIMM))


def _timm(model: str) -> Recipe:
    """Return the recipe of a model of timm, as its published configuration has it."""
    import timm

    try:
        config = timm.get_pretrained_cfg(model)
    except RuntimeError:  # the architecture is known, the tag after the dot is not
        config = None
    if config is None:
        near = difflib.get_close_matches(model, timm.list_models() + timm.list_pretrained(), n=5)
        raise ValueError(
            f"timm {timm.__version__} has no model {model!r}; "
            f"choose {'one like ' + ', '.join(near) if near else 'one of timm.list_models()'}"
        )
    return Recipe(
        partial(networks.timm_model, model),
        dim=0,
        weighted=True,
        repository=config.hf_hub_id or "",
        files=_TIMM_FILES,
        resampling=Image.Resampling[config.interpolation.upper()],
    )

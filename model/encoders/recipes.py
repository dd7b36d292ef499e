"""The list of encoders. To add an encoder, add an entry here, its name in `model.registry`, and its
builder in `networks` or its function in `descriptions`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from model.encoders import descriptions, networks
from model.encoders.encoder import SIZE
from model.encoders.networks import Layers
from model.encoders.running import Forward
from model.registry import (
    AUTO,
    KNOWN_ENCODERS,
    RADIMAGENET,
    STAND_IN,
    TIMM,
    is_plugged_encoder,
    is_timm,
    parts_of,
)

# The files of weights in timm's Hugging Face repositories.
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Recipe:
    """How to make one encoder.

    Attributes:
        build: Returns the normalisation and the network, given the file of weights if there is
            one; its docstring states the input. None for an encoder without a network.
        dim: Length of its vectors; 0 if only the built network can tell.
        weighted: Whether the encoder needs a file of weights.
        repository: Hugging Face repository of that file; empty if it is not published there.
        files: Names of the file in the repository, preferred first.
        size: Side of the input images, in pixels.
        resampling: Filter for resizing images.
        describe: Computes the vectors of an encoder without a network.
    """

    build: Callable[..., Layers] | None
    dim: int
    weighted: bool = False
    repository: str = ""
    files: tuple[str, ...] = ()
    size: int = SIZE
    resampling: Image.Resampling = Image.Resampling.BILINEAR
    describe: Forward | None = None


def _radimagenet(build: Callable[..., Layers], dim: int, file: str) -> Recipe:
    return Recipe(build, dim, weighted=True, repository="Lab-Rasool/RadImageNet", files=(file,))


RECIPES = {
    RADIMAGENET: _radimagenet(networks.radimagenet_resnet50, 2048, "ResNet50.pt"),
    "radimagenet-densenet121": _radimagenet(
        networks.radimagenet_densenet121, 1024, "DenseNet121.pt"
    ),
    STAND_IN: Recipe(networks.efficientnet_lite0, 1280),
    "resnet50-random": Recipe(networks.random_resnet50, 2048),
    # These take no principal components: they see one scan at a time, so model.projection, which
    # knows the whole pool, takes them.
    "pixels": Recipe(None, 256, size=16, describe=descriptions.grey_values),
    "normalised-pixels": Recipe(None, 256, size=16, describe=descriptions.normalised_grey_values),
    "statistics": Recipe(
        None, descriptions.STATISTICS, size=descriptions.SIDE, describe=descriptions.statistics
    ),
}


def weights_for(name: str, file: Path | None, *, owner: str) -> Path | None:
    """Return the given file of weights if it is meant for this encoder, else None.

    Args:
        name: A known name of an encoder.
        file: The given weights, if any.
        owner: The encoder that the weights were given with. If it takes no weights, they are meant
            for every encoder that takes weights.
    """
    wanted, meant = (_preferred(weighted_part(encoder)) for encoder in (name, owner))
    return file if wanted and meant in ("", wanted) else None


def weighted_part(name: str) -> str:
    """Return the first part of a known encoder that takes a file of weights; "" without any."""
    return next((part for part in parts_of(name) if _is_weighted(_preferred(part))), "")


def _is_weighted(name: str) -> bool:
    return not is_plugged_encoder(name) and (is_timm(name) or recipe_of(name).weighted)


def _preferred(name: str) -> str:
    return RADIMAGENET if name == AUTO else name


def recipe_of(name: str) -> Recipe:
    """Return the recipe of an encoder.

    Raises:
        ValueError: If the name is unknown.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not is_timm(name):
        raise ValueError(f"encoder {name!r} is unknown; {KNOWN_ENCODERS}")
    return _timm(name.removeprefix(TIMM))


def _timm(model: str) -> Recipe:
    """Return the recipe of a timm model, from its published configuration."""
    import timm

    try:
        config = timm.get_pretrained_cfg(model)
    except RuntimeError:  # the architecture is known, the tag after the dot is not
        config = None
    if config is None:
        near = difflib.get_close_matches(model, timm.list_models() + timm.list_pretrained(), n=5)
        raise ValueError(
            f"timm {timm.__version__} has no model {model!r}; "
            f"choose {'for example ' + ', '.join(near) if near else 'one of timm.list_models()'}"
        )
    return Recipe(
        partial(networks.timm_model, model),
        dim=0,
        weighted=True,
        repository=config.hf_hub_id or "",
        files=_TIMM_FILES,
        resampling=Image.Resampling[config.interpolation.upper()],
    )

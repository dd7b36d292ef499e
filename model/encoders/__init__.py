"""Frozen image encoders: scans in, embeddings out.

`recipes` lists the encoders, `networks` builds each with the input that it was trained on, and
`running` runs them. `descriptions` holds the encoders without a network. The caller provides or
fetches the files of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model import plugins
from model.encoders import plugged, running
from model.encoders.encoder import BATCH, Encoder, Floats, Part, Scan
from model.encoders.recipes import Recipe, recipe_of, weighted_part, weights_for
from model.encoders.weights import mark as mark_of
from model.plugins import PluginError
from model.registry import (
    AUTO,
    JOINT,
    KNOWN_ENCODERS,
    RADIMAGENET,
    STAND_IN,
    is_encoder,
    is_plugged_encoder,
    parts_of,
)
from model.registry import ENCODERS as NAMES

if TYPE_CHECKING:  # torch takes seconds to import, and a converted network does not need it
    from torch import nn

__all__ = [
    "AUTO",
    "BATCH",
    "NAMES",
    "RADIMAGENET",
    "STAND_IN",
    "Encoder",
    "Floats",
    "Part",
    "Scan",
    "load",
    "network",
    "set_aside",
    "weights_for",
]

SUBSTITUTION = (
    "RadImageNet's weights were neither given nor cached, and could not be fetched: "
    "EfficientNet-Lite0, trained on ImageNet photographs, stands in for them"
)
Fetch = Callable[[str, tuple[str, ...]], Path | None]


def load(
    name: str = AUTO,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    cache_dir: str | Path | None = None,
    fetch: Fetch | None = None,
) -> Encoder:
    """Return a frozen encoder, run by onnxruntime on a CPU and by torch on other devices.

    If a part of the encoder has a file of weights, its name ends in twelve hex digits of their
    SHA-256, so that embeddings from different weights are kept apart.

    Args:
        name: One of NAMES, "timm/<model>", "auto", a plugin's, or several joined by "+". "auto" is
            RadImageNet's ResNet-50 if its weights are available, else EfficientNet-Lite0.
        weights: A file of weights, .pt or .safetensors, to use instead of the published file, for
            the first part that takes weights.
        device: "cpu", "cuda" or "mps".
        cache_dir: Keeps converted networks, which makes later loads on a CPU some seconds faster.
        fetch: Called at most once for a part without given weights, with a Hugging Face repository
            and file names; returns a file, or None.
    Raises:
        FileNotFoundError: If the file `weights` does not exist.
        ValueError: If the name or device is unknown, or the weights are missing or do not fit.
    """
    if not is_encoder(name):
        raise ValueError(f"encoder {name!r} is unknown; {KNOWN_ENCODERS}")
    given = None if weights is None else Path(weights)
    if given is not None and not weighted_part(name):
        raise ValueError(f"encoder {name} takes no weights; leave them out or choose another")
    chosen = [
        _choose(part, given if part == weighted_part(name) else None, fetch, device)
        for part in parts_of(name)
    ]
    # "auto" may stand for another part, which must not count twice.
    files: dict[str, Path | None] = {}
    for known, path, _ in chosen:
        files.setdefault(known, path)
    started = [_start(known, path, device, cache_dir) for known, path in files.items()]
    return Encoder(
        name=JOINT.join(marked for marked, _, _ in started),
        parts=tuple(part for _, part, _ in started),
        substitution=next((reason for _, _, reason in chosen if reason), ""),
        note="; ".join(note for _, _, note in started if note),
    )


def network(name: str, weights: Path | None = None) -> nn.Module:
    """Return the torch network of an encoder, in evaluation mode, with its normalisation.

    It maps RGB images in [0, 1], shape (n, 3, 224, 224), to embeddings (n, dim).

    Raises:
        ValueError: If the encoder is unknown or has no network.
    """
    from torch import nn

    build = recipe_of(name).build
    if build is None:
        raise ValueError(f"encoder {name} has no network; call load instead")
    layers = build() if weights is None else build(weights)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def set_aside(name: str) -> tuple[str, ...]:
    """Return the parts of an encoder that are plugins, failed, and are not used any more."""
    return tuple(part for part in parts_of(name) if plugins.why_aside(plugins.ENCODERS, part))


def _choose(
    name: str, given: Path | None, fetch: Fetch | None, device: str
) -> tuple[str, Path | None, str]:
    """Return the encoder that a name stands for, its weights, and the reason for a substitute."""
    if is_plugged_encoder(name):
        why = plugins.why_aside(plugins.ENCODERS, name) or _try(name, device)
        if not why:
            return name, None, ""
        usual, path, _ = _choose(AUTO, given, fetch, device)
        return usual, path, f"{why}; {usual} stands in for it"
    if name == AUTO:
        path = given or _published(recipe_of(RADIMAGENET), fetch)
        return (STAND_IN, None, SUBSTITUTION) if path is None else (RADIMAGENET, path, "")
    recipe = recipe_of(name)
    if recipe.weighted:
        return name, given or _required(name, recipe, fetch), ""
    return name, None, ""


def _try(name: str, device: str) -> str:
    """Return why a plugin's encoder cannot be used, "" if it can."""
    try:
        plugged.load(name, device)
    except PluginError as error:
        plugins.set_aside(plugins.ENCODERS, name, error)
        return str(error)
    return ""


def _published(recipe: Recipe, fetch: Fetch | None) -> Path | None:
    return fetch(recipe.repository, recipe.files) if fetch and recipe.repository else None


def _required(name: str, recipe: Recipe, fetch: Fetch | None) -> Path:
    path = _published(recipe, fetch)
    if path is None:
        source = (
            f"download {' or '.join(recipe.files)} of https://huggingface.co/{recipe.repository}"
            if recipe.repository
            else "it is not on Hugging Face: get it from its authors"
        )
        raise ValueError(
            f"encoder {name} needs a file of weights, which was neither given nor cached, and "
            f"could not be fetched; {source}, and set ENCODER_WEIGHTS to its path"
        )
    return path


def _start(
    name: str, path: Path | None, device: str, cache_dir: str | Path | None
) -> tuple[str, Part, str]:
    """Return a part of an encoder: its name with a mark, itself, and a note if it is slow."""
    if is_plugged_encoder(name):
        return *plugged.load(name, device), ""
    recipe, mark, note = recipe_of(name), mark_of(path), ""
    if recipe.describe is not None:
        forward = recipe.describe
    elif device != "cpu":
        forward = running.in_torch(network(name, path), device)
    else:
        kept = None if cache_dir is None else Path(cache_dir) / running.file_name(name, mark)
        forward, note = running.on_cpu(lambda: network(name, path), kept)
    black = np.zeros((1, 3, recipe.size, recipe.size), np.float32)
    dim = recipe.dim or forward(black).shape[1]
    part = Part(dim, forward, recipe.size, recipe.resampling)
    return f"{name}-{mark}" if mark else name, part, note

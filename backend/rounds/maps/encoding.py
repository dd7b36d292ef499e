"""The encoder of a project or an experiment, with its weights: given, cached or fetched.

Fetched weights are pinned at their first use: the commit of their repository and the SHA-256 of
the file are written down, and from then on every other file is refused.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from backend.errors import ConfigError
from backend.rounds.maps import weights_hub
from backend.settings import Settings
from backend.storage import artifacts
from model import encoders, recipes

log = logging.getLogger(__name__)

PINS = "weights.json"  # in DATA_DIR/encoders


class Pin(BaseModel):
    """The one file of weights that may be read under a name."""

    revision: str = Field(pattern="^[0-9a-f]{40}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


_PINS = TypeAdapter(dict[str, Pin])  # by "owner/name/file"


def load(settings: Settings, name: str) -> encoders.Encoder:
    """Return an encoder on this machine's device.

    Args:
        settings: ENCODER_WEIGHTS applies only to the encoder that ENCODER names.
        name: As in `model.encoders.load`.

    Raises:
        ConfigError: If the encoder is unknown, or its weights cannot be had or differ from the
            pinned ones.
    """
    folder = settings.data_dir / "encoders"
    try:
        encoder = encoders.load(
            name,
            weights=encoders.weights_for(name, settings.encoder_weights, owner=settings.encoder),
            device=recipes.resolve_device(settings.device),
            cache_dir=folder,
            fetch=partial(pinned, folder / PINS),
        )
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"The encoder cannot be used: {error}.",
            "Correct the option `encoder`, or ENCODER, ENCODER_WEIGHTS and DEVICE.",
        ) from None
    if encoder.substituted:
        log.warning(encoder.substitution)
    if encoder.note:
        log.info(encoder.note)
    return encoder


def pinned(pins_file: Path, repository: str, files: tuple[str, ...]) -> Path | None:
    """Return the pinned file; without a pin, fetch the first available file and pin it.

    Args:
        pins_file: Where pins are kept; a person may write it before the first use.
        repository: "owner/name" on Hugging Face.
        files: Alternative names of the same weights, preferred first.
    Returns:
        The file, or None if it cannot be had.
    Raises:
        ConfigError: If the file has another SHA-256 than its pin, or the pins cannot be read.
    """
    pins = _read(pins_file)
    pin, known = next(
        ((pin, (file,)) for file in files if (pin := pins.get(f"{repository}/{file}"))),
        (None, files),
    )
    weights = weights_hub.fetch(repository, known, revision=pin.revision if pin else "")
    if weights is None:
        return None
    name, content = f"{repository}/{weights.path.name}", _sha256(weights.path)
    if pin is None:
        pins[name] = Pin(revision=weights.revision, sha256=content)
        artifacts.write(pins_file, lambda file: file.write(_PINS.dump_json(pins, indent=1)))
        log.info("the weights %s of commit %s are pinned: %s", name, weights.revision, content)
    elif pin.sha256 != content:
        raise ConfigError(
            f"The weights {name} have the SHA-256 {content[:12]}..., expected {pin.sha256[:12]}... "
            f"as pinned in DATA_DIR/encoders/{PINS}.",
            "Delete the file from Hugging Face's cache to have it fetched again. Only if you want "
            f"this new file, delete its entry in {PINS}.",
        )
    return weights.path


def _read(pins_file: Path) -> dict[str, Pin]:
    try:
        return _PINS.validate_json(pins_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise ConfigError(
            f"DATA_DIR/encoders/{PINS} cannot be read. Expected a JSON object with entries "
            '"owner/name/file": {"revision": 40 hex digits, "sha256": 64 hex digits}.',
            "Correct the file, or delete it: the next files that are used are then pinned.",
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

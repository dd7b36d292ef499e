"""The encoder of a project or an experiment, with its weights: given, cached or fetched.

Weights that nobody gave are pinned at their first use: the commit of their repository and the
SHA-256 of the file are written down, and no other file is read afterwards.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from backend.errors import ConfigError
from backend.rounds import weights_hub
from backend.settings import Settings
from backend.storage import artifacts
from model import encoders, training

log = logging.getLogger(__name__)

PINS = "weights.json"  # in DATA_DIR/encoders


class Pin(BaseModel):
    """Which file of weights is read under a name."""

    revision: str = Field(pattern="^[0-9a-f]{40}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


_PINS = TypeAdapter(dict[str, Pin])  # by "owner/name/file"


def load(settings: Settings, name: str) -> encoders.Encoder:
    """Return an encoder on this machine's device.

    Args:
        settings: ENCODER_WEIGHTS is used for the encoder that it was given for, and no other.
        name: As in `model.encoders.load`.

    Raises:
        ConfigError: If there is no such encoder, its weights cannot be had, or they are not those
            that were pinned.
    """
    folder = settings.data_dir / "encoders"
    try:
        found = encoders.load(
            name,
            weights=encoders.weights_for(name, settings.encoder_weights, owner=settings.encoder),
            device=training.resolve_device(settings.device),
            cache_dir=folder,
            fetch=partial(pinned, folder / PINS),
        )
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"The encoder cannot be used: {error}.",
            "Correct the option `encoder`, or ENCODER, ENCODER_WEIGHTS and DEVICE.",
        ) from None
    if found.substituted:
        log.warning(found.substitution)
    if found.note:
        log.info(found.note)
    return found


def pinned(pins_file: Path, repository: str, files: tuple[str, ...]) -> Path | None:
    """Return the pinned one of some files, or the first that can be had, which is then pinned.

    Args:
        pins_file: Where pins are kept; a person may write it before the first use.
        repository: "owner/name" on Hugging Face.
        files: Names of the same thing, the preferred one first.
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
    found = weights_hub.fetch(repository, known, revision=pin.revision if pin else "")
    if found is None:
        return None
    name, content = f"{repository}/{found.path.name}", _sha256(found.path)
    if pin is None:
        pins[name] = Pin(revision=found.revision, sha256=content)
        artifacts.write(pins_file, lambda file: file.write(_PINS.dump_json(pins, indent=1)))
        log.info("the weights %s of commit %s are pinned: %s", name, found.revision, content)
    elif pin.sha256 != content:
        raise ConfigError(
            f"The weights {name} have the SHA-256 {content[:12]}..., expected {pin.sha256[:12]}... "
            f"as pinned in DATA_DIR/encoders/{PINS}.",
            "Delete the file from Hugging Face's cache to have it fetched again; only if this file "
            f"is meant, delete its entry in {PINS}.",
        )
    return found.path


def _read(pins_file: Path) -> dict[str, Pin]:
    try:
        return _PINS.validate_json(pins_file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise ConfigError(
            f"DATA_DIR/encoders/{PINS} cannot be read as pins of weights: an object of "
            '"owner/name/file": {"revision": 40 hex digits, "sha256": 64 hex digits}.',
            "Correct it, or delete it to pin the files anew that are used next.",
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The encoder of a project or an experiment, with its weights: given, cached or fetched."""

from __future__ import annotations

import logging

from backend import hub
from backend.errors import ConfigError
from backend.settings import Settings
from model import encoders, training

log = logging.getLogger(__name__)


def load(settings: Settings, name: str) -> encoders.Encoder:
    """Return an encoder on this machine's device.

    Args:
        settings: ENCODER_WEIGHTS is used for the encoder that it was given for, and no other.
        name: As in `model.encoders.load`.

    Raises:
        ConfigError: If there is no such encoder, or its weights cannot be had.
    """
    try:
        found = encoders.load(
            name,
            weights=encoders.weights_for(name, settings.encoder_weights, owner=settings.encoder),
            device=training.resolve_device(settings.device),
            cache_dir=settings.data_dir / "encoders",
            fetch=hub.fetch,
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

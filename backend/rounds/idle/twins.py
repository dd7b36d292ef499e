"""Compare the masks of a model with those of the model a batch ago, and with those of a twin.

A twin is a network of the same labels and settings with another seed. It is trained in idle time,
and only where the gain of the next batch looks small: it serves nothing but the stop rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backend.errors import ImageError
from backend.rounds.context import RoundContext
from backend.rounds.models.examples import Mask, Pixels, labelled
from backend.rounds.models.time_box import recipe_of
from backend.rounds.stopping import Signs, store_stop_signs
from backend.storage.tables import Model
from model import inference, training
from model.ensemble import Ensemble
from model.evaluation import scan_dice
from model.refinement import Stopped
from model.registry import TRAINING_RULES

PROBED = 32  # unlabelled scans whose masks are compared
SEED_OF_TWIN = 10_000  # what the twin's seed is higher by

Network = training.Fitted | Ensemble


def compare(here: RoundContext, stop: Callable[[], bool]) -> None:
    """Store how well the newest model of the curve agrees with the one before and with a twin.

    Nothing is done if that is known, or if the gain of the next batch does not look small.

    Args:
        here: The project.
        stop: Called before every step and every scan; if it returns True, nothing is stored.

    Raises:
        Stopped: If `stop` returned True.
        UnreadableLabels: If labelled scans have become unreadable.
    """
    signs, learner = Signs(here), here.learner
    if not signs.gains_little:
        return
    before, model = signs.models[-2:]
    if any(of.quality.rules != TRAINING_RULES for of in (before, model)):
        return  # trained by other rules than a twin of today
    if not _is_due(model) or not all(learner.knows(of.key) for of in (before, model)):
        return
    if not learner.holds(here.ledger, model) or not here.selector.pool(here.ledger):
        return
    alike = replace(learner, recipe=recipe_of(model))
    if alike.key(here.ledger, model.trained_on, "") != model.key:
        return  # trained with other options than those of today
    newest = learner.load(model.key)
    networks = [newest, learner.load(before.key), _twin(here, newest, model.trained_on, stop)]
    agreement = _agreement(here, networks, stop)
    if not agreement:
        return
    model.quality = model.quality.changed(
        compared_with=before.key,
        agreement_before=[of_before for of_before, _ in agreement],
        agreement_twin=[of_twin for _, of_twin in agreement],
    )
    here.store.publications.save_model(model)
    store_stop_signs(here)


def _is_due(model: Model) -> bool:
    """Return whether a model waits for its comparison; a twin cannot repeat a warm start."""
    return not model.quality.compared_with and not model.quality.started_from


def _twin(
    here: RoundContext, network: Network, tasks: Sequence[int], stop: Callable[[], bool]
) -> Network:
    pages = here.learner.examples(here.ledger, tasks, stop)
    scans = labelled(list(pages), here.ledger.groups)
    # That of the network: how many steps a round has time for differs from round to round.
    config = network.members[0].config
    deadline = time.monotonic() + here.options.max_train_seconds
    twin = scans.fit(
        replace(config, seed=config.seed + SEED_OF_TWIN),
        stop=lambda: stop() or time.monotonic() >= deadline,
    )
    _end_if(stop)
    return twin


def _agreement(
    here: RoundContext, networks: Sequence[Network], stop: Callable[[], bool]
) -> list[tuple[float, float]]:
    """Return the Dice of the first network's mask with each other mask, by unlabelled scan.

    Of a slab the middle page is compared, the same for all networks: all pages take longer.
    """
    pool = here.selector.pool(here.ledger)
    order = np.random.default_rng(here.options.seed).permutation(len(pool))[:PROBED]
    found = []
    for _, scan in here.learner.scans.many([pool[row] for row in order]):
        _end_if(stop)
        if not isinstance(scan, ImageError):
            now, before, twin = (_mask(network, scan.image) for network in networks)
            found.append((_dice(now, before), _dice(now, twin)))
    return found


def _mask(network: Network, image: Pixels) -> Mask:
    [probabilities] = inference.predict(network, [image])
    return probabilities > 0.5


def _dice(mask: Mask, other: Mask) -> float:
    """Return the mean Dice over the classes that are in either mask, (c, h, w)."""
    return scan_dice(mask[:, None], other[:, None])


def _end_if(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped

"""Train models on labels, validate them, and let them predict scans."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ConfigError, FirstlightError, ImageError, StorageError
from backend.imaging.manifest import default_folder
from backend.imaging.scan_cache import Scans
from backend.label_studio import labels
from backend.options import ProjectOptions
from backend.rounds.models import predicting, volume_figures
from backend.rounds.models.examples import Example, Mask, UnreadableLabels, labelled
from backend.rounds.models.predicting import Predicted
from backend.rounds.models.progress import Pace, shown
from backend.rounds.models.time_box import in_time
from backend.rounds.models.validation_scores import JudgedPage, ScanScore, measured, scored
from backend.rounds.models.volume_figures import SlicePosition
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage import artifacts
from backend.storage import pages as addresses
from backend.storage.artifacts import ProjectFiles, weights_name
from backend.storage.ledger import Ledger, stored_options
from backend.storage.records import ModelQuality
from backend.storage.store import Store
from backend.storage.tables import Annotation, Model, Project
from model import calibration, ensemble, inference, recipes, training, uncertainty, validation
from model.encoders import weights
from model.ensemble import Ensemble
from model.expected_minutes import MaskSummary, summary
from model.networks import guarded, usable
from model.plugins import PluginError
from model.refinement import LabelledScans, Stopped
from model.registry import QUICK, TRAINING_RULES
from model.uncertainty import UNCERTAINTIES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """The models of one project: trains, stores and validates them, and predicts with them."""

    store: Store
    project_id: int
    files: ProjectFiles
    scans: Scans
    config: labels.LabelConfig
    options: ProjectOptions
    imported: Path  # the folder with the manifest of imported volumes, if there are any
    quick_config: training.TrainConfig  # of the recipe with which every project begins
    recipe: str = QUICK  # with which its rounds train today

    @property
    def train_config(self) -> training.TrainConfig:
        """How a round trains a network from scratch."""
        return recipes.named(self.recipe, self.quick_config)

    def split(self, ledger: Ledger, clusters: dict[int, int]) -> tuple[list[int], list[int]]:
        """Return the task ids to train on and to validate on, and store which is which."""
        ids = list(ledger.usable)
        stored = self.store.labels.splits(self.project_id)
        unknown = validation.UNKNOWN
        sides = validation.split(
            np.array([ledger.groups[i] for i in ids], np.int64),
            np.array([int(stored[i]) if i in stored else unknown for i in ids], np.int64),
            np.array([clusters.get(i, -1) for i in ids], np.int64),
            np.array([any(a.ground_truth for a in ledger.usable[i]) for i in ids], bool),
        )
        held = {i: bool(side == validation.VALIDATION) for i, side in zip(ids, sides, strict=True)}
        self.store.labels.save_splits(self.project_id, held)
        return [i for i in ids if not held[i]], [i for i in ids if held[i]]

    def key(self, ledger: Ledger, task_ids: Sequence[int], start: str = "") -> str:
        """Return the key of the model that these labels give: the same labels, the same key.

        Args:
            ledger: Holds the labels.
            task_ids: The scans to train on.
            start: Key of the model that training starts from; "" to train from scratch.
        """
        return artifacts.digest(
            self._data_digest(ledger, task_ids),
            self.config.labels,
            sorted(self.config.rows.items()),
            repr(self.train_config),
            self.options.max_train_seconds,
            start or self._weights_mark,
        )

    def _data_digest(self, ledger: Ledger, task_ids: Sequence[int]) -> str:
        """Return a digest of the training data: these scans, their annotations and their merge."""
        # The default is left out, so that the models of earlier releases keep their keys.
        merge = [] if self.options.merge == "majority" else [self.options.merge]
        return artifacts.digest(
            [[i, ledger.scans[i].url, *ledger.keys_of(i)] for i in task_ids], *merge
        )

    @property
    def _weights_mark(self) -> str:
        file = self.train_config.encoder_weights
        return weights.mark(Path(file)) if file else ""

    def fit(
        self,
        ledger: Ledger,
        task_ids: Sequence[int],
        on_batch: Callable[[training.Progress], None],
        live: str = "",
    ) -> str:
        """Train on these scans, unless their model already exists; return the model's key.

        With the option `training: warm`, training starts from the model `live` where it can.

        Raises:
            ConfigError: If this machine cannot train such a network.
            UnreadableLabels: If labelled scans have become unreadable.
            StorageError: If the model that training starts from cannot be read.
        """
        start = self._start(ledger, task_ids, live)
        key = self.key(ledger, task_ids, start)
        if self.knows(key):
            return key
        examples = list(self.examples(ledger, task_ids))
        started = time.monotonic()
        fitted = self._trained(labelled(examples, ledger.groups), start, on_batch)
        seconds = round(time.monotonic() - started, 1)
        log.info("trained on %d scans in %.1f s", len(examples), seconds)
        quality = ModelQuality(
            train_seconds=seconds,
            steps=len(fitted.history),
            started_from=start,
            recipes=[] if self.recipe == QUICK else [self.recipe],
            learnt=self._data_digest(ledger, task_ids),
            rules=TRAINING_RULES,
        )
        self.keep(key, fitted, task_ids, quality)
        return key

    def keep(
        self,
        key: str,
        model: training.Fitted | Ensemble,
        task_ids: Sequence[int],
        quality: ModelQuality,
    ) -> None:
        """Store a model that was trained on these scans."""
        # Save the row before the weights: a model counts as trained once its weights exist.
        self.store.publications.save_model(
            Model(
                project_id=self.project_id,
                key=key,
                labels=len(task_ids),
                classes=list(self.config.labels),
                trained_on=list(task_ids),
                created_at=self.store.clock(),
                quality=quality,
            )
        )
        self.files.write(weights_name(key), lambda file: file.write(model.to_bytes()))

    def reporter(self) -> Callable[[training.Progress], None]:
        """Return the function that training calls after every batch to report its progress.

        It writes to the database (for the page and /job_status) once a second and after every
        epoch, and to the log after every epoch.
        """
        clock = self.store.clock
        pace, last = Pace(clock, self.options.max_train_seconds), [0.0]

        def report(progress: training.Progress) -> None:
            now, left = clock(), pace.seconds_left(progress)
            if progress.ends_epoch or now - last[0] >= 1:
                last[0] = now
                self.store.projects.update(self.project_id, progress=shown(progress, left))
            if progress.ends_epoch:
                values = progress.epoch, progress.epochs, progress.loss, left or 0.0
                log.info("epoch %d of %d: loss %.3f, about %.0f s left", *values)

        return report

    def _start(self, ledger: Ledger, task_ids: Sequence[int], live: str) -> str:
        """Return the key of the model that training starts from; "" to train from scratch."""
        model = self.store.publications.model(self.project_id, live)
        if self.options.training != "warm" or model is None or not self.knows(live):
            return ""
        before = model.quality.started_from
        if self.key(ledger, task_ids, before) == live:
            return before  # the live model was already trained on exactly these labels
        # Start from the live model only if all its training data still holds. Otherwise a deleted
        # or corrected label would live on in the weights, and the model would know scans that are
        # held out today.
        still_holds = set(model.trained_on) <= set(task_ids) and self.holds(ledger, model)
        return live if still_holds and self.train_config.continues(self.load(live).config) else ""

    def base_of(self, key: str) -> str:
        """Return the key of the round's model that a model refines, else the model's own."""
        model = self.store.publications.model(self.project_id, key)
        return model.quality.refined_from or key if model else key

    def holds(self, ledger: Ledger, model: Model) -> bool:
        """Return whether all scans and labels that a model was trained on are unchanged."""
        if not set(model.trained_on) <= ledger.usable.keys():
            return False
        # Models of earlier releases did not record "learnt".
        learnt = model.quality.learnt
        return learnt is None or learnt == self._data_digest(ledger, model.trained_on)

    def _trained(
        self,
        scans: LabelledScans,
        start: str,
        on_batch: Callable[[training.Progress], None],
    ) -> training.Fitted:
        # Train without the held-out scans: the gate scores models on them, and a model that
        # stopped at its best epoch on them would score too high.
        limit = self.options.max_train_seconds
        deadline = time.monotonic() + limit
        config = in_time(self.quick_config, self.recipe, scans.masks, self._last(), limit)
        try:
            with guarded(config.network, (training.Untrainable, FirstlightError)):
                return scans.fit(
                    replace(config, init="warm") if start else config,
                    start=self._single(start) if start else None,
                    on_batch=on_batch,
                    stop=lambda: time.monotonic() >= deadline,
                )
        except (training.Untrainable, PluginError) as error:
            raise ConfigError(
                f"The network cannot be trained: {error}.",
                "Correct NETWORK_WEIGHTS, DEVICE or the options `network` and `image_size`.",
            ) from error

    def _last(self) -> Model | None:
        """Return the model that the last round trained."""
        newest = self.store.publications.newest_model(self.project_id)
        key = self.base_of(newest.key) if newest else ""
        return self.store.publications.model(self.project_id, key)

    def examples(
        self,
        ledger: Ledger,
        task_ids: Sequence[int],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Example]:
        """Yield the pages of labelled scans, also those that were submitted empty.

        Raises:
            Stopped: If `stop`, which is asked before every page, returned True.
            UnreadableLabels: After the last scan, if some scans have become unreadable.
        """
        broken: dict[int, ImageError] = {}
        for task_id, scan in self.scans.many((i, ledger.scans[i].url) for i in task_ids):
            if isinstance(scan, ImageError):
                broken[task_id] = scan
                continue
            results = self._results(ledger.usable[task_id])
            for page, image in enumerate(scan.pages):
                mask = self._mask(results, image.shape[:2], page)
                height, width = (o / k for o, k in zip(scan.size, image.shape, strict=False))
                if stop():
                    raise Stopped
                yield Example(task_id, page, image, mask, spacing=(height, width))
        if broken:
            raise UnreadableLabels(broken, asked=len(task_ids))

    def mask(self, annotations: Sequence[Annotation], size: tuple[int, ...], page: int = 0) -> Mask:
        """Return one scan's annotations, merged as the option says, shape (c, h, w)."""
        return self._mask(self._results(annotations), size, page)

    def _results(self, annotations: Sequence[Annotation]) -> list[list[Any]]:
        ids = [annotation.id for annotation in annotations]
        return list(self.store.labels.results(self.project_id, ids))

    def _mask(self, results: Sequence[list[Any]], size: tuple[int, ...], page: int) -> Mask:
        height, width = size
        masks = (
            labels.masks(result, self.config, size=(height, width), page=page) for result in results
        )
        return labels.merge(masks, self.options.merge)

    @cached_property
    def _positions(self) -> Mapping[str, SlicePosition]:
        """The position of each imported slice, read once: a gate scores two models."""
        return volume_figures.positions(self.imported)

    def _single(self, key: str) -> training.Fitted:
        [member] = self.load(key).members  # rounds start from models of rounds
        return member

    def load(self, key: str) -> training.Fitted | Ensemble:
        """Return a trained model, ready to predict."""
        try:
            return self.files.read(
                weights_name(key),
                lambda path: ensemble.load(path, device=self.train_config.device),
            )
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                self.files.remove(weights_name(key))  # damaged: the next round trains it again
            raise StorageError(
                "A trained model cannot be read.", "The next round trains it again."
            ) from error

    def gate(
        self,
        ledger: Ledger,
        key: str,
        live: str,
        held: Sequence[int],
        stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """Return the key of the model to use: the new one, unless validation refuses it.

        Both models are scored on today's validation scans, except the groups that the live model
        was trained on. The verdict, the new model's quality and the temperature that calibrates
        its probabilities are stored.

        Raises:
            Stopped: If `stop`, which is asked before every scan, returned True.
        """
        model = self.store.publications.model(self.project_id, key)
        if model is None or not held:
            return key
        new = self._validate(ledger, key, held, stop)
        model.quality = measured(model.quality, new, self.config.labels)
        refused = self._worse_than(live, new, ledger, stop) if live not in {"", key} else False
        model.accepted = not refused
        self.store.publications.save_model(model)
        if refused:
            log.warning("the new model is worse on validation and is not used")
        return live if refused else key

    def knows(self, key: str) -> bool:
        """Return whether a model exists, with its weights, and was trained for today's classes."""
        model = self.store.publications.model(self.project_id, key)
        known = model is not None and model.classes == list(self.config.labels)
        return known and self.files.exists(weights_name(key))

    def _worse_than(
        self, live: str, new: Mapping[int, ScanScore], ledger: Ledger, stop: Callable[[], bool]
    ) -> bool:
        model = self.store.publications.model(self.project_id, live)
        if model is None or not self.knows(live):
            return False
        seen = {ledger.groups.get(task_id) for task_id in model.trained_on}
        fair = [task_id for task_id in new if ledger.groups[task_id] not in seen]
        old = self._validate(ledger, live, fair, stop)
        groups = [ledger.groups[task_id] for task_id in fair]
        return validation.refuses(
            validation.group_means([old[task_id].mean for task_id in fair], groups),
            validation.group_means([new[task_id].mean for task_id in fair], groups),
            seed=self.options.seed,
        )

    def _validate(
        self, ledger: Ledger, key: str, task_ids: Sequence[int], stop: Callable[[], bool]
    ) -> dict[int, ScanScore]:
        """Return a model's scores on each of these scans, by task id."""
        fitted = self.load(key)

        def judged(example: Example) -> JudgedPage:
            [probabilities] = inference.predict(fitted, [example.image])
            pages = addresses.separate(ledger.scans[example.task].url)
            position = self._positions.get(pages[example.page])
            return JudgedPage(probabilities, example.mask, example.spacing, position)

        examples = self.examples(ledger, task_ids, stop)
        by_task = groupby(examples, key=lambda example: example.task)
        return {task_id: scored([*map(judged, pages)]) for task_id, pages in by_task}

    def judge(self, key: str, tasks: Sequence[tuple[int, str]]) -> dict[int, MaskSummary]:
        """Return the model's uncertainty on each readable scan, and what it draws if asked for.

        That of a slab follows from those of its pages; see `model.uncertainty.of_pages`.
        """
        measure = UNCERTAINTIES[self.options.uncertainty]
        model = self.store.publications.model(self.project_id, key)
        temperature = model.quality.temperature if model else 1.0
        judged = {}
        for task_id, _, pages in self.predict(key, tasks):
            each = [measure(calibration.tempered(page, temperature)[None])[0] for page in pages]
            unsure = uncertainty.of_pages(each)
            asked = self.options.by_minutes
            masks = [page > 0.5 for page in pages] if asked else []
            judged[task_id] = summary(unsure, masks) if asked else MaskSummary(unsure)
        return judged

    def predict(self, key: str, tasks: Sequence[tuple[int, str]]) -> Iterator[Predicted]:
        """Yield (task id, scan, probabilities (c, h, w) of each page); see `predicting`."""
        scans = self.scans.many(tasks)
        yield from predicting.predicted(self.load(key), scans, self.train_config.device)


def train_config(
    settings: Settings, options: ProjectOptions, config: labels.LabelConfig
) -> training.TrainConfig:
    """Return how this project's networks are trained on this machine."""
    return recipes.default_config(
        recipes.resolve_device(settings.device),
        len(config.labels),
        seed=options.seed,
        network=usable(options.network, len(config.labels)),
        image_size=options.image_size,
        encoder_weights=str(settings.network_weights or ""),
    )


def learner_for(services: Services, project: Project) -> Learner:
    """Return the models of a project, with its label config and options as last synced."""
    options = stored_options(project)
    config = labels.parse(project.label_config)
    quick = train_config(services.settings, options, config)
    return Learner(
        store=services.store,
        project_id=project.id,
        files=services.files(project.id),
        scans=services.scans(project, recipes.largest_size(quick)),
        config=config,
        options=options,
        imported=default_folder(services.settings, project.id),
        quick_config=quick,
        recipe=_recipe(services.store, project.id, options, list(config.labels)),
    )


def _recipe(store: Store, project_id: int, options: ProjectOptions, classes: list[str]) -> str:
    """Return the recipe that the last comparison found best for today's classes."""
    compared = store.publications.newest_comparison(project_id) if options.refine else None
    known = compared is not None and compared.classes == classes
    return compared.quality.best_recipe if compared and known else QUICK

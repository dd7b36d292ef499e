"""From labels to a model, and from a model to a judgement of every scan."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError, ImageError, StorageError
from backend.imaging.scan_cache import Scan, Scans
from backend.label_studio import labels
from backend.rounds.progress import Pace, shown
from backend.rounds.services import Services
from backend.rounds.validation_scores import Judged, group_means, measured, thinned
from backend.settings import ProjectOptions, Settings
from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles, weights_name
from backend.storage.ledger import Ledger, stored_options
from backend.storage.records import ModelQuality
from backend.storage.store import Store
from backend.storage.tables import Annotation, Model, Project
from model import calibration, evaluation, inference, training, validation
from model.encoders import weights
from model.uncertainty import UNCERTAINTIES

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]


class UnreadableLabels(ImageError):
    """Labelled scans that cannot be read any more, and why, by task id."""

    def __init__(self, broken: Mapping[int, ImageError], asked: int) -> None:
        super().__init__(
            f"{len(broken)} labelled scans can no longer be read.",
            "The round starts again without them.",
        )
        self.broken = broken
        self.asked = asked  # how many scans were to be read


@dataclass(frozen=True)
class Example:
    """A labelled scan at working size."""

    task: int
    image: Pixels  # (h, w) or (h, w, 3)
    mask: Mask  # (c, h, w)
    spacing: tuple[float, float]  # of its pixels, down and across, in pixels of the original


@dataclass(frozen=True)
class Learner:
    """The models of one project: trains them, keeps them, judges with them."""

    store: Store
    project_id: int
    files: ProjectFiles
    scans: Scans
    config: labels.LabelConfig
    options: ProjectOptions
    train_config: training.TrainConfig

    def split(self, ledger: Ledger, clusters: dict[int, int]) -> tuple[list[int], list[int]]:
        """Return the task ids to train on and those to validate on; the sides are stored."""
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
        """Return the name of the model that these labels make: same labels, same name.

        Args:
            ledger: Whose labels they are.
            task_ids: The scans to train on.
            start: Key of the model that training goes on from; empty for none.
        """
        return artifacts.digest(
            self._learnt(ledger, task_ids),
            self.config.labels,
            sorted(self.config.rows.items()),
            repr(self.train_config),
            self.options.max_train_seconds,
            start or self._weights_mark,
        )

    @staticmethod
    def _learnt(ledger: Ledger, task_ids: Sequence[int]) -> str:
        """Return the name of what is learnt from: these scans, and what is drawn on them."""
        urls = {task.id: task.url for task in ledger.tasks}
        return artifacts.digest([[i, urls[i], *ledger.keys_of(i)] for i in task_ids])

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
        """Train on these scans unless that was done before; return the model's key.

        With the option `training: warm` training goes on from the model `live` where it can.

        Raises:
            ConfigError: If this machine cannot train such a network.
            UnreadableLabels: If scans cannot be read any more.
            StorageError: If the model that training starts from cannot be read.
        """
        start = self._start(ledger, task_ids, live)
        key = self.key(ledger, task_ids, start)
        if self.knows(key):
            return key
        examples = list(self.examples(ledger, task_ids))
        started = time.monotonic()
        fitted = self._trained(examples, start, on_batch)
        seconds = round(time.monotonic() - started, 1)
        log.info("trained on %d scans in %.1f s", len(examples), seconds)
        # Before the weights: whoever finds those need not train again.
        self.store.publications.save_model(
            Model(
                project_id=self.project_id,
                key=key,
                labels=len(examples),
                classes=list(self.config.labels),
                trained_on=list(task_ids),
                created_at=self.store.clock(),
                quality=ModelQuality(
                    train_seconds=seconds,
                    started_from=start,
                    learnt=self._learnt(ledger, task_ids),
                ),
            )
        )
        self.files.write(weights_name(key), lambda file: file.write(fitted.to_bytes()))
        return key

    def reporter(self) -> Callable[[training.Progress], None]:
        """Return what training calls after every batch: it tells page, /job_status and log.

        It writes once a second and after every epoch.
        """
        clock = self.store.clock
        pace, last = Pace(clock, self.options.max_train_seconds), [0.0]

        def report(progress: training.Progress) -> None:
            now, left = clock(), pace.seconds_left(progress)
            if progress.ends_epoch or now - last[0] >= 1:
                last[0] = now
                self.store.projects.update(self.project_id, progress=shown(progress, left))
            if progress.ends_epoch:
                told = progress.epoch, progress.epochs, progress.loss, left or 0.0
                log.info("epoch %d of %d: loss %.3f, about %.0f s left", *told)

        return report

    def _start(self, ledger: Ledger, task_ids: Sequence[int], live: str) -> str:
        """Return the key of the model that training goes on from, empty for none."""
        model = self.store.publications.model(self.project_id, live)
        if self.options.training != "warm" or model is None or not self.knows(live):
            return ""
        before = model.quality.started_from
        if self.key(ledger, task_ids, before) == live:
            return before  # the live model was made from just these labels: nothing is to be learnt
        # What it learnt from must still be there to learn from. A label that was deleted or
        # corrected would live on in the weights, and a scan that is held out by now would no longer
        # be unseen. Models of former releases do not say what was drawn.
        goes_on = set(model.trained_on) <= set(task_ids) and (
            model.quality.learnt is None
            or model.quality.learnt == self._learnt(ledger, model.trained_on)
        )
        return live if goes_on and self.train_config.continues(self.load(live).config) else ""

    def _trained(
        self,
        examples: Sequence[Example],
        start: str,
        on_batch: Callable[[training.Progress], None],
    ) -> training.Fitted:
        # Held-out scans are not handed in: the gate judges by them, and what stopped at their best
        # would look better there than it is.
        deadline = time.monotonic() + self.options.max_train_seconds
        try:
            return training.fit(
                [example.image for example in examples],
                [example.mask for example in examples],
                replace(self.train_config, init="warm") if start else self.train_config,
                start=self.load(start) if start else None,
                on_batch=on_batch,
                stop=lambda: time.monotonic() >= deadline,
            )
        except training.Untrainable as error:
            raise ConfigError(
                f"The network cannot be trained: {error}.",
                "Correct NETWORK_WEIGHTS, DEVICE or the option `image_size`.",
            ) from error

    def examples(self, ledger: Ledger, task_ids: Sequence[int]) -> Iterator[Example]:
        """Yield labelled scans.

        Raises:
            UnreadableLabels: After the last one, when some cannot be read any more.
        """
        broken: dict[int, ImageError] = {}
        urls = {task.id: task.url for task in ledger.tasks}
        for task_id, scan in self.scans.many((i, urls[i]) for i in task_ids):
            if isinstance(scan, ImageError):
                broken[task_id] = scan
                continue
            mask = self.mask(ledger.usable[task_id], scan.image.shape[:2])
            height, width = (o / k for o, k in zip(scan.size, scan.image.shape, strict=False))
            yield Example(task=task_id, image=scan.image, mask=mask, spacing=(height, width))
        if broken:
            raise UnreadableLabels(broken, asked=len(task_ids))

    def mask(self, annotations: Sequence[Annotation], size: tuple[int, ...]) -> Mask:
        """Return what people drew on one scan, merged by majority, shape (c, h, w)."""
        height, width = size
        results = self.store.labels.results(self.project_id, [found.id for found in annotations])
        return labels.merge(
            labels.masks(result, self.config, size=(height, width)) for result in results
        )

    def load(self, key: str) -> training.Fitted:
        """Return a trained network, ready to predict."""
        try:
            return self.files.read(
                weights_name(key),
                lambda path: training.Fitted.load(path, device=self.train_config.device),
            )
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                self.files.remove(weights_name(key))  # damaged: only training anew helps
            raise StorageError(
                "A trained model cannot be read.", "The next round trains it again."
            ) from error

    def gate(self, ledger: Ledger, key: str, live: str, held: Sequence[int]) -> str:
        """Return the model to work with: the new one, unless validation refuses it.

        Both models are scored on today's validation scans, but for those of groups that the live
        one was trained on before they were held out. The verdict and the new model's quality are
        stored, and with them the temperature at which its probabilities mean what they say.
        """
        model = self.store.publications.model(self.project_id, key)
        if model is None or not held:
            return key
        new = self._validate(ledger, key, held)
        model.quality = measured(model.quality, new, self.config.labels)
        refused = self._worse_than(live, new, ledger) if live not in {"", key} else False
        model.accepted = not refused
        self.store.publications.save_model(model)
        if refused:
            log.warning("the new model is worse on validation and is not used")
        return live if refused else key

    def knows(self, key: str) -> bool:
        """Return whether a model is there and was trained for today's labels."""
        model = self.store.publications.model(self.project_id, key)
        known = model is not None and model.classes == list(self.config.labels)
        return known and self.files.exists(weights_name(key))

    def _worse_than(self, live: str, new: Mapping[int, Judged], ledger: Ledger) -> bool:
        model = self.store.publications.model(self.project_id, live)
        if model is None or not self.knows(live):
            return False
        seen = {ledger.groups.get(task_id) for task_id in model.trained_on}
        fair = [task_id for task_id in new if ledger.groups[task_id] not in seen]
        old = self._validate(ledger, live, fair)
        groups = [ledger.groups[task_id] for task_id in fair]
        return validation.refuses(
            group_means([old[i].mean for i in fair], groups),
            group_means([new[i].mean for i in fair], groups),
            seed=self.options.seed,
        )

    def _validate(self, ledger: Ledger, key: str, task_ids: Sequence[int]) -> dict[int, Judged]:
        """Return how a model does on each of these scans, by task id."""
        fitted = self.load(key)
        judged = {}
        for example in self.examples(ledger, task_ids):
            [found] = inference.predict(fitted, [example.image])
            drawn, truth = found > 0.5, example.mask
            scores = evaluation.of_labels(drawn, truth, example.spacing)
            judged[example.task] = Judged(
                scores={name: of.tolist() for name, of in scores.items()},
                probabilities=thinned(found),
                truth=thinned(truth),
            )
        return judged

    def uncertainties(self, key: str, wanted: Sequence[tuple[int, str]]) -> dict[int, float]:
        """Return the model's uncertainty on each scan that can be read, by task id."""
        measure = UNCERTAINTIES[self.options.uncertainty]
        model = self.store.publications.model(self.project_id, key)
        temperature = model.quality.temperature if model else 1.0
        return {
            task_id: float(measure(calibration.tempered(probabilities, temperature)[None])[0])
            for task_id, _, probabilities in self.predict(key, wanted)
        }

    def predict(
        self, key: str, wanted: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[int, Scan, Pixels]]:
        """Yield (task id, scan, probabilities (c, h, w)) batch by batch; the pool never stacks."""
        fitted = self.load(key)
        most = max(BATCH * 256**2 // max(fitted.config.image_size, 256) ** 2, 1)
        batch: list[tuple[int, Scan]] = []
        for task_id, scan in self.scans.many(wanted):
            if not isinstance(scan, ImageError):
                batch.append((task_id, scan))
            if len(batch) == most:
                yield from _predicted(fitted, batch)
                batch = []
        yield from _predicted(fitted, batch)


BATCH = 16  # scans at once where they have up to 256 pixels a side, fewer where they have more


def _predicted(
    fitted: training.Fitted, batch: Sequence[tuple[int, Scan]]
) -> Iterator[tuple[int, Scan, Pixels]]:
    images = [scan.image for _, scan in batch]
    predictions = inference.predict(fitted, images, batch_size=max(len(batch), 1))
    for (task_id, scan), probabilities in zip(batch, predictions, strict=True):
        yield task_id, scan, probabilities


def train_config(
    settings: Settings, options: ProjectOptions, config: labels.LabelConfig
) -> training.TrainConfig:
    """Return how this project's networks are trained on this machine."""
    return training.default_config(
        training.resolve_device(settings.device),
        len(config.labels),
        seed=options.seed,
        image_size=options.image_size,
        encoder_weights=str(settings.network_weights or ""),
    )


def learner_for(services: Services, project: Project) -> Learner:
    """Return the models of a project, with its label config and options as last synced."""
    options = stored_options(project)
    config = labels.parse(project.label_config)
    training_config = train_config(services.settings, options, config)
    return Learner(
        store=services.store,
        project_id=project.id,
        files=services.files(project.id),
        scans=services.scans(project, training_config.image_size),
        config=config,
        options=options,
        train_config=training_config,
    )

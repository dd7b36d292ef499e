"""The study that all runs of a plan share: scans, held-out scans, embeddings, training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError
from backend.experiments import datasets
from backend.experiments.plans import Arm, Plan
from backend.imaging.scan_cache import WORKING_SIZE
from backend.rounds import encoding
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, recipes, training

Array = npt.NDArray[Any]
Say = Callable[[str], object]
FORMAT = 3  # of a run's file; raise it when old files must not be reused
CHUNK = 64  # scans encoded at once


@dataclass(frozen=True)
class Embeddings:
    """An encoder's embeddings of all scans."""

    name: str  # with the mark of its weights
    path: Path
    substitution: str
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """The parts that all runs share; every process gets a copy.

    Attributes:
        out: Folder of the results.
        data: The scans at working size.
        pool, held: Rows of `data` that can be labelled, and rows that are held out.
        folds: Rows that are held out in turn, by seed; see `of`.
        encoded: Embeddings by the name of the encoder in the plan.
        train: Configuration of training, except the seed.
        code: Digest of the source of `model`.
    """

    out: Path
    plan: Plan
    data: datasets.Collection
    pool: tuple[int, ...]
    held: tuple[int, ...]
    folds: tuple[tuple[int, ...], ...]
    encoded: Mapping[str, Embeddings]
    train: training.TrainConfig
    code: str

    def of(self, seed: int) -> Study:
        """Return the study for the runs of a seed: one fold is held out, the rest is the pool."""
        held = self.folds[seed % len(self.folds)]
        return replace(self, held=held, pool=_others(len(self.data.scans), held))

    def file(self, arm: Arm, seed: int) -> Path:
        """Return the file of a run, named by all that determines the run except the code.

        Files from other states of the code stay valid: a changed comment must not cost hours of
        training. The report says when they are mixed.
        """
        plan, encoder, held = self.plan, self.encoded[arm.encoder].name, self.of(seed).held
        shared = (FORMAT, self.data.fingerprint, held, repr(self.train), plan.train_seeds)
        digest = artifacts.digest(*shared, plan.labels, asdict(arm), encoder, seed)
        return self.out / "runs" / f"{digest}.json"

    def scans(self, rows: Iterable[int]) -> list[datasets.ScanFile]:
        """Return scans by their rows of the data."""
        return [self.data.scans[row] for row in rows]

    def map_file(self, arm: Arm, seed: int) -> Path:
        """Return the file of the map for an arm's encoder and projection, and a seed."""
        space = (self.encoded[arm.encoder].path.name, arm.projection, seed)
        return self.out / "maps" / f"{artifacts.digest(self.code, self.pool, space)}.npz"


def prepare(plan: Plan, folder: Path, out: Path, settings: Settings, say: Say) -> Study:
    """Read the scans, hold some of them out, and embed all.

    Raises:
        FirstlightError: If the plan does not fit the data, or a file cannot be read or written.
    """
    dataset = datasets.find(folder, max_pixels=settings.max_image_pixels)
    say(f"{len(dataset.scans)} scans of {dataset.name}: {', '.join(dataset.labels)}")
    longest = max(WORKING_SIZE, plan.image_size or 0)  # as production keeps them
    data = datasets.keep(dataset, out / "scans", longest=longest)
    folds = _folds(plan, [scan.group for scan in data.scans])
    pool = _others(len(data.scans), folds[0])
    code = _code()
    asked = dict.fromkeys(arm.encoder for arm in plan.arms)
    encoded = {name: _encode(data, name, out, code, settings) for name in asked}
    train = _train_config(plan, len(data.labels), settings)
    return Study(out, plan, data, pool, folds[0], folds, encoded, train, code)


def _folds(plan: Plan, groups: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the held-out rows: one set for every run, or one fold after the other."""
    if plan.folds is None:
        folds: tuple[tuple[int, ...], ...] = (hold_out(groups, plan.held_out, plan.split_seed),)
    else:
        folds = deal(groups, plan.folds, plan.split_seed)
    most = max(len(held) for held in folds)
    if len(groups) - most < max(plan.labels) or not all(folds):
        raise ConfigError(
            f"{len(groups)} scans, {most} of them held out, leave {len(groups) - most} to label; "
            f"expected at least {max(plan.labels)}, and a scan in every fold.",
            "Lower --held-out, --folds or --labels.",
        )
    return folds


def _others(number: int, held: Sequence[int]) -> tuple[int, ...]:
    return tuple(np.setdiff1d(np.arange(number), held).tolist())


def deal(groups: Sequence[int], folds: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return rows in folds for cross-validation, each ascending. Whole groups in random order go
    each into the fold with the fewest scans so far.
    """
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for group in np.random.default_rng(seed).permutation(np.unique(groups)).tolist():
        min(dealt, key=len).extend(np.flatnonzero(np.equal(groups, group)).tolist())
    return tuple(tuple(sorted(fold)) for fold in dealt)


def hold_out(groups: Sequence[int], least: int, seed: int) -> tuple[int, ...]:
    """Return rows to measure on, ascending: whole groups in random order until there are enough."""
    drawn: list[int] = []
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    for group in order.tolist():
        if len(drawn) >= least:
            break
        drawn += np.flatnonzero(np.equal(groups, group)).tolist()
    return tuple(sorted(drawn))


def _encode(
    data: datasets.Collection, name: str, out: Path, code: str, settings: Settings
) -> Embeddings:
    # Keep the encoder beside the results, because an experiment needs no DATA_DIR.
    encoder = encoding.load(settings.model_copy(update={"data_dir": out}), name)
    digest = artifacts.digest(data.fingerprint, encoder.name, code)
    path = out / "embeddings" / f"{digest}.npy"
    if not path.exists():
        starts = range(0, len(data.scans), CHUNK)
        chunks = [[scan.load()[0] for scan in data.scans[i : i + CHUNK]] for i in starts]
        artifacts.write_array(path, np.concatenate([encoder.encode(chunk) for chunk in chunks]))
    return Embeddings(encoder.name, path, encoder.substitution, encoder.widths)


def _train_config(plan: Plan, classes: int, settings: Settings) -> training.TrainConfig:
    try:
        device = recipes.resolve_device(settings.device)
        config = recipes.default_config(device, classes, image_size=plan.image_size)
        return replace(config, steps=plan.steps or config.steps)
    except ValueError as error:
        raise ConfigError(
            f"The network cannot be trained: {error}.", "Correct --image-size, --steps or DEVICE."
        ) from None


def _code() -> str:
    """Return a digest of the source of `model`; cached results of other code are not reused."""
    folder = Path(active_learning.__file__).parent
    content = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        content.update(source.read_bytes())
    return content.hexdigest()[:16]

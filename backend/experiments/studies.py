"""The study that all runs of a plan share: scans, held-out scans, embeddings, training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError
from backend.experiments import datasets, draws, pools
from backend.experiments.plans import Arm, Plan
from backend.experiments.scans import Dataset
from backend.imaging.scan_cache import WORKING_SIZE
from backend.rounds.maps import encoding
from backend.settings import Settings
from backend.storage import artifacts
from model import active_learning, encoders, recipes, training

Array = npt.NDArray[Any]
Rows = tuple[int, ...]
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


class Division(Protocol):
    """Which scans can be labelled, and which are held out."""

    def of(self, seed: int) -> tuple[Rows, Rows]:
        """Return the pool and the held-out scans for the runs of a seed, ascending."""


@dataclass(frozen=True)
class Folds:
    """Each fold is held out in turn, by seed; all other scans are the pool."""

    number: int  # of scans
    folds: tuple[Rows, ...]

    def of(self, seed: int) -> tuple[Rows, Rows]:
        """See `Division`."""
        held = self.folds[seed % len(self.folds)]
        return tuple(np.setdiff1d(np.arange(self.number), held).tolist()), held


@dataclass(frozen=True)
class Study:
    """The parts that all runs share; every process gets a copy.

    Attributes:
        out: Folder of the results.
        data: The scans at working size.
        pool, held: Rows of `data` that can be labelled, and rows that are held out.
        division: Both of them by seed; see `of`.
        encoded: Embeddings by the name of the encoder in the plan.
        train: Configuration of training, except the seed.
        code: Digest of the source of `model`.
        groups: Of a recipe's pool: the group of each scan for the report, "" for a planted outlier.
            No strategy sees them.
    """

    out: Path
    plan: Plan
    data: datasets.Collection
    pool: Rows
    held: Rows
    division: Division
    encoded: Mapping[str, Embeddings]
    train: training.TrainConfig
    code: str
    groups: tuple[str, ...] = ()

    def of(self, seed: int) -> Study:
        """Return the study for the runs of a seed, with its pool and its held-out scans."""
        pool, held = self.division.of(seed)
        return replace(self, pool=pool, held=held)

    @property
    def small_steps(self) -> int:
        """The steps of a training where the drawn regions are small, if the scale may adapt."""
        return recipes.small_regions(self.train).steps

    @property
    def divided(self) -> Sequence[object]:
        """What names the division of the scans: outside a recipe the rest of them is the pool."""
        return (self.pool, self.held) if self.groups else self.held

    def file(self, arm: Arm | None, seed: int) -> Path:
        """Return the file of a run, named by all that determines the run except the code.

        Without an arm it is the run that labels the whole pool.

        Files from other states of the code stay valid: a changed comment must not cost hours of
        training. The report says when they are mixed.
        """
        plan, divided = self.plan, self.of(seed).divided
        stop = ("stop",) if plan.stop else ()
        training_of = (FORMAT, self.data.fingerprint, divided, repr(self.train), plan.train_seeds)
        shared = (*training_of, *stop)
        if arm is None:
            digest = artifacts.digest(*shared, "all labels", seed)
        else:
            encoder = self.encoded[arm.encoder].name
            digest = artifacts.digest(*shared, plan.labels, arm.rule, encoder, seed)
        return self.out / "runs" / f"{digest}.json"

    def scans(self, rows: Iterable[int]) -> list[datasets.ScanFile]:
        """Return scans by their rows of the data."""
        return [self.data.scans[row] for row in rows]

    def embeddings(self, arm: Arm) -> Array:
        """Return the embeddings of the pool with an arm's encoder, shape (p, d)."""
        embeddings: Array = np.load(self.encoded[arm.encoder].path)
        return embeddings[list(self.pool)]

    def map_file(self, arm: Arm, seed: int) -> Path:
        """Return the file of the map for an arm's encoder and projection, and a seed."""
        space = (self.encoded[arm.encoder].path.name, arm.projection, seed)
        return self.out / "maps" / f"{artifacts.digest(self.code, self.pool, space)}.npz"


@dataclass(frozen=True)
class Data:
    """The scans of an experiment.

    Attributes:
        paths: One labelled folder, or the recipes of pools.
        root: Parent of the folders in recipes; None for that of each recipe.
    """

    paths: tuple[Path, ...]
    root: Path | None = None


def prepare(plan: Plan, data: Data, out: Path, *, settings: Settings, say: Say) -> list[Study]:
    """Return the study of a folder, or of each recipe: read the scans, divide and embed them.

    All studies are made before the first run, so that a mistake in a later recipe costs no hours.

    Args:
        plan: Shared by all studies.
        data: A folder, or recipes.
        out: Folder of the results; those of a pool go into a folder of its name.
        settings: Of the installation.
        say: Called with a line of text for each study.

    Raises:
        FirstlightError: If the plan does not fit the data, or a file cannot be read or written.
    """
    plan.control()  # raise for a wrong name now, not after hours of work
    _prepare_folder(out)
    if data.paths[0].is_dir():
        return [of_folder(plan, data.paths[0], out, settings, say)]
    asked = [(pools.read(path), data.root or path.parent) for path in data.paths]
    twice = [name for name, n in Counter(recipe.name for recipe, _ in asked).items() if n > 1]
    if twice:
        raise ConfigError(
            f"Two recipes have the name {twice[0]}.",
            "Give each another `name`: results go into a folder of it.",
        )
    return [of_recipe(plan, recipe, folder, out, settings, say) for recipe, folder in asked]


def _prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}).",
            "Give a folder that this user may write.",
        ) from None


def of_folder(plan: Plan, folder: Path, out: Path, settings: Settings, say: Say) -> Study:
    """Return the study of a labelled folder."""
    dataset = datasets.find(folder, max_pixels=settings.max_image_pixels)
    plan = plan.resolved(dataset)
    say(f"{len(dataset.scans)} scans of {dataset.name}: {', '.join(dataset.labels)}")
    data = _keep(plan, dataset, out)
    division = Folds(len(data.scans), _folds(plan, [scan.patient for scan in data.scans]))
    return _study(plan, data, division, _Files(out, out), settings)


def of_recipe(
    plan: Plan, recipe: pools.Recipe, root: Path, out: Path, settings: Settings, say: Say
) -> Study:
    """Return the study of a pool. Scans and embeddings are kept in `out`, for all pools."""
    if plan.folds is not None:
        raise ConfigError(
            "--folds does not go with a recipe.", "Its `held_out` says what it needs."
        )
    mixture = pools.mix(recipe, root, max_pixels=settings.max_image_pixels)
    plan = plan.resolved(mixture.dataset)
    say(f"{len(mixture.groups)} scans for {recipe.name}: {', '.join(mixture.dataset.labels)}")
    data = _keep(plan, mixture.dataset, out)
    patients = [scan.patient for scan in data.scans]
    division = draws.plan(recipe, mixture, patients, plan.split_seed)
    for seed in {seed for _, seed in plan.runs()}:
        _check_size(plan, len(data.scans), *division.of(seed))
    files = _Files(out / recipe.name, out, mixture.sources)
    return replace(_study(plan, data, division, files, settings), groups=mixture.groups)


@dataclass(frozen=True)
class _Files:
    """Folders of a study's results and of its embeddings, and the source of each scan, if any."""

    out: Path
    shared: Path
    sources: Sequence[str] = ()


def _keep(plan: Plan, dataset: Dataset, out: Path) -> datasets.Collection:
    longest = max(WORKING_SIZE, plan.image_size or 0)  # as production keeps them
    return datasets.keep(dataset, out / "scans", longest=longest)


def _study(
    plan: Plan, data: datasets.Collection, division: Division, files: _Files, settings: Settings
) -> Study:
    code = _code()
    asked = dict.fromkeys(arm.encoder for arm in plan.arms)
    encoded = {name: _encode(data, name, files, code, settings) for name in asked}
    train = _train_config(plan, len(data.labels), settings)
    pool, held = division.of(plan.seeds[0])
    return Study(files.out, plan, data, pool, held, division, encoded, train, code)


def _folds(plan: Plan, patients: Sequence[int]) -> tuple[Rows, ...]:
    """Return the held-out rows: one set for every run, or one fold after the other."""
    if plan.folds is None:
        folds: tuple[Rows, ...] = (hold_out(patients, plan.held_out, plan.split_seed),)
    else:
        folds = deal(patients, plan.folds, plan.split_seed)
    most = max(len(held) for held in folds)
    if len(patients) - most < max(plan.labels) or not all(folds):
        raise ConfigError(
            f"{len(patients)} scans, {most} of them held out, leave {len(patients) - most} to "
            f"label; expected at least {max(plan.labels)}, and a scan in every fold.",
            "Lower --held-out, --folds or --labels.",
        )
    return folds


def _check_size(plan: Plan, scans: int, pool: Rows, held: Rows) -> None:
    if len(pool) < max(plan.labels):
        raise ConfigError(
            f"Of {scans} scans the recipe draws {len(pool)} to label and {len(held)} to hold out; "
            f"expected at least {max(plan.labels)} to label.",
            "Lower --labels, or draw a larger pool.",
        )


def deal(patients: Sequence[int], folds: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return rows in folds for cross-validation, each ascending. Patients in random order go, each
    with all scans, into the fold with the fewest scans so far.
    """
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for patient in np.random.default_rng(seed).permutation(np.unique(patients)).tolist():
        min(dealt, key=len).extend(np.flatnonzero(np.equal(patients, patient)).tolist())
    return tuple(tuple(sorted(fold)) for fold in dealt)


def hold_out(patients: Sequence[int], least: int, seed: int) -> tuple[int, ...]:
    """Return rows to measure on, ascending: patients in random order, each with all scans, until
    there are enough.
    """
    drawn: list[int] = []
    order = np.random.default_rng(seed).permutation(np.unique(patients))
    for patient in order.tolist():
        if len(drawn) >= least:
            break
        drawn += np.flatnonzero(np.equal(patients, patient)).tolist()
    return tuple(sorted(drawn))


def _encode(
    data: datasets.Collection, name: str, files: _Files, code: str, settings: Settings
) -> Embeddings:
    # Keep the encoder beside the results, because an experiment needs no DATA_DIR.
    encoder = encoding.load(settings.model_copy(update={"data_dir": files.shared}), name)
    folder = files.shared / "embeddings"
    path = folder / f"{artifacts.digest(data.fingerprint, encoder.name, code)}.npy"
    if not path.exists():
        # Pools share sources, so each source is encoded once.
        numbers = [len([*rows]) for _, rows in groupby(files.sources)]
        parts = [
            _of_source(data.scans[end - number : end], encoder, folder, code)
            for number, end in zip(numbers, np.cumsum(numbers).tolist(), strict=True)
        ]
        artifacts.write_array(path, np.concatenate(parts or [_encoded(data.scans, encoder)]))
    return Embeddings(encoder.name, path, encoder.substitution, encoder.widths)


def _of_source(
    scans: Sequence[datasets.ScanFile], encoder: encoders.Encoder, folder: Path, code: str
) -> Array:
    """Return the embeddings of the scans of a source, from a file that their content names."""
    content = [scan.path.name for scan in scans]
    path = folder / f"{artifacts.digest(content, encoder.name, code)}.npy"
    if not path.exists():
        artifacts.write_array(path, _encoded(scans, encoder))
    return np.asarray(np.load(path))


def _encoded(scans: Sequence[datasets.ScanFile], encoder: encoders.Encoder) -> Array:
    starts = range(0, len(scans), CHUNK)
    chunks = [[scan.load()[0] for scan in scans[i : i + CHUNK]] for i in starts]
    return np.concatenate([encoder.encode(chunk) for chunk in chunks])


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

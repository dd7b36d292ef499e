"""The plan of an experiment: its arms (query strategies), seeds and counts of labelled scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from pydantic import ValidationError

from backend.errors import ConfigError
from backend.experiments.scans import Dataset
from backend.options import ProjectOptions, in_words
from model.stopping import LEAST_POINTS

# What a project names in `group_by`, and after the + in `slice_by`.
PATIENT, VOLUME, VOLUME_AND_SLICE = "patient", "volume", "volume+slice"
AUTO = "auto"  # VOLUME_AND_SLICE, as in an imported project, where there are volumes; else PATIENT
GROUPINGS = (AUTO, PATIENT, VOLUME, VOLUME_AND_SLICE)


@dataclass(frozen=True)
class Arm:
    """One way to choose scans, in the values of production's options.

    `group_by` is one of GROUPINGS.
    """

    encoder: str
    projection: str
    cold_start: str
    acquisition: str
    alpha: float | str
    uncertainty: str
    group_by: str

    @property
    def rule(self) -> dict[str, Any]:
        """The values that name the arm's files; without `group_by`, a file of an earlier release.

        Earlier releases knew no groups but patients.
        """
        values = asdict(self)
        if self.group_by == PATIENT:
            del values["group_by"]
        return values

    def completed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record of the arm; one of an earlier release does not name the grouping."""
        return {**record, "arm": asdict(self)}


@dataclass(frozen=True)
class Plan:
    """The arms to compare, and how to measure them.

    Attributes:
        arms: The ways to choose scans.
        seeds: Of selection and training; one run for each arm and seed.
        labels: Counts of labelled scans after which a network is trained, ascending. The cold start
            chooses the first batch, the acquisition the others.
        random_draws: Number of seeds for a random arm; None for as many as the other arms.
        held_out: Least number of scans to measure on; whole patients, never in the pool.
        folds: Instead of `held_out`: number of parts of the scans, in whole patients. The run of
            seed s is measured on part s modulo `folds` and chooses from the other parts.
        split_seed: Of the draw of held-out scans or folds.
        image_size, steps: Of training; None for production's values.
        train_seeds: Number of networks for each selection, whose scores are averaged.
        baseline: Values that name the arm to compare with; empty for the control.
        attention: Number of held-out scans in the pictures of the attention gates.
        all_labels: Whether a network is trained on the whole pool too, once for each seed.
        selection_only: Whether nothing is trained: the cold start chooses each count of labels.
        stop: Whether the stop rule is replayed; two networks for each selection show how far masks
            differ by chance.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    labels: tuple[int, ...]
    random_draws: int | None = None
    held_out: int = 40
    folds: int | None = None
    split_seed: int = 0
    image_size: int | None = None
    steps: int | None = None
    train_seeds: int = 1
    baseline: tuple[str, ...] = ()
    attention: int = 0
    all_labels: bool = False
    selection_only: bool = False
    stop: bool = False

    def __post_init__(self) -> None:
        if list(self.labels) != sorted({*self.labels}) or min(self.labels) < 1:
            raise ConfigError(
                f"--labels is {', '.join(map(str, self.labels))}.",
                "Give ascending counts of at least 1, such as 10,20,30.",
            )
        if self.folds is not None:
            self._check_turns(self.folds)
        if self.stop:
            self._check_stop()
        if len(self.batches) == 1 and len({_acquisition(arm) for arm in self.arms}) > 1:
            why = (
                "With --selection-only"
                if self.selection_only
                else "With only one count in --labels"
            )
            raise ConfigError(
                f"{why} no acquisition takes place.",
                "Give more counts, or only one --acquisition, --alpha and --uncertainty.",
            )

    @property
    def batches(self) -> tuple[int, ...]:
        """The counts of labels that follow each other; without training only the first."""
        return self.labels[:1] if self.selection_only else self.labels

    def _check_stop(self) -> None:
        if self.train_seeds < 2 or len(self.labels) <= LEAST_POINTS or self.selection_only:
            raise ConfigError(
                f"--stop has {self.train_seeds} networks for each selection and "
                f"{len(self.labels)} counts of labels.",
                f"Give --train-seeds 2, more than {LEAST_POINTS} counts in --labels, and no "
                "--selection-only.",
            )

    def _check_turns(self, folds: int) -> None:
        for seeds in {self.seeds_of(arm) for arm in self.arms}:
            turns = Counter(seed % folds for seed in seeds)
            if len({turns[fold] for fold in range(folds)}) > 1:
                raise ConfigError(
                    f"--folds is {folds}, and the seeds {', '.join(map(str, seeds))} do not hold "
                    "out every fold equally often.",
                    f"Give a multiple of {folds} seeds and random draws, such as "
                    f"--seeds 0-{folds - 1}.",
                )

    def runs(self) -> list[tuple[Arm, int]]:
        """Return arm and seed of every run.

        The runs of an arm come together: arms with the same first choice can then reuse its
        trainings, instead of doing the same training at the same time.
        """
        return [(arm, seed) for arm in self.arms for seed in self.seeds_of(arm)]

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """Return the seeds of an arm."""
        if self.random_draws is None or "random" not in _deciding(arm, self.batches):
            return self.seeds
        start = max(self.seeds) + 1
        return (*self.seeds, *range(start, start + self.random_draws))[: self.random_draws]

    def names(self) -> dict[Arm, str]:
        """Return the name of each arm: the values in which the arms differ."""
        told = [
            field.name
            for field in fields(Arm)
            if len({getattr(arm, field.name) for arm in self.arms}) > 1
        ]
        # A random choice depends on the groups, but on no map and no model.
        chance = ["cold_start", *(name for name in told if name == "group_by")]
        return {
            arm: ", ".join(
                str(getattr(arm, name))
                for name in (chance if by_chance(arm, self.batches) else told or ["cold_start"])
            )
            for arm in self.arms
        }

    def resolved(self, dataset: Dataset) -> Plan:
        """Return the plan for a data set, with AUTO replaced by its meaning there.

        Raises:
            ConfigError: If an arm groups by volumes that the data set does not have, or `baseline`
                names no arm.
        """
        asked = {arm.group_by for arm in self.arms} - {AUTO, PATIENT}
        if asked and not dataset.has_volumes:
            raise ConfigError(
                f"--group-by {','.join(sorted(asked))}: no scan of {dataset.name} is a slice of a "
                "volume.",
                f"Give volumes (docs/experiments.md), or leave it out to group by {PATIENT}.",
            )
        usual = VOLUME_AND_SLICE if dataset.has_volumes else PATIENT
        arms = [replace(arm, group_by=usual) if arm.group_by == AUTO else arm for arm in self.arms]
        plan = replace(self, arms=_distinct(arms, self.batches))
        plan.control()
        return plan

    def control(self) -> Arm:
        """Return the arm that the other arms are compared with.

        Raises:
            ConfigError: If `baseline` names no arm.
        """
        wanted = set(self.baseline)
        if wanted:
            arms = [arm for arm in self.arms if wanted <= {str(v) for v in asdict(arm).values()}]
            if not arms:
                raise ConfigError(
                    f"--baseline {','.join(self.baseline)} is no arm of this plan.",
                    f"Name values of one of these arms: {'; '.join(self.names().values())}.",
                )
            return arms[0]
        drawn = [arm for arm in self.arms if arm.cold_start == "random"] or list(self.arms)
        return next((arm for arm in drawn if arm.acquisition == "random"), drawn[0])


def plan_of(asked: Mapping[str, Any]) -> Plan:
    """Return the plan that a person asks for, from lists as text.

    Args:
        asked: The fields of Arm as lists, and the fields of Plan except `arms`. `arm` has further
            arms, each as changes of the first one: "cold-start=kmeans,projection=none".

    Raises:
        ConfigError: If a list or a value is wrong.
    """
    others = {field.name: asked[field.name] for field in fields(Plan) if field.name != "arms"}
    others |= {name: numbers(asked[name]) for name in ("seeds", "labels")}
    others["baseline"] = tuple(filter(None, asked["baseline"].split(",")))
    listed = grid({field.name: asked[field.name].split(",") for field in fields(Arm)})
    further = (changed(listed[0], text) for text in asked["arm"])
    batches = others["labels"][:1] if others["selection_only"] else others["labels"]
    return Plan(_distinct([*listed, *further], batches), **others)


def _distinct(arms: Sequence[Arm], batches: Sequence[int]) -> tuple[Arm, ...]:
    """Return each arm once, and of the arms by chance only the first of each grouping.

    Random arms with the same groups choose the same scans with every encoder.
    """
    firsts: dict[object, Arm] = {}
    for arm in arms:
        firsts.setdefault(arm.group_by if by_chance(arm, batches) else arm, arm)
    return tuple(firsts.values())


def grid(values: Mapping[str, Sequence[str]]) -> tuple[Arm, ...]:
    """Return an arm for each combination of values.

    Args:
        values: The values of each field of Arm, as a person writes them.

    Raises:
        ConfigError: If production does not accept a value.
    """
    names = [field.name for field in fields(Arm)]
    checked = [dict.fromkeys(_checked(name, value) for value in values[name]) for name in names]
    return tuple(Arm(*combination) for combination in product(*checked))


def changed(arm: Arm, text: str) -> Arm:
    """Return an arm with other values, from a text such as "cold-start=kmeans,projection=none".

    Raises:
        ConfigError: If a part of the text is no such pair, or production does not accept a value.
    """
    known = {field.name.replace("_", "-"): field.name for field in fields(Arm)}
    values: dict[str, Any] = {}
    for part in text.split(","):
        option, _, value = (word.strip() for word in part.partition("="))
        if option not in known:
            raise ConfigError(
                f"--arm {text!r}: {part!r} is no option with a value.",
                f"Write pairs such as cold-start=kmeans, with {', '.join(known)}.",
            )
        values[known[option]] = _checked(known[option], value)
    return replace(arm, **values)


def _checked(name: str, value: str) -> Any:
    if name == "group_by":  # in production a key of the task data
        return _known_grouping(value)
    try:
        return getattr(ProjectOptions(**{name: value}), name)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [in_words(problem["msg"]) for problem in error.errors()]
        raise ConfigError(
            f"--{name.replace('_', '-')} {value!r}: {'; '.join(problems)}.",
            "Separate several values by commas.",
        ) from None


def _known_grouping(value: str) -> str:
    if value not in GROUPINGS:
        raise ConfigError(
            f"--group-by {value!r}: expected one of {', '.join(GROUPINGS)}.",
            "Separate several values by commas.",
        )
    return value


def _deciding(arm: Arm, labels: Sequence[int]) -> tuple[str, ...]:
    """Return the strategies that choose scans with these counts of labels."""
    return (arm.cold_start, arm.acquisition)[: len(labels)]


def by_chance(arm: Arm, labels: Sequence[int]) -> bool:
    """Return whether the arm chooses all scans at random."""
    return set(_deciding(arm, labels)) == {"random"}


def _acquisition(arm: Arm) -> tuple[object, ...]:
    return arm.acquisition, arm.alpha, arm.uncertainty


def numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list such as "0-4,10".

    Raises:
        ConfigError: If the text is not such a list.
    """
    listed: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            listed += range(int(first), int(last or first) + 1)
    except ValueError:
        listed = []
    if not listed:
        raise ConfigError(
            f"{text!r} is no list of whole numbers.", "Write a list such as 0,1,2 or 0-9."
        )
    return tuple(dict.fromkeys(listed))

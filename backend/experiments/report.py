"""What runs of a simulation say together: tables, curves and maps, each with its uncertainty."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import stats

from backend.storage import artifacts
from model.evaluation import MAIN, METRICS, OTHERS

Run = Mapping[str, Any]  # what simulate.run returns
Floats = npt.NDArray[np.floating[Any]]

CONFIDENCE = 0.95
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
LINES = ("-", "--", ":", "-.")
STYLES = [(c, m, line) for line, (c, m) in product(LINES, zip(COLOURS, MARKERS, strict=True))]
PANELS = 3  # maps beside each other


@dataclass(frozen=True)
class Results:
    """All runs of one plan.

    Attributes:
        title: Of the data.
        settings: What was asked for, as it goes into results.json.
        unit: Of distances such as HD95.
        labels: Counts of labelled scans at which was measured.
        folds: How many parts took turns in being held out, by seed; None for always the same.
        arms: The runs of each arm by seed; arms without any are left out.
        baseline: The arm that differences are taken against.
        failed: What went wrong, by the name of the run.
        notes: What a reader has to know besides.
    """

    title: str
    settings: Mapping[str, Any]
    unit: str
    labels: tuple[int, ...]
    arms: Mapping[str, Mapping[int, Run]]
    baseline: str
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    folds: int | None = None

    def independent(self, values: Mapping[int, float]) -> dict[int, float]:
        """Return values by seed, or by fold where several seeds were measured on the same scans.

        What they share would make an interval too narrow, were each counted by itself.
        """
        if self.folds is None:
            return dict(values)
        found: dict[int, list[float]] = {}
        for seed, value in values.items():
            found.setdefault(seed % self.folds, []).append(value)
        return {fold: float(np.mean(shared)) for fold, shared in found.items()}

    def values(self, arm: str, step: int, measure: str) -> dict[int, float]:
        """Return a measure of a step's record by seed."""
        runs = self.arms.get(arm, {})
        return {seed: run["steps"][step][measure] for seed, run in runs.items()}


@dataclass(frozen=True)
class Map:
    """Where the scans of a pool lie, and which of them each arm chose.

    Attributes:
        name: Of the encoder and the projection.
        seed: Of the map and the choice.
        points: Shape (n, m); the first two axes are drawn.
        chosen: Rows of `points` by arm, in the order of choice.
        first: How many of them the cold start chose.
    """

    name: str
    seed: int
    points: Floats
    chosen: Mapping[str, Sequence[int]]
    first: int

    @property
    def file(self) -> str:
        """The name of its files, without their ending."""
        return _file_name("map", self.name)


@dataclass(frozen=True)
class Looked:
    """A held-out scan as a network sees it.

    Attributes:
        name: Of the scan.
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        masks: What the network draws, shape (c, h, w).
        gates: What each attention gate lets through, coarse to fine, shape (g, h, w).
    """

    name: str
    image: Floats
    masks: npt.NDArray[np.bool_]
    gates: Floats


@dataclass(frozen=True)
class Attention:
    """Scans as the network of an arm sees them."""

    name: str  # of the arm
    scans: tuple[Looked, ...]

    @property
    def file(self) -> str:
        """The name of its files, without their ending."""
        return _file_name("attention", self.name)


@dataclass(frozen=True)
class Row:
    """An arm at one count of labels; NaN where there is nothing to compute from.

    Attributes:
        others: Means of the metrics beside Dice, by name.
    """

    labels: int
    arm: str
    runs: int
    dice: float
    dice_sd: float
    worst: float
    others: dict[str, float]
    difference: float
    low: float
    high: float
    test: str
    wins: int
    pairs: int


def write(
    results: Results, maps: Sequence[Map], attention: Iterable[Attention], folder: Path
) -> None:
    """Write report.md, results.csv, results.json and the pictures into a folder.

    Raises:
        StorageError: If the folder cannot be written.
    """
    rows = table(results)
    _write_text(folder / "report.md", markdown(results, rows, maps))
    _write_text(folder / "results.csv", steps_csv(results))
    numbers = [{name: _number(value) for name, value in _flat(row).items()} for row in rows]
    artifacts.write_json(
        folder / "results.json",
        {
            "settings": results.settings,
            **{f"{one.name}_unit": results.unit for one in METRICS.values() if one.unit},
            "baseline": results.baseline,
            "table": numbers,
            "runs": {
                arm: [run["file"] for run in runs.values()] for arm, runs in results.arms.items()
            },
            "failed": results.failed,
            "notes": results.notes,
        },
    )
    if results.arms:
        _save(curves(results), folder / "learning-curves")
    for one in maps:
        _save(picture(one, list(results.arms)), folder / one.file)
    for look in attention:
        _save(gates(look), folder / look.file)


def table(results: Results) -> list[Row]:
    """Return one row for each count of labels and arm."""
    return [
        _row(results, step, arm) for step, _ in enumerate(results.labels) for arm in results.arms
    ]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval by Student's t; NaN for fewer than two."""
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> tuple[tuple[float, float, float], str]:
    """Return the difference of two means with its 95 % confidence interval, and how it was made.

    Paired over seeds where both have the same ones; else by Welch's t, which uses all of them.

    Args:
        ours, theirs: Values by seed.
    """
    if ours.keys() == theirs.keys():
        return interval([ours[seed] - theirs[seed] for seed in ours]), f"paired, n = {len(ours)}"
    one, other = list(ours.values()), list(theirs.values())
    made = f"Welch, n = {len(one)} and {len(other)}"
    middle = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return (middle, math.nan, math.nan), made
    variances = np.array([stats.sem(one) ** 2, stats.sem(other) ** 2])
    if not variances.any():
        return (middle, middle, middle), made
    freedom = variances.sum() ** 2 / (variances**2 / [len(one) - 1, len(other) - 1]).sum()
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variances.sum()))
    return (middle, middle - half, middle + half), made


def markdown(results: Results, rows: Sequence[Row], maps: Sequence[Map] = ()) -> str:
    """Return the report: a table for each count of labels, what its numbers mean, and pictures."""
    others = " | ".join(metric.heading(results.unit) for metric in OTHERS)
    parts = [f"# Simulation on {results.title}", *_explanation(results)]
    for count in results.labels:
        head = (
            f"| arm | runs | {MAIN.title} | sd | worst scan | {others} "
            f"| difference of {MAIN.title} [95 % interval] | compared | wins |"
        )
        lines = [_line(row) for row in rows if row.labels == count]
        parts += [f"## {count} labels", "\n".join([head, "|---" * (8 + len(OTHERS)) + "|", *lines])]
        parts += _ruler(results, results.labels.index(count))
    parts += _failures(results) + _warnings(results)
    parts += ["![Learning curves](learning-curves.png)"] if results.arms else []
    parts += [f"![Map: {one.name}]({one.file}.png)" for one in maps]
    return "\n\n".join(parts) + "\n"


def steps_csv(results: Results) -> str:
    """Return a table with one line for each run and step."""
    lines = list(_steps(results))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["arm"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def curves(results: Results) -> Figure:
    """Return mean Dice over labels with its 95 % interval; arms side by side if there is but one
    count of labels.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    (_columns if len(results.labels) == 1 else _lines)(axes, results)
    axes.set_ylabel("Dice, mean over held-out scans\n(95 % interval over seeds)")
    axes.set_ylim(_frame(results))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(results.title)
    return figure


def picture(one: Map, arms: Sequence[str]) -> Figure:
    """Return a panel for each arm: all scans as dots, the chosen ones numbered in order.

    Args:
        arms: All arms, so that each has the colour that it has in the curves.
    """
    columns = min(PANELS, len(one.chosen))
    lines = math.ceil(len(one.chosen) / columns)
    figure = Figure(figsize=(0.5 + 4 * columns, 0.6 + 4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    styles = _styles(arms)
    for axes, (arm, rows) in zip(panels, one.chosen.items(), strict=False):
        _panel(axes, one, rows, styles[arm][0])
        axes.set_title(arm, fontsize=10)
    for axes in panels[len(one.chosen) :]:
        axes.set_visible(False)
    later = "; rings: chosen by the acquisition" if _most(one) > one.first else ""
    figure.suptitle(f"{one.name}, seed {one.seed}: chosen scans in order{later}", fontsize=11)
    return figure


def gates(look: Attention) -> Figure:
    """Return a row for each scan: the scan with what the network draws, then gate by gate what is
    let through, from the coarsest to the finest, dark where a gate is shut.
    """
    columns = 1 + len(look.scans[0].gates)
    figure = Figure(figsize=(2.4 * columns, 0.7 + 2.4 * len(look.scans)), layout="constrained")
    panels = figure.subplots(len(look.scans), columns, squeeze=False)
    shade = ScalarMappable(Normalize(0, 1), "viridis")
    for line, scan in zip(panels, look.scans, strict=True):
        line[0].imshow(scan.image, cmap="gray", vmin=0, vmax=1)
        for mask, colour in zip(scan.masks, cycle(COLOURS), strict=False):
            if mask.any() and not mask.all():
                line[0].contour(mask, [0.5], colors=colour, linewidths=1)
        line[0].set_ylabel(scan.name, fontsize=8)
        for axes, gate in zip(line[1:], scan.gates, strict=True):
            axes.imshow(gate, cmap=shade.cmap, norm=shade.norm)
    for axes in panels.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    panels[0, 0].set_title("drawn", fontsize=9)
    for number, axes in enumerate(panels[0, 1:], 1):
        axes.set_title(f"gate {number}", fontsize=9)
    figure.colorbar(shade, ax=panels, shrink=0.6, label="let through")
    figure.suptitle(f"{look.name}: what the attention gates let through", fontsize=11)
    return figure


def _row(results: Results, step: int, arm: str) -> Row:
    dice = results.values(arm, step, MAIN.name)
    theirs = results.values(results.baseline, step, MAIN.name) if arm != results.baseline else {}
    shared = dice.keys() & theirs.keys()
    apart = difference(results.independent(dice), results.independent(theirs)) if theirs else None
    (middle, low, high), made = apart or ((math.nan,) * 3, "")
    return Row(
        labels=results.labels[step],
        arm=arm,
        runs=len(dice),
        dice=float(np.mean(list(dice.values()))),
        dice_sd=float(np.std(list(dice.values()), ddof=1)) if len(dice) > 1 else math.nan,
        worst=float(np.mean(list(results.values(arm, step, "worst").values()))),
        others={
            metric.name: float(np.mean(list(results.values(arm, step, metric.name).values())))
            for metric in OTHERS
        },
        difference=middle,
        low=low,
        high=high,
        test=made,
        wins=sum(MAIN.better(dice[seed], theirs[seed]) for seed in shared),
        pairs=len(shared),
    )


def _flat(row: Row) -> dict[str, object]:
    """Return a row as results.json holds it: every metric beside the others."""
    fields = asdict(row)
    others = fields.pop("others")
    return {**fields, **others}


def _line(row: Row) -> str:
    apart = "-"
    if row.test:
        apart = f"{row.difference:+.4f} [{_signed(row.low)}, {_signed(row.high)}]"
    wins = f"{row.wins}/{row.pairs}" if row.pairs else "-"
    spread = "-" if math.isnan(row.dice_sd) else f"{row.dice_sd:.4f}"
    others = " | ".join(f"{value:.2f}" for value in row.others.values())
    return (
        f"| {row.arm} | {row.runs} | {row.dice:.4f} | {spread} | {row.worst:.3f} "
        f"| {others} | {apart} | {row.test or '-'} | {wins} |"
    )


def _signed(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:+.4f}"


def _explanation(results: Results) -> list[str]:
    settings = [f"`{name}` {value}" for name, value in results.settings.items()]
    chance = (
        "of selection and training on these very scans, not that of other patients"
        if results.folds is None
        else "of selection, of training and of which of these scans are held out: seeds that are "
        "measured on the same scans count as one"
    )
    measured = " and ".join(metric.heading(f"in {results.unit}") for metric in METRICS.values())
    return [
        "Settings: " + ", ".join(settings) + ".",
        f"{measured} of a scan are means over the labels that are drawn or "
        "predicted on it; the table shows means over the held-out scans, then over runs; sd is "
        "over runs; worst scan is the lowest Dice of a held-out scan, mean over runs. Differences "
        f"are to `{results.baseline}`, paired over seeds where both have the same seeds. Intervals "
        f"cover the chance {chance}, and are not corrected for the number of comparisons: one that "
        "holds 0 shows no difference, and where nothing differs one in twenty leaves 0 out by "
        "chance.",
        *results.notes,
    ]


def training_sd(results: Results, step: int) -> tuple[float, int, int]:
    """Return how far Dice of networks that were trained on the same scans differ by chance.

    The standard deviation is pooled over all choices of scans; beside it the number of choices and
    of networks for each. NaN where there is but one network.
    """
    made = {
        (seed, _chosen(run, step)): run["steps"][step]["dice_by_network"]
        for runs in results.arms.values()
        for seed, run in runs.items()
    }  # arms that chose the same scans share their networks
    networks = list(made.values())
    if not networks or len(networks[0]) < 2:
        return math.nan, len(networks), 1
    pooled = math.sqrt(np.mean([np.var(scores, ddof=1) for scores in networks]))
    return pooled, len(networks), len(networks[0])


def _chosen(run: Run, step: int) -> frozenset[str]:
    return frozenset(name for one in run["steps"][: step + 1] for name in one["names"])


def _ruler(results: Results, step: int) -> list[str]:
    """Return how much of a table's spread is the chance of training, where that is known."""
    spread, choices, networks = training_sd(results, step)
    if math.isnan(spread):
        return []
    return [
        f"Training alone: networks trained on the same scans differ in Dice by a standard "
        f"deviation of {spread:.4f} ({choices} choices of scans, {networks} networks each), their "
        f"means by {spread / math.sqrt(networks):.4f}. What sd has beyond that is the choice of "
        f"scans{'' if results.folds is None else ' and which are held out'}."
    ]


def _failures(results: Results) -> list[str]:
    if not results.failed:
        return []
    lines = [f"- {name}: {why}" for name, why in results.failed.items()]
    return ["## Failed runs", "\n".join(lines)]


def _warnings(results: Results) -> list[str]:
    """Return how many runs of each arm met each kind of warning; run files hold their words."""
    lines = []
    for arm, runs in results.arms.items():
        kinds = Counter(kind for run in runs.values() for kind in _kinds(run))
        lines += [f"- {arm}: {kind} in {n} of {len(runs)}" for kind, n in sorted(kinds.items())]
    return ["## Runs with warnings", "\n".join(lines)] if lines else []


def _kinds(run: Run) -> set[str]:
    return {text.partition(":")[0] for step in run["steps"] for text in step["warnings"]}


def _steps(results: Results) -> Iterator[dict[str, Any]]:
    for arm, runs in results.arms.items():
        for seed, run in runs.items():
            for step in run["steps"]:
                by_label = {
                    f"{measure}_{label}": value
                    for measure in METRICS
                    for label, value in step[f"{measure}_by_label"].items()
                }
                scores = (MAIN.name, "worst", *(metric.name for metric in OTHERS))
                told = ("labels", "phase", *scores, "seconds", "k", "silhouette")
                yield {
                    "arm": arm,
                    **run["arm"],
                    "seed": seed,
                    **{name: step[name] for name in told},
                    "alpha_used": step["alpha"],
                    **by_label,
                    "dice_by_network": " ".join(f"{dice:.4f}" for dice in step["dice_by_network"]),
                    "chosen": " ".join(step["names"]),
                    "file": run["file"],
                }


def _styles(arms: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    return dict(zip(arms, cycle(STYLES), strict=False))


def _frame(results: Results) -> tuple[float, float]:
    """Return the limits of Dice by single runs: intervals of a few runs would leave no detail."""
    values = [
        step["dice"]
        for runs in results.arms.values()
        for run in runs.values()
        for step in run["steps"]
    ]
    room = max(max(values) - min(values), 0.01)
    return min(values) - room, min(1.0, max(values) + room)


def _lines(axes: Axes, results: Results) -> None:
    for arm, (colour, marker, line) in _styles(results.arms).items():
        means, lows, highs = zip(
            *(
                interval([*results.independent(results.values(arm, step, "dice")).values()])
                for step, _ in enumerate(results.labels)
            ),
            strict=True,
        )
        axes.fill_between(results.labels, lows, highs, color=colour, alpha=0.1, linewidth=0)
        axes.plot(results.labels, means, line, color=colour, marker=marker, label=arm)
    axes.set_xticks(results.labels)
    axes.set_xlabel("labelled scans")
    axes.figure.legend(loc="outside right center", frameon=False, fontsize=9)


def _columns(axes: Axes, results: Results) -> None:
    for place, (arm, style) in enumerate(_styles(results.arms).items()):
        values = results.values(arm, 0, "dice")
        mean, low, _ = interval([*results.independent(values).values()])
        half = 0.0 if math.isnan(low) else mean - low
        axes.plot([place - 0.12] * len(values), [*values.values()], "o", color="0.6", markersize=4)
        axes.errorbar(place, mean, half, color=style[0], marker=style[1], capsize=4)
    axes.set_xticks(
        range(len(results.arms)),
        [arm.replace(", ", "\n") for arm in results.arms],
        fontsize=9,
    )
    axes.set_xlim(-0.5, len(results.arms) - 0.5)
    axes.set_xlabel(f"{results.labels[0]} labelled scans; grey: single runs")


def _panel(axes: Axes, one: Map, rows: Sequence[int], colour: str) -> None:
    x, y = _plane(one.points).T
    axes.scatter(x, y, s=14, color="0.75", linewidths=0)
    picked = list(rows)
    first, later = picked[: one.first], picked[one.first :]
    axes.scatter(x[first], y[first], s=46, color=colour, zorder=3)
    axes.scatter(x[later], y[later], s=46, facecolors="white", edgecolors=colour, zorder=3)
    for number, row in enumerate(picked, 1):
        axes.annotate(
            str(number), (x[row], y[row]), (4, 4), textcoords="offset points", fontsize=9, zorder=4
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)


def _plane(points: Floats) -> Floats:
    """Return the first two axes of a map, shape (n, 2); a missing one is 0."""
    plane = np.zeros((len(points), 2))
    plane[:, : points.shape[1]] = points[:, :2]
    return plane


def _most(one: Map) -> int:
    return max(len(rows) for rows in one.chosen.values())


def _file_name(kind: str, name: str) -> str:
    return f"{kind}-{name}".replace("/", "-").replace(", ", "-")


def _save(figure: Figure, path: Path) -> None:
    for kind in ("png", "svg"):
        artifacts.write(
            path.with_name(f"{path.name}.{kind}"),
            lambda file, kind=kind: figure.savefig(file, format=kind, dpi=150),  # type: ignore[misc]
        )


def _write_text(path: Path, text: str) -> None:
    artifacts.write(path, lambda file: file.write(text.encode()))


def _number(value: object) -> object:
    """JSON has no NaN: what does not exist is null."""
    return None if isinstance(value, float) and math.isnan(value) else value

"""The pictures of a report: learning curves, maps, and the output of the attention gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from backend.experiments.intervals import Interval, difference, interval
from backend.experiments.results import Results
from backend.storage import artifacts

Floats = npt.NDArray[np.floating[Any]]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
LINES = ("-", "--", ":", "-.")
STYLES = [(c, m, line) for line, (c, m) in product(LINES, zip(COLOURS, MARKERS, strict=True))]
PANELS = 3  # maps beside each other


@dataclass(frozen=True)
class Map:
    """The map of a pool, with the scans that each arm chose.

    Attributes:
        name: Of the encoder and the projection.
        seed: Of the map and the choice.
        points: Shape (n, m); the first two axes are drawn.
        chosen: Rows of `points` by arm, in the order of choice.
        first: Number of scans that the cold start chose.
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
class ScanView:
    """A held-out scan as a network sees it.

    Attributes:
        name: Of the scan.
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        masks: The network's masks, shape (c, h, w).
        gates: Coefficients of each attention gate, coarse to fine, shape (g, h, w).
    """

    name: str
    image: Floats
    masks: npt.NDArray[np.bool_]
    gates: Floats


@dataclass(frozen=True)
class Attention:
    """Scans as the network of an arm sees them."""

    name: str  # of the arm
    scans: tuple[ScanView, ...]

    @property
    def file(self) -> str:
        """The name of its files, without their ending."""
        return _file_name("attention", self.name)


def curves(results: Results) -> Figure:
    """Return mean Dice over labelled scans with its 95 % interval; with only one count of labels,
    columns side by side.
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


def gains(
    finished: Sequence[Results], measure: str, title: str, overall: Sequence[Mapping[str, Interval]]
) -> Figure:
    """Return each arm's difference to the baseline on each pool and over all pools, with its 95 %
    interval: a panel for each count of labels, a row for each pool.

    Args:
        finished: Results of the same plan, one for each pool.
        measure: The measure that is compared, between 0 and 1.
        title: Of the measure.
        overall: The differences over all pools by arm, for each count of labels.
    """
    labels, baseline = finished[0].labels, finished[0].baseline
    names = [*(results.title for results in finished), "all pools"]
    figure = Figure(figsize=(2.4 + 3.6 * len(labels), 1.6 + 0.6 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for step, axes in enumerate(panels):
        for place, (arm, total) in enumerate(overall[step].items()):
            values = [
                *(
                    difference(
                        results.values(arm, step, measure), results.values(baseline, step, measure)
                    )[0]
                    for results in finished
                ),
                total,
            ]
            shift = 0.5 * ((place + 0.5) / len(overall[step]) - 0.5)
            _intervals(axes, values, shift, (arm, *STYLES[place % len(STYLES)][:2]))
        axes.axvline(0, color="0.4", linewidth=1)
        axes.axhline(len(finished) - 0.5, color="0.8", linewidth=1)
        axes.set_title(f"{labels[step]} labels", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.supxlabel(
        f"{title} minus that of {baseline}, in points, with 95 % intervals", fontsize=10
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        frameon=False,
        fontsize=9,
    )
    return figure


def picture(map_: Map, arms: Sequence[str]) -> Figure:
    """Return a panel for each arm: all scans as dots, the chosen scans numbered in order.

    Args:
        map_: The map to draw.
        arms: All arms, so that each keeps its colour from the curves.
    """
    columns = min(PANELS, len(map_.chosen))
    lines = math.ceil(len(map_.chosen) / columns)
    figure = Figure(figsize=(0.5 + 4 * columns, 0.6 + 4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    styles = _styles(arms)
    for axes, (arm, rows) in zip(panels, map_.chosen.items(), strict=False):
        _panel(axes, map_, rows, styles[arm][0])
        axes.set_title(arm, fontsize=10)
    for axes in panels[len(map_.chosen) :]:
        axes.set_visible(False)
    later = "; rings: chosen by the acquisition" if _most(map_) > map_.first else ""
    figure.suptitle(f"{map_.name}, seed {map_.seed}: chosen scans in order{later}", fontsize=11)
    return figure


def gates(look: Attention) -> Figure:
    """Return a row for each scan: the scan with the network's masks, then the coefficients of each
    attention gate from the coarsest to the finest, dark where the gate is shut.
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


def _styles(arms: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    return dict(zip(arms, cycle(STYLES), strict=False))


def _frame(results: Results) -> tuple[float, float]:
    """Return the limits of the Dice axis from single runs: intervals of few runs are too wide."""
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


def _intervals(
    axes: Axes, values: Sequence[Interval], shift: float, style: tuple[str, str, str]
) -> None:
    """Draw one value with its limits in each row; limits that are NaN are left out."""
    name, colour, marker = style
    middle, low, high = 100 * np.array(values).T
    rows = np.arange(len(values)) + shift
    axes.hlines(rows, low, high, colors=colour, linewidth=1.5)
    axes.plot(middle, rows, marker, color=colour, markersize=5, label=name)


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


def _panel(axes: Axes, map_: Map, rows: Sequence[int], colour: str) -> None:
    x, y = _plane(map_.points).T
    axes.scatter(x, y, s=14, color="0.75", linewidths=0)
    picked = list(rows)
    first, later = picked[: map_.first], picked[map_.first :]
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
    """Return the first two axes of a map, shape (n, 2); a missing axis is 0."""
    plane = np.zeros((len(points), 2))
    plane[:, : points.shape[1]] = points[:, :2]
    return plane


def _most(map_: Map) -> int:
    return max(len(rows) for rows in map_.chosen.values())


def _file_name(kind: str, name: str) -> str:
    return f"{kind}-{name}".replace("/", "-").replace(", ", "-")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and SVG; the endings are added to the path."""
    for kind in ("png", "svg"):
        artifacts.write(
            path.with_name(f"{path.name}.{kind}"),
            lambda file, kind=kind: figure.savefig(file, format=kind, dpi=150),  # type: ignore[misc]
        )

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of evaluations: scores against SNR, and confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import line_looks, new_figure, open_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[float | None, Sequence[float]]
"""{SNR in dB, or None for clean speech: mean, and the bounds of its interval}; NaN for bounds that are unknown."""


def plot_robustness(
    curves: Mapping[str, Mapping[str | None, Points]], ylabel: str, title: str | None = None
) -> "Figure":
    """Draws a score of several systems against SNR, with intervals: a panel for each noise pool.

    The points of clean speech, which are those of every panel, stand at the right.

    Args:
        curves: {system: {noise pool: {SNR in dB: (mean, low, high)}}}. Clean speech has the pool and the SNR None. The
            system "noisy", which stands for the unprocessed speech, is dotted grey. `evaluation.figures.score_curves`
            reads them from a report.
        ylabel: name of the score, with its unit.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> points = {-5: (0.41, 0.38, 0.44), 5: (0.52, 0.49, 0.55)}
        >>> figure = plot_robustness({"model": {"babble": points, None: {None: (0.6, 0.57, 0.63)}}}, "macro-F1")
    """
    looks = line_looks(list(curves))
    pools = list(dict.fromkeys(pool for curve in curves.values() for pool in curve if pool is not None))
    places = _places([level for curve in curves.values() for points in curve.values() for level in points])
    columns = min(3, len(curves))
    height = 3.6 + 0.25 * -(-len(curves) // columns)
    figure = new_figure(max(3.7 * len(pools) + 0.6, 2.4 * columns), height, title)
    panels = figure.subplots(1, len(pools), sharey=True, squeeze=False)[0]
    for axes, pool in zip(panels, pools, strict=True):
        for index, (system, curve) in enumerate(curves.items()):
            # the error bars of clean speech are placed side by side, so that none hides another
            aside = 0.7 * ((index + 0.5) / len(curves) - 0.5)
            points = {**curve.get(pool, {}), **curve.get(None, {})}
            _draw_curve(axes, points, places, aside, {"label": system, **looks[system]})
        axes.set_xticks(list(places.values()), ["clean" if level is None else f"{level:g}" for level in places])
        axes.set_title(pool, parse_math=False)
        axes.set_xlabel("SNR (dB)")
        axes.grid(axis="y", alpha=0.25)
        open_frame(axes)
    panels[0].set_ylabel(ylabel)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5)
    return figure


def _places(levels: Sequence[float | None]) -> dict[float | None, float]:
    """Position of each SNR on the axis: equally spaced whatever the steps, with clean speech half a step apart."""
    known = sorted({level for level in levels if level is not None})
    places: dict[float | None, float] = {level: float(index) for index, level in enumerate(known)}
    return places | ({None: len(known) + 0.2} if None in levels else {})


def _draw_curve(
    axes: "Axes", points: Points, places: Mapping[float | None, float], aside: float, look: dict[str, Any]
) -> None:
    """Draws one system in one pool: a line with its band, and a point with its error bar for clean speech."""
    levels = sorted(level for level in points if level is not None)
    mean, low, high = np.array([points[level] for level in levels], dtype=float).reshape(-1, 3).T  # each (levels,)
    where = [places[level] for level in levels]
    axes.plot(where, mean, linewidth=1.6, markersize=6, **look)
    axes.fill_between(where, low, high, color=look["color"], alpha=0.1, linewidth=0)
    if None in points:
        mean, low, high = points[None]
        look = {**look, "label": None, "linestyle": "", "markersize": 6, "elinewidth": 1.2}
        axes.errorbar(places[None] + aside, mean, [[mean - low], [high - mean]], **look)


def plot_confusion(
    rows: Sequence[Mapping[str, Sequence[Sequence[int]] | np.ndarray]], labels: Sequence[str], title: str | None = None
) -> "Figure":
    """Draws confusion matrices in percent of each true class.

    Args:
        rows: the matrices of each row of the figure, {title: (classes, classes) numbers of clips, by true class and
            predicted class}.
        labels: the classes in the order of the counts.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> figure = plot_confusion([{"clean": [[30, 10], [5, 35]]}], ["happy", "sad"], "tiny")
    """
    columns, size = max(map(len, rows)), 0.36 * len(labels) + 0.5
    figure = new_figure(size * columns + 1.0, size * len(rows) + 1.1, title)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, matrices in zip(panels, rows, strict=True):
        for axes in line[len(matrices) :]:
            axes.set_visible(False)
        for axes, (name, counts) in zip(line, matrices.items(), strict=False):
            _draw_confusion(axes, np.array(counts, float), labels)
            axes.set_title(name, fontsize=10, parse_math=False)
            axes.tick_params(labelleft=axes is line[0])
        line[0].set_ylabel("true")
    figure.supxlabel("predicted, in percent of each true class", fontsize=10)
    return figure


def _draw_confusion(axes: "Axes", counts: np.ndarray, labels: Sequence[str]) -> None:
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis_r", vmin=0, vmax=100)
    for true, predicted in np.ndindex(shares.shape):
        share = shares[true, predicted]
        colour = "white" if share > 50 else "black"
        axes.text(predicted, true, f"{share:.0f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of evaluations: scores against SNR, confusion matrices, and reliability diagrams."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import GREY, line_looks, new_figure, open_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[float | None, Sequence[float]]
"""{SNR in dB, or None for clean speech: mean, and the bounds of its interval}; NaN for bounds that are unknown."""

DISTANCE = 0.5  # between the first and the last of the points of one SNR, where the distance of SNRs is 1


def plot_robustness(
    curves: Mapping[str, Mapping[str | None, Points]], ylabel: str, title: str | None = None
) -> "Figure":
    """Draws a score of several systems against SNR, with intervals: a panel for each noise pool.

    The points of one SNR stand side by side, so that no interval hides another. Those of clean speech are at the right
    of every panel.

    Args:
        curves: {system: {noise pool: {SNR in dB: (mean, low, high)}}}. Clean speech has the pool and the SNR None. The
            system "noisy", the unprocessed speech, is dotted grey. Systems without points are not drawn, but count in
            the choice of colours. `evaluation.figures.score_curves` reads the curves of a report.
        ylabel: name of the score, with its unit.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> points = {-5: (0.41, 0.38, 0.44), 5: (0.52, 0.49, 0.55)}
        >>> figure = plot_robustness({"model": {"babble": points, None: {None: (0.6, 0.57, 0.63)}}}, "macro-F1")
    """
    looks, shown = line_looks(list(curves)), {system: curve for system, curve in curves.items() if curve}
    pools = list(dict.fromkeys(pool for curve in shown.values() for pool in curve if pool is not None))
    places = _places([level for curve in shown.values() for points in curve.values() for level in points])
    columns = min(3, len(shown))
    height = 3.6 + 0.25 * -(-len(shown) // columns)
    figure = new_figure(max((5.0 if len(pools) < 3 else 4.0) * len(pools) + 0.6, 2.4 * columns), height, title)
    panels = figure.subplots(1, len(pools), sharey=True, squeeze=False).ravel().tolist()
    for axes, pool in zip(panels, pools, strict=True):
        for index, (system, curve) in enumerate(shown.items()):
            points = {**curve.get(pool, {}), **curve.get(None, {})}
            aside = DISTANCE * (index - (len(shown) - 1) / 2) / max(len(shown), 6)
            _draw_curve(axes, points, {level: place + aside for level, place in places.items()}, looks[system])
        axes.set_xticks(list(places.values()), ["clean" if level is None else f"{level:g}" for level in places])
        axes.set_title(pool, parse_math=False)
        axes.set_xlabel("SNR (dB)")
        axes.grid(axis="y", alpha=0.25)
        open_frame(axes)
    panels[0].set_ylabel(ylabel)
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], linewidth=1.4, markersize=6, **looks[system]) for system in shown]
    figure.legend(lines, list(shown), loc="outside lower center", ncols=columns, frameon=False, handlelength=3.5)
    return figure


def _places(levels: Sequence[float | None]) -> dict[float | None, float]:
    """Position of each SNR on the axis: equally spaced whatever the steps, with clean speech last."""
    known = sorted({level for level in levels if level is not None})
    places: dict[float | None, float] = {level: float(index) for index, level in enumerate(known)}
    return places | ({None: float(len(known))} if None in levels else {})


def _draw_curve(axes: "Axes", points: Points, places: Mapping[float | None, float], look: Mapping[str, Any]) -> None:
    """Draws one system in one pool: a line with intervals, and a point apart for clean speech."""
    known: list[float | None] = [*sorted(level for level in points if level is not None)]
    clean: list[float | None] = [None] if None in points else []
    for levels in (known, clean) if clean else (known,):
        mean, low, high = np.array([points[level] for level in levels], float).reshape(-1, 3).T  # each (levels,)
        where = [places[level] for level in levels]
        axes.vlines(where, low, high, color=look["color"], linewidth=0.9)
        axes.plot(where, mean, linewidth=1.4, markersize=6, **look)


def plot_confusion(
    rows: Mapping[str, Mapping[str, Sequence[Sequence[int]] | np.ndarray]],
    labels: Sequence[str],
    title: str | None = None,
) -> "Figure":
    """Draws confusion matrices in percent of each true class.

    Args:
        rows: {row of the figure: {matrix: (classes, classes) numbers of clips, by true class and predicted class}},
            for example a row for each noise pool and a matrix for each SNR.
        labels: the classes in the order of the counts.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> figure = plot_confusion({"babble": {"-5 dB": [[30, 10], [5, 35]]}}, ["happy", "sad"], "tiny")
    """
    columns, size = max(map(len, rows.values())), 0.4 * len(labels) + 0.2
    figure = new_figure(size * columns + 1.6, size * len(rows) + 1.5, title)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (row, matrices) in zip(panels, rows.items(), strict=True):
        for axes in line[len(matrices) :]:
            axes.set_visible(False)
        for axes, (name, counts) in zip(line, matrices.items(), strict=False):
            _draw_confusion(axes, np.array(counts, float), labels)
            axes.set_title(name, fontsize=10, parse_math=False)
            axes.tick_params(labelleft=axes is line[0])
        line[0].set_ylabel(f"{row}\ntrue class".strip(), parse_math=False)
    for above, below in zip(panels[:-1].ravel(), panels[1:].ravel(), strict=True):
        above.tick_params(labelbottom=not below.get_visible())
    figure.supxlabel("predicted class, in percent of each true class", fontsize=10)
    return figure


def _draw_confusion(axes: "Axes", counts: np.ndarray, labels: Sequence[str]) -> None:
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for true, predicted in np.ndindex(shares.shape):
        share = shares[true, predicted]
        colour = "white" if share > 60 else "black"
        axes.text(predicted, true, f"{share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)


def plot_reliability(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]] | np.ndarray]], title: str | None = None
) -> "Figure":
    """Draws reliability diagrams: accuracy against mean confidence, a panel for each group of conditions. Scores that
    mean what they say lie on the diagonal, those of an over-confident model below it.

    Args:
        panels: {panel: {line, such as "before": (bins, 3) mean confidence, accuracy and number of clips}}, from
            `metrics.calibration.reliability`. The area of a point is proportional to its number of clips.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> bins = {"before": [(0.7, 0.5, 20), (0.95, 0.7, 80)], "after": [(0.5, 0.5, 30), (0.7, 0.67, 70)]}
        >>> figure = plot_reliability({"clean": bins}, "tiny")
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks, columns = line_looks(names), min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(2.7 * columns + 0.6, 3.0 * rows + 0.9, title)
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in places.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes, (panel, lines) in zip(places.ravel(), panels.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        for name, bins in lines.items():
            _draw_reliability(axes, np.array(bins, float).reshape(-1, 3), looks[name])
        axes.set_title(panel, fontsize=10, parse_math=False)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xlabel("mean confidence")
        open_frame(axes)
    for axes in places[:, 0]:
        axes.set_ylabel("accuracy")
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=1.4, markersize=6, **looks[name]) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, handlelength=3.5)
    return figure


def _draw_reliability(axes: "Axes", bins: np.ndarray, look: Mapping[str, Any]) -> None:
    """Draws the points (bins, 3) of one line."""
    confidence, accuracy, counts = bins.T
    axes.plot(confidence, accuracy, color=look["color"], linestyle=look["linestyle"], linewidth=1.4)
    sizes = 150 * counts / counts.sum()
    axes.scatter(confidence, accuracy, s=np.maximum(sizes, 6), color=look["color"], marker=look["marker"], zorder=3)

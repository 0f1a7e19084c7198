# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Figures of a report: scores against SNR, confusion matrices, expert usage, and spectrograms of examples. matplotlib
is an optional dependency (extra `demo`), so it is imported only when a figure is drawn."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import replacing
from ..inference.overview import Overview
from ..inference.plotting import ceiling_of, draw_spectrogram, require_matplotlib
from ..metrics import SCORE_TITLES
from .configuration import NOISY
from .markdown import condition_score, list_measures, of_transmission

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish, without yellow, which is invisible on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8a8a8a"
DPI = 130


def draw_figures(folder: str | os.PathLike, report: dict[str, Any], rows: dict[str, list[list[dict]]]) -> list[Path]:
    """Draws all figures of a report, for the conditions without transmission.

    Args:
        folder: folder of the PNG files.
        report: from `build_report`.
        rows: `{system: [rows of all conditions of each member]}`; expert usage is that of the first member.

    Returns:
        The paths, in the order of the report.

    Raises:
        ImportError: matplotlib is not installed; the error names the extra that contains it.
    """
    require_matplotlib()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    results = {
        system: {**result, "conditions": of_transmission(result, None)} for system, result in report["results"].items()
    }
    for measure in list_measures(report):
        if _lines(results, measure):
            paths.append(folder / f"{measure}.png")
            score_against_snr(paths[-1], results, measure)
    for system, result in results.items():
        if any(summary["emotion"] for summary in result["conditions"]):
            paths.append(folder / f"confusion_{system}.png")
            confusion_matrices(paths[-1], system, result["conditions"], result.get("labels") or report["labels"])
    for system, members in rows.items():
        shown = [row for row in members[0] if row.get("transmission") is None]
        if shown and expert_columns(shown):
            paths.append(folder / f"experts_{system}.png")
            seed = f" (first of {len(members)} seeds)" if len(members) > 1 else ""
            expert_use(paths[-1], system + seed, shown, report["labels"])
    return paths


def _save(figure: "Figure", path: str | os.PathLike) -> None:
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def score_against_snr(path: str | os.PathLike, results: dict[str, dict], measure: str) -> None:
    """Draws one score of all systems against SNR, with 95 % intervals over clips and one panel per noise pool.
    Macro-F1 of clean speech is shown separately at the right; speech measures of clean speech are on another scale and
    left out.

    Args:
        path: path of the PNG file.
        results: `report["results"]`.
        measure: "macro_f1" or a speech measure.
    """
    from matplotlib.figure import Figure

    looks, lines = system_looks(list(results)), _lines(results, measure)
    shown = [(summary["pool"], summary["snr_db"]) for summaries in lines.values() for summary in summaries]
    pools = list(dict.fromkeys(pool for pool, _ in shown if pool is not None))
    columns = min(4, len(lines))
    height = 4.4 + 0.25 * -(-len(lines) // columns)
    figure = Figure(figsize=(max(4.8 * len(pools), 2.2 * columns), height), layout="constrained")
    panels = figure.subplots(1, len(pools), sharey=True, squeeze=False)[0]
    places = _places([snr_db for _, snr_db in shown])
    for axes, pool in zip(panels, pools, strict=True):
        for index, (system, summaries) in enumerate(lines.items()):
            inside = [summary for summary in summaries if summary["pool"] in (pool, None)]
            # the error bars of clean speech are placed side by side, so that none hides another
            aside = 0.7 * ((index + 0.5) / len(lines) - 0.5)
            _draw_line(axes, inside, measure, places, aside, {"label": system, **looks[system]})
        axes.set_xticks(list(places.values()), ["clean" if level is None else f"{level:g}" for level in places])
        axes.set(title=pool, xlabel="SNR (dB)")
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(SCORE_TITLES[measure])
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    _save(figure, path)


def _lines(results: dict[str, dict], measure: str) -> dict[str, list[dict]]:
    """The conditions of each system in a figure; systems without noisy conditions are left out."""
    lines = {
        system: [
            summary
            for summary in result["conditions"]
            if condition_score(summary, measure) and (measure == "macro_f1" or summary["pool"] is not None)
        ]
        for system, result in results.items()
    }
    return {system: summaries for system, summaries in lines.items() if any(one["pool"] for one in summaries)}


def system_looks(systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each system, the same in every figure: dotted grey for the noisy input, then
    one colour per system, dashed when the colours repeat."""
    others = [system for system in systems if system != NOISY]
    looks = {
        system: {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": "--" if index >= len(COLOURS) else "-",
        }
        for index, system in enumerate(others)
    }
    return {NOISY: {"color": GREY, "marker": ".", "linestyle": ":"}, **looks}


def _places(levels: Sequence[float | None]) -> dict[float | None, float]:
    """Position of each SNR on the axis: equally spaced whatever the steps, with clean speech half a step apart."""
    known = sorted({level for level in levels if level is not None})
    places = {level: float(index) for index, level in enumerate(known)}
    return places | ({None: len(known) + 0.2} if None in levels else {})


def _draw_line(
    axes: "Axes",
    summaries: list[dict],
    measure: str,
    places: dict[float | None, float],
    aside: float,
    look: dict[str, Any],
) -> None:
    """Draws one system in one pool: a line with its band, and a point with its error bar for clean speech."""
    scores = {
        summary["snr_db"]: score for summary in summaries if (score := condition_score(summary, measure)) is not None
    }
    points = {level: (score["mean"], *(score["interval"] or [np.nan, np.nan])) for level, score in scores.items()}
    levels = sorted(level for level in points if level is not None)
    mean, low, high = np.array([points[level] for level in levels], dtype=float).reshape(-1, 3).T  # each (levels,)
    where = [places[level] for level in levels]
    axes.plot(where, mean, linewidth=1.6, markersize=5, **look)
    axes.fill_between(where, low, high, color=look["color"], alpha=0.07, linewidth=0)
    for bound in (low, high):
        axes.plot(where, bound, color=look["color"], alpha=0.45, linewidth=0.7)
    if None in points:
        mean, low, high = points[None]
        look = {**look, "label": None, "linestyle": "", "markersize": 5, "elinewidth": 1}
        axes.errorbar(places[None] + aside, mean, [[mean - low], [high - mean]], **look)


def confusion_matrices(path: str | os.PathLike, system: str, conditions: list[dict], labels: Sequence[str]) -> None:
    """Draws confusion matrices: one row of panels per pool, with clean speech last in the first row.

    Args:
        path: path of the PNG file.
        system: name of the system, for the heading.
        conditions: entries of `report["results"][system]["conditions"]`.
        labels: the classes in the order of the counts.
    """
    from matplotlib.figure import Figure

    conditions = [summary for summary in conditions if summary["emotion"]]
    clean = [summary for summary in conditions if summary["pool"] is None]
    noisy = [summary for summary in conditions if summary["pool"] is not None]
    grid: dict[str | None, list[dict]] = {summary["pool"]: [] for summary in noisy or clean}
    for summary in sorted(noisy, key=lambda summary: summary["snr_db"]):
        grid[summary["pool"]].append(summary)
    next(iter(grid.values())).extend(clean)
    columns, size = max(map(len, grid.values())), 0.42 * len(labels) + 0.6
    figure = Figure(figsize=(size * columns + 0.9, size * len(grid) + 0.8), layout="constrained")
    figure.suptitle(f"{system}: percent of each true class", fontsize=11)
    panels = figure.subplots(len(grid), columns, squeeze=False)
    for row, summaries in zip(panels, grid.values(), strict=True):
        for column, axes in enumerate(row):
            if column < len(summaries):
                _draw_confusion(axes, summaries[column], labels)
                axes.tick_params(labelleft=column == 0)
            else:
                axes.set_visible(False)
        row[0].set_ylabel("true")
    figure.supxlabel("predicted", fontsize=10)
    _save(figure, path)


def _draw_confusion(axes: "Axes", summary: dict[str, Any], labels: Sequence[str]) -> None:
    counts = np.array(summary["emotion"]["confusion"], dtype=float)  # (classes, classes)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for true, predicted in np.ndindex(shares.shape):
        share = shares[true, predicted]
        axes.text(
            predicted,
            true,
            f"{share:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 60 else "black",
        )
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    shown = "clean" if summary["pool"] is None else f"{summary['pool']}, {summary['snr_db']:g} dB"
    axes.set_title(shown, fontsize=9)


def expert_columns(rows: list[dict]) -> dict[str, list[str]]:
    """`{task: names of its columns of expert shares}`; empty without a sparse router."""
    columns: dict[str, list[str]] = {}
    for name in rows[0]:
        if name.startswith("expert_") and rows[0][name] is not None:
            columns.setdefault(name.removeprefix("expert_").rpartition("_")[0], []).append(name)
    return columns


def expert_use(path: str | os.PathLike, system: str, rows: list[dict], labels: Sequence[str]) -> None:
    """Draws the share of frames routed to each expert: one row per task, against noise and SNR, and by emotion over
    all conditions.

    Args:
        path: path of the PNG file.
        system: name of the system, for the heading.
        rows: rows of one member in all conditions; experts of different trainings are unrelated.
        labels: the emotions, in the order of the bars.
    """
    from matplotlib.figure import Figure

    tasks = expert_columns(rows)
    clean = [row for row in rows if row["pool"] is None]
    panels = {}
    for pool in dict.fromkeys(row["pool"] for row in rows if row["pool"] is not None):
        inside = [row for row in rows if row["pool"] == pool]
        levels = sorted({row["snr_db"] for row in inside})
        bars = {f"{level:g}": [row for row in inside if row["snr_db"] == level] for level in levels}
        panels[f"{pool}, SNR (dB)"] = bars | ({"clean": clean} if clean else {})
    panels["emotion"] = {label: [row for row in rows if row["emotion"] == label] for label in labels}
    figure = Figure(figsize=(3.6 * len(panels) + 0.8, 2.3 * len(tasks) + 0.9), layout="constrained")
    figure.suptitle(f"{system}: share of the frames that each expert gets", fontsize=11)
    grid = figure.subplots(len(tasks), len(panels), sharey=True, squeeze=False)
    for index, (row, (task, columns)) in enumerate(zip(grid, tasks.items(), strict=True)):
        is_last = index == len(tasks) - 1
        for axes, (title, bars) in zip(row, panels.items(), strict=True):
            _draw_shares(axes, {name: inside for name, inside in bars.items() if inside}, columns)
            axes.tick_params(labelbottom=is_last)
            axes.set_xlabel(title if is_last else "")
        row[0].set_ylabel(f"{task}\nshare of frames")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)  # as they are stacked
    _save(figure, path)


def _draw_shares(axes: "Axes", bars: dict[str, list[dict]], columns: Sequence[str]) -> None:
    """Draws a stacked bar for each group of clips, each clip weighted by its frames."""
    colours = plain_shades(len(columns))
    bottom = np.zeros(len(bars))
    for expert, column in enumerate(columns):
        shares = [
            np.average([row[column] for row in inside], weights=[row["frames"] for row in inside])
            for inside in bars.values()
        ]
        axes.bar(list(bars), shares, bottom=bottom, color=colours[expert], width=0.75, label=f"expert {expert}")
        bottom += shares
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)


def plain_shades(number: int) -> list[tuple[float, ...]]:
    """Colours from dark to light that can be distinguished in greyscale too."""
    from matplotlib import colormaps

    return [colormaps["viridis"](position) for position in np.linspace(0.1, 0.92, number)]


def spectrogram_triples(
    path: str | os.PathLike,
    examples: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    sampling_rate: int = 16_000,
) -> None:
    """Draws spectrograms of noisy, enhanced and clean speech side by side: one row per example, with a common dB
    scale.

    Args:
        path: path of the PNG file.
        examples: title, noisy, enhanced and clean waveforms (samples,) of each example.
        sampling_rate: sampling rate of all waveforms in Hz.

    Raises:
        ImportError: matplotlib is not installed; the error names the extra that contains it.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.5 * len(examples) + 0.5))
    figure.set_layout_engine("constrained", w_pad=0.12)
    grid = figure.subplots(len(examples), 3, sharey=True, squeeze=False)
    for index, (row, (title, *waveforms)) in enumerate(zip(grid, examples, strict=True)):
        overviews = [Overview.of(waveform, sampling_rate) for waveform in waveforms]
        ceiling = ceiling_of(overviews)
        for axes, overview in zip(row, overviews, strict=True):
            image = draw_spectrogram(axes, overview, ceiling)
            axes.set_xlabel("Time (s)" if index == len(examples) - 1 else "")
        row[0].set_ylabel(f"{title}\nFrequency (kHz)")
    for axes, side in zip(grid[0], ("Noisy", "Enhanced", "Clean"), strict=True):
        axes.set_title(side)
    figure.colorbar(image, ax=grid, label="Power (dB relative to the maximum of a row)", pad=0.01, fraction=0.03)
    _save(figure, path)

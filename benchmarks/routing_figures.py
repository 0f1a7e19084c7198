# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Figures of routing: use of the experts, mutual information against permutations, and removal of experts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_sparse_merit.evaluation.figures import COLOURS, DPI, GREY, plain_shades
from modeling_sparse_merit.files import replacing
from modeling_sparse_merit.inference.plotting import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIABLES = ("SNR", "emotion", "corpus", "phone class")
MEASURES = {"macro_f1": "change of macro-F1", "si_sdr": "change of SI-SDR (dB)"}


def draw_figures(path: Path, result: dict[str, Any]) -> None:
    """
    Writes `path` with `_use.png`, `_information.png` and, where experts were removed, `_removal.png`.

    Args:
        path: without a suffix.
        result: of `benchmarks.routing`.

    Raises:
        ImportError: matplotlib is not installed; the error names the extra that contains it.
    """
    require_matplotlib()
    figures = {"use": use(result), "information": information(result)}
    if result["removals"]:
        figures["removal"] = removal(result)
    for name, figure in figures.items():
        with replacing(path.with_name(f"{path.name}_{name}.png")) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")


def use(result: dict[str, Any]) -> "Figure":
    """The share of frames of each expert: a row for each task, a panel for each variable."""
    from matplotlib.figure import Figure

    tasks = {task: variables for task, variables in result["relations"].items() if task != "all"}
    figure = Figure(figsize=(3.0 * len(VARIABLES) + 0.8, 2.3 * len(tasks) + 1.0), layout="constrained")
    figure.suptitle(f"{result['model']['name']}: share of the frames that each expert gets", fontsize=11)
    grid = figure.subplots(len(tasks), len(VARIABLES), sharex="col", sharey=True, squeeze=False)
    for row, (task, variables) in zip(grid, tasks.items(), strict=True):
        for axes, variable in zip(row, VARIABLES, strict=True):
            draw_shares(axes, variables[variable]["frames"])
        row[0].set_ylabel(f"{task}\nshare of frames")
    for axes, variable in zip(grid[-1], VARIABLES, strict=True):
        axes.set_xlabel(variable)
        axes.tick_params(axis="x", rotation=30)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)  # as they are stacked
    return figure


def draw_shares(axes: "Axes", frames: dict[str, list[int]]) -> None:
    """Draws a stacked bar for each value of a variable, from {value: frames of each expert}."""
    counts = np.array(list(frames.values()), float)  # (values, N)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    colours = plain_shades(shares.shape[1])
    for expert, (share, colour) in enumerate(zip(shares.T, colours, strict=True)):
        bottom = shares[:, :expert].sum(1)
        axes.bar(list(frames), share, bottom=bottom, color=colour, width=0.75, label=f"expert {expert}")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)


def information(result: dict[str, Any]) -> "Figure":
    """Mutual information of expert and variable, and the mean of permutations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = {
        f"{task},\n{variable}" if task != "all" else variable: relation
        for task, variables in result["relations"].items()
        for variable, relation in variables.items()
    }
    places = np.arange(len(bars))
    for side, (key, colour, label) in enumerate(
        (("bits", COLOURS[0], "observed"), ("permuted_bits", GREY, "mean of permutations"))
    ):
        values = [relation[key] for relation in bars.values()]
        axes.bar(places + 0.4 * side - 0.2, values, width=0.38, color=colour, label=label)
    axes.set_xticks(places, list(bars), rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("mutual information (bits)")
    axes.set_title(f"{result['model']['name']}: what the expert of a frame depends on", fontsize=11)
    figure.legend(loc="outside right center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def removal(result: dict[str, Any]) -> "Figure":
    """Change of the scores without each expert, with intervals: a panel for each measure, against the condition."""
    from matplotlib.figure import Figure

    rows = result["removals"]
    measures = [measure for measure in MEASURES if measure in next(iter(rows.values()))["all"]]
    figure = Figure(figsize=(3.8 * len(measures) + 0.8, 3.0), layout="constrained")
    figure.suptitle(f"{result['model']['name']}: one expert removed", fontsize=11)
    grid = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(grid, measures, strict=True):
        draw_changes(
            axes, {expert: {name: row[measure] for name, row in those.items()} for expert, those in rows.items()}
        )
        axes.set_ylabel(MEASURES[measure])
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def draw_changes(axes: "Axes", changes: dict[str, dict[str, dict[str, float]]]) -> None:
    """Draws changes with their intervals, from {expert: {condition: {"mean", "low" and "high"}}}."""
    for number, ((expert, conditions), colour) in enumerate(
        zip(changes.items(), plain_shades(len(changes)), strict=True)
    ):
        mean, low, high = (np.array([each[key] for each in conditions.values()]) for key in ("mean", "low", "high"))
        places = np.arange(len(conditions)) + 0.5 * ((number + 0.5) / len(changes) - 0.5)
        axes.errorbar(places, mean, [mean - low, high - mean], fmt="o", color=colour, label=f"expert {expert}")
    axes.set_xticks(range(len(conditions)), list(conditions))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)

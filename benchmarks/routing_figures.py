# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Figures of routing: use of the experts, mutual information against permutations, and removal of experts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_sparse_merit.plotting import plot_expert_shares
from modeling_sparse_merit.plotting.style import (
    COLOURS,
    GREY,
    MARKERS,
    new_figure,
    open_frame,
    plain_shades,
    save_figure,
)

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
    figures = {"use": use(result), "information": information(result)}
    if result["removals"]:
        figures["removal"] = removal(result)
    for name, figure in figures.items():
        save_figure(figure, path.with_name(f"{path.name}_{name}.png"))


def use(result: dict[str, Any]) -> "Figure":
    """The share of frames of each expert: a row for each task, a panel for each variable."""
    tasks = {task: variables for task, variables in result["relations"].items() if task != "all"}
    panels = {
        variable: {task: shares(variables[variable]["frames"]) for task, variables in tasks.items()}
        for variable in VARIABLES
    }
    return plot_expert_shares(panels, f"{result['model']['name']}: share of the frames that each expert gets")


def shares(frames: dict[str, list[int]]) -> dict[str, list[float]]:
    """The shares of the experts, from {value of a variable: frames of each expert}."""
    return {value: (np.array(counts) / max(sum(counts), 1)).tolist() for value, counts in frames.items()}


def information(result: dict[str, Any]) -> "Figure":
    """Mutual information of expert and variable, and the mean of permutations."""
    figure = new_figure(10.0, 4.0, f"{result['model']['name']}: what the expert of a frame depends on")
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
    axes.set_xticks(places, list(bars), rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_ylabel("mutual information (bits)")
    figure.legend(loc="outside right center", frameon=False)
    open_frame(axes)
    return figure


def removal(result: dict[str, Any]) -> "Figure":
    """Change of the scores without each expert, with intervals: a panel for each measure, against the condition."""
    rows = result["removals"]
    measures = [measure for measure in MEASURES if measure in next(iter(rows.values()))["all"]]
    figure = new_figure(3.8 * len(measures) + 1.4, 3.2, f"{result['model']['name']}: one expert removed")
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
        look = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "linestyle": ""}
        axes.errorbar(places, mean, [mean - low, high - mean], label=f"expert {expert}", **look)
    axes.set_xticks(range(len(conditions)), list(conditions))
    axes.axhline(0, color=GREY, linewidth=0.8)
    open_frame(axes)

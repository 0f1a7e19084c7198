# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Time and memory against length, batch size and experts, as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_sparse_merit.plotting.style import line_looks, new_figure, open_frame, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = line_looks(["fp32", "bf16", "int8"], unprocessed="published")
SMALL, LARGE = "4 layers of 256", "WavLM-Large layout"


def draw_curves(results: dict[str, Any], folder: Path) -> None:
    """Writes length.png (time and memory), batch.png and experts.png."""
    for name, draw in {"length": _draw_length, "batch": _draw_batch, "experts": _draw_experts}.items():
        save_figure(draw(results), folder / f"{name}.png")


def _draw_length(results: dict[str, Any]) -> "Figure":
    figure = new_figure(9.5, 7)
    grid = figure.subplots(2, 2, sharex=True)
    where = "device" if results["machine"]["device"] != "cpu" else "working"
    layouts = {LARGE: results["lengths"], SMALL: results["curves"]["length"]}
    for column, (title, rows) in enumerate(layouts.items()):
        for axes, label in zip(grid[:, column], ("seconds to compute", "peak memory (MiB)"), strict=True):
            for side in dict.fromkeys(each["side"] for each in rows):
                points = [each for each in rows if each["side"] == side]
                values = [each["memory"][where] if "memory" in label else each["time"] for each in points]
                _line(axes, side, [each["seconds"] for each in points], values)
            axes.set(xscale="log", yscale="log", ylabel=label)
            _finish(axes)
        grid[0, column].set_title(title)
        grid[1, column].set_xlabel("seconds of audio")
    _add_legend(figure)
    return figure


def _draw_batch(results: dict[str, Any]) -> "Figure":
    figure = new_figure(6, 4.5)
    axes = figure.subplots()
    rows = results["curves"]["batch"]
    for side in dict.fromkeys(each["side"] for each in rows):
        points = [each for each in rows if each["side"] == side]
        _line(axes, side, [each["batch"] for each in points], [each["time"] / each["batch"] for each in points])
    axes.set(xlabel="clips of 4 s in a batch", ylabel="seconds a clip", title=SMALL, ylim=(0, None))
    _finish(axes)
    _add_legend(figure)
    return figure


def _draw_experts(results: dict[str, Any]) -> "Figure":
    figure = new_figure(6, 4.5)
    axes = figure.subplots()
    rows = results["experts"]
    for side in ("published", "fp32"):
        _line(axes, side, [row["experts"] for row in rows], [row[side] for row in rows])
    axes.set(xlabel="experts", ylabel="seconds, expert part of 10 s", title=LARGE, ylim=(0, None))
    _finish(axes)
    _add_legend(figure)
    return figure


def _line(axes: "Axes", side: str, places: list[float], values: list[float]) -> None:
    axes.plot(places, values, label=side, **LOOKS[side])


def _finish(axes: "Axes") -> None:
    axes.grid(alpha=0.3, which="both")
    open_frame(axes)


def _add_legend(figure: "Figure") -> None:
    """Explains the lines of the first panel, which are those of all, below the figure."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, handlelength=3.5)

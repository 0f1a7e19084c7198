# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Use of the experts: over the time of a recording, and in groups of clips."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .overview import Columns
from .style import new_figure, open_frame, plain_shades
from .timeline import draw_time, draw_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME_S = 0.02
MOST_COLUMNS = 600  # more can not be distinguished
LANE = 0.86  # height of a full bar, where the distance of lanes is 1


def plot_expert_use(
    expert_use: Mapping[str, np.ndarray],
    segments: Sequence[Mapping[str, Any]] | None = None,
    title: str | None = None,
    frame_seconds: float = FRAME_S,
) -> "Figure":
    """Draws which expert each task used over the time of a recording.

    Each task has a panel, and each expert a lane in it, which is filled where the expert was used. Up to 12 s, every
    frame is drawn; longer recordings have up to 600 columns, whose height is the share of their frames.

    Args:
        expert_use: {task: (T, N)}, the share of each expert in each frame; `pipe(recording, return_expert_use=True)`
            returns it.
        segments: the emotions over time, which are drawn above.
        title: heading of the figure.
        frame_seconds: duration of a frame in seconds.

    Raises:
        ValueError: no task has experts.
        ImportError: matplotlib is not installed.

    Usage:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> result = pipe("call.flac", return_segments=True, return_expert_use=True)
        >>> figure = plot_expert_use(result["expert_use"], result["segments"], title="call.flac")
        >>> figure.savefig("experts.png")
    """
    if not expert_use:
        raise ValueError("`expert_use` is empty; expected {task: (T, N)}: only models with experts use them.")
    use = {task: columns_of(shares) for task, shares in expert_use.items()}
    heights = [0.65] * (segments is not None) + lane_heights(use)
    figure = new_figure(11, 1.2 + 1.1 * sum(heights), title)
    rows = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False).ravel().tolist()
    draw_expert_use(rows[-len(use) :], use, frame_seconds)
    for axes in rows:
        draw_time(axes, max(columns.items for columns in use.values()) * frame_seconds)
        axes.label_outer()
    if segments is not None:
        rows[0].set(ylim=(0, 1), yticks=[], ylabel="emotion")
        draw_timeline(rows[0], segments, [])
    figure.align_ylabels(rows)
    return figure


def columns_of(shares: np.ndarray) -> Columns:
    """The use of experts (T, N), summed over at most `MOST_COLUMNS` columns."""
    return no_columns(shares.shape[1]).plus(shares)


def no_columns(num_experts: int) -> Columns:
    """Columns to which the use of experts (T, N) can be added piece by piece."""
    return Columns(np.add, np.empty((0, num_experts), np.float32), limit=MOST_COLUMNS)


def lane_heights(use: Mapping[str, Columns]) -> list[float]:
    """Heights of the panels of `draw_expert_use`, relative to each other."""
    return [0.3 + 0.28 * columns.values.shape[1] for columns in use.values()]


def draw_expert_use(panels: Sequence["Axes"], use: Mapping[str, Columns], frame_seconds: float = FRAME_S) -> None:
    """Draws which expert each task used over time, as in `plot_expert_use`.

    Args:
        panels: where to draw each task.
        use: {task: columns of summed frames (columns, N)}.
        frame_seconds: duration of a frame in seconds.
    """
    for axes, (task, columns) in zip(panels, use.items(), strict=True):
        shares = columns.values / columns.counts[:, None]  # (columns, N)
        edges = np.minimum(np.arange(len(shares) + 1) * columns.step, columns.items) * frame_seconds
        for expert, (share, colour) in enumerate(zip(shares.T, plain_shades(shares.shape[1]), strict=True)):
            floor = expert - LANE / 2
            axes.stairs(floor + LANE * share, edges, baseline=floor, fill=True, color=colour, linewidth=0)
        axes.set(ylim=(-0.6, shares.shape[1] - 0.4), yticks=range(shares.shape[1]), ylabel=f"experts of\n{task}")
        open_frame(axes)


def plot_expert_shares(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    title: str | None = None,
    experts: Sequence[str] | None = None,
    measure: str = "share of frames",
) -> "Figure":
    """Draws the share of frames that each expert gets, or its mean weight, as stacked bars: a row for each task.

    Args:
        panels: {panel: {task: {bar: (N,) shares, which add up to 1}}}; bars such as SNR or emotions.
        title: heading of the figure.
        experts: names of the experts; numbers by default.
        measure: what the bars show.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> bars = {"happy": [0.7, 0.3], "sad": [0.2, 0.8]}
        >>> figure = plot_expert_shares({"emotion": {"enhancement": bars, "emotion": bars}})
    """
    tasks = list(next(iter(panels.values())))
    widths = [1.2 + 0.3 * len(bars[tasks[0]]) for bars in panels.values()]
    figure = new_figure(sum(widths) + 1.8, 1.9 * len(tasks) + 1.3, title)
    grid = figure.subplots(len(tasks), len(panels), sharex="col", sharey=True, squeeze=False, width_ratios=widths)
    for row, task in zip(grid, tasks, strict=True):
        for axes, bars in zip(row, panels.values(), strict=True):
            _draw_stacks(axes, bars[task], experts)
        row[0].set_ylabel(f"{task}\n{measure}")
    for axes, panel in zip(grid[-1], panels, strict=True):
        axes.set_xlabel(panel)
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)  # as they are stacked
    return figure


def _draw_stacks(axes: "Axes", bars: Mapping[str, Sequence[float]], experts: Sequence[str] | None) -> None:
    shares = np.array(list(bars.values()), float)  # (bars, N)
    for expert, (share, colour) in enumerate(zip(shares.T, plain_shades(shares.shape[1]), strict=True)):
        bottom = shares[:, :expert].sum(1)
        name = experts[expert] if experts else f"expert {expert}"
        axes.bar(list(bars), share, bottom=bottom, color=colour, width=0.75, label=name)
    axes.set_ylim(0, 1)
    open_frame(axes)

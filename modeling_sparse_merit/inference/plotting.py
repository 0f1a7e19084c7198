# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Figures of results: waveforms and spectrograms before and after enhancement, and the emotions.

matplotlib is an optional dependency (extra `demo`), so it is imported only when a figure is drawn.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .overview import Overview
from .segments import Segment
from .timeline import draw_time, draw_timeline, emotion_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

BLUE, GREEN, GREY = "#3b6ea5", "#2a9d6f", "#c3cad3"
DYNAMIC_RANGE_DB = 80
LOWEST_CEILING_DB = -40  # lowest reference of the colour scale, so that silence is dark
HIGHEST_FREQUENCY = 8_000
SHORT = 12  # seconds; up to this length, a single segment is shown by its scores only


class Side(NamedTuple):
    """A signal with its title and colour."""

    name: str
    overview: Overview
    colour: str


def require_matplotlib() -> None:
    """Raises ImportError with an installation hint if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'modeling-sparse-merit[demo]'") from error


def plot_result(
    path: str | os.PathLike,
    noisy: Overview,
    enhanced: Overview | None,
    scores: Mapping[str, float],
    title: str,
    highest_frequency: float = HIGHEST_FREQUENCY,
    segments: Sequence[Segment] | None = None,
) -> None:
    """Draws a PNG of the outputs of the model for one recording.

    Noisy and enhanced signal are shown side by side. With a timeline of several segments, or of more than 12 s, they
    are stacked and share the time axis.

    Args:
        path: path of the PNG file.
        noisy: the recording.
        enhanced: the enhanced speech; None without the enhancement task.
        scores: probability of each emotion; empty without the emotion task.
        title: title of the figure.
        highest_frequency: highest frequency of the spectrograms in Hz, at most half the sampling rate.
        segments: the emotions over time; None without a timeline.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> import numpy as np
        >>> noisy, enhanced = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
        >>> sides = Overview.of(noisy, 16_000), Overview.of(enhanced, 16_000)
        >>> plot_result("call.png", *sides, {"happy": 0.2, "sad": 0.8}, "call.wav")
    """
    require_matplotlib()
    sides = [Side("Recording", noisy, BLUE)]
    if enhanced is not None:
        sides.append(Side("Enhanced", enhanced, GREEN))
    if segments is None or (len(segments) < 2 and noisy.seconds <= SHORT):
        figure = _side_by_side(sides, scores, title, highest_frequency)
    else:
        figure = _stacked(sides, scores, title, highest_frequency, segments)
    figure.savefig(path, dpi="figure")


def _side_by_side(sides: Sequence[Side], scores: Mapping[str, float], title: str, highest: float) -> "Figure":
    """One column per signal, with common amplitude and dB scales."""
    widths = [5] * len(sides) + [2.2] * bool(scores)
    figure = _figure((1.2 * sum(widths) + 0.6, 5.6), title)
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, height_ratios=[1, 1.7])
    top_row = [figure.add_subplot(grid[0, column]) for column in range(len(sides))]
    bottom_row = [figure.add_subplot(grid[1, column]) for column in range(len(sides))]
    _draw_waveforms(top_row, sides)
    image = _draw_spectrograms(bottom_row, sides, highest)
    for side, top, bottom in zip(sides, top_row, bottom_row, strict=True):
        for axes in (top, bottom):
            draw_time(axes, side.overview.seconds)
        top.set(title=side.name, xlabel="")
        top.tick_params(labelbottom=False)
    for axes in top_row[1:] + bottom_row[1:]:
        axes.tick_params(labelleft=False)
    top_row[0].set_ylabel("Amplitude")
    bottom_row[0].set_ylabel("Frequency (kHz)")
    _draw_colorbar(figure, bottom_row, image)
    if scores:
        _draw_scores(figure.add_subplot(grid[:, -1]), scores)
    return figure


def _stacked(
    sides: Sequence[Side], scores: Mapping[str, float], title: str, highest: float, segments: Sequence[Segment]
) -> "Figure":
    """Waveforms, the emotion timeline and spectrograms as rows with a common time axis."""
    high, higher = (1, 1.5) if len(sides) > 1 else (1.6, 2.4)
    heights = [high] * len(sides) + [0.6] + [higher] * len(sides)
    figure = _figure((14, 1.1 * sum(heights) + 1.6), title)
    widths = [11] + [2.2] * bool(scores)
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    rows = [figure.add_subplot(grid[row, 0]) for row in range(len(heights))]
    top_row, strip, bottom_row = rows[: len(sides)], rows[len(sides)], rows[len(sides) + 1 :]
    _draw_waveforms(top_row, sides)
    image = _draw_spectrograms(bottom_row, sides, highest)
    for side, top, bottom in zip(sides, top_row, bottom_row, strict=True):
        top.set_ylabel(side.name)
        bottom.set_ylabel(f"{side.name}\n(kHz)")
    strip.set(ylim=(0, 1), yticks=[], ylabel="Emotion")
    for axes in rows:
        draw_time(axes, sides[0].overview.seconds)
        axes.label_outer()
    figure.align_ylabels(rows)
    _draw_colorbar(figure, bottom_row, image)
    if scores:
        bars = figure.add_subplot(grid[: len(sides) + 1, 1])
        _draw_scores(bars, scores, emotion_colours(scores))
        bars.set(title="Whole recording", xticks=[], xlabel="")
        bars.spines["bottom"].set_visible(False)
    draw_timeline(strip, segments, scores)
    return figure


def _figure(size: tuple[float, float], title: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08)
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    return figure


def _draw_waveforms(rows: Sequence["Axes"], sides: Sequence[Side]) -> None:
    """Draws the envelope of each signal, with a common scale."""
    peak = max(side.overview.peak for side in sides) or 1.0
    for axes, side in zip(rows, sides, strict=True):
        axes.fill_between(*side.overview.envelope, color=side.colour, linewidth=0.6)
        axes.set_ylim(-1.05 * peak, 1.05 * peak)
        axes.grid(alpha=0.25)


def _draw_spectrograms(rows: Sequence["Axes"], sides: Sequence[Side], highest: float) -> "AxesImage":
    """Draws the spectrogram of each signal, with a common dB scale."""
    overviews = [side.overview for side in sides]
    ceiling = ceiling_of(overviews)
    return [draw_spectrogram(*pair, ceiling, highest) for pair in zip(rows, overviews, strict=True)][-1]


def ceiling_of(overviews: Sequence[Overview]) -> float:
    """The highest level of several signals in dB, shown as 0 dB in their spectrograms."""
    return max(LOWEST_CEILING_DB, *(overview.levels.max() for overview in overviews))


def draw_spectrogram(
    axes: "Axes", overview: Overview, ceiling: float, highest: float = HIGHEST_FREQUENCY
) -> "AxesImage":
    """Draws a spectrogram.

    Args:
        axes: where to draw.
        overview: the signal.
        ceiling: level in dB that is shown as 0 dB, see `ceiling_of`.
        highest: highest frequency in Hz, at most half the sampling rate.
    """
    levels = overview.levels - ceiling
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-DYNAMIC_RANGE_DB,
        vmax=0,
        extent=(0, levels.shape[1] * overview.column_seconds, 0, overview.rate / 2000),
    )
    axes.set(xlim=(0, overview.seconds), ylim=(0, min(highest, overview.rate / 2) / 1000), xlabel="Time (s)")
    return image


def _draw_colorbar(figure: "Figure", rows: Sequence["Axes"], image: "AxesImage") -> None:
    figure.colorbar(image, ax=rows, label="Power (dB relative to the maximum)", pad=0.01, fraction=0.04)


def _draw_scores(axes: "Axes", scores: Mapping[str, float], colours: Mapping[str, str] | None = None) -> None:
    """Draws one bar per emotion, the most probable on top; without colours, only that one is highlighted."""
    ranked = sorted(scores.items(), key=lambda item: item[1])
    names, values = zip(*ranked, strict=True)
    shades = [colours[name] for name in names] if colours else [GREY] * (len(values) - 1) + [GREEN]
    bars = axes.barh(names, values, color=shades, height=0.6)
    axes.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=4)
    axes.set(title="Emotion", xlim=(0, 1.18), xticks=[0, 0.5, 1], xlabel="Score")
    axes.spines[["top", "right"]].set_visible(False)

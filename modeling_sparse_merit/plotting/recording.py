# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The picture of a recording: signals before and after enhancement, emotions over time, and use of the experts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .experts import columns_of, draw_expert_use, lane_heights
from .overview import Columns, Overview
from .spectrograms import HIGHEST_FREQUENCY, draw_colour_bar, draw_spectrograms
from .style import COLOURS, new_figure, open_frame
from .timeline import draw_time, draw_timeline, emotion_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLING_RATE = 16_000  # of the pipelines


def plot_result(
    waveform: np.ndarray, result: Mapping[str, Any], title: str | None = None, band: float = HIGHEST_FREQUENCY
) -> "Figure":
    """Draws the result of a pipeline for a recording. What the result lacks is left out.

    Args:
        waveform: the recording, float32 (samples,) at 16 kHz, as `load_audio` returns it.
        result: what the pipeline returned for it; with `return_segments=True` for the emotions over time, and with
            `return_expert_use=True` for the experts.
        title: heading of the figure.
        band: highest frequency of the recording in Hz, half its own sampling rate; at most 8000.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline, load_audio
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> result = pipe("call.flac", return_segments=True, return_expert_use=True)
        >>> figure = plot_result(load_audio("call.flac"), result, "call.flac")
        >>> figure.savefig("call.png")
    """
    return plot_recording(
        Overview.of(waveform, SAMPLING_RATE),
        Overview.of(result["audio"], SAMPLING_RATE) if "audio" in result else None,
        {entry["label"]: entry["score"] for entry in result.get("emotion", ())},
        title,
        band,
        result.get("segments"),
        {task: columns_of(shares) for task, shares in result.get("expert_use", {}).items()},
    )


def plot_recording(
    noisy: Overview,
    enhanced: Overview | None,
    scores: Mapping[str, float],
    title: str | None = None,
    band: float = HIGHEST_FREQUENCY,
    segments: Sequence[Mapping[str, Any]] | None = None,
    expert_use: Mapping[str, Columns] | None = None,
) -> "Figure":
    """Draws the outputs of the model for one recording as rows with a common time axis.

    The rows are waveforms with a common scale, the emotions over time, their `distress` if the segments have it, the
    experts of each task, and spectrograms with a common dB scale. The scores of the whole recording are bars at the
    right.

    Args:
        noisy: the recording.
        enhanced: the enhanced speech; None without the enhancement task.
        scores: probability of each emotion; empty without the emotion task.
        title: heading of the figure.
        band: highest frequency of the spectrograms in Hz, at most half the sampling rate.
        segments: the emotions over time; None without a timeline.
        expert_use: {task: summed frames of each expert}; None or empty without experts.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> noisy, enhanced = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
        >>> sides = Overview.of(noisy, 16_000), Overview.of(enhanced, 16_000)
        >>> figure = plot_recording(*sides, {"happy": 0.2, "sad": 0.8}, "call.wav")
    """
    sides = {"recording": noisy} | ({} if enhanced is None else {"enhanced": enhanced})
    lanes = expert_use or {}
    has_distress = any("distress" in segment for segment in segments or ())
    emotion = [0.65] * (segments is not None) + [0.9] * has_distress
    heights = [1.0] * len(sides) + emotion + lane_heights(lanes) + [1.6] * len(sides)
    figure = new_figure(11, 1.0 + 0.95 * sum(heights), title)
    grid = figure.add_gridspec(
        len(heights), 1 + bool(scores), width_ratios=[9] + [2] * bool(scores), height_ratios=heights
    )
    rows = [figure.add_subplot(grid[row, 0]) for row in range(len(heights))]
    top, bottom = rows[: len(sides)], rows[-len(sides) :]
    _draw_waveforms(top, sides)
    draw_expert_use(rows[len(rows) - len(sides) - len(lanes) : len(rows) - len(sides)], lanes)
    image = draw_spectrograms(bottom, list(sides.values()), band)
    for axes, name in zip(bottom, sides, strict=True):
        axes.set_ylabel(f"{name}\n(kHz)")
    for axes in rows:
        draw_time(axes, noisy.seconds)
        axes.label_outer()
    draw_colour_bar(figure, bottom, image)
    if scores:
        _draw_scores(figure.add_subplot(grid[: len(sides) + (segments is not None), 1]), scores)
    figure.align_ylabels(rows)
    if segments is not None:
        rows[len(sides)].set(ylim=(0, 1), yticks=[], ylabel="emotion")
        draw_timeline(rows[len(sides)], segments, scores)
    if has_distress:
        _draw_distress(rows[len(sides) + 1], segments or ())
    return figure


def _draw_waveforms(panels: Sequence["Axes"], sides: Mapping[str, Overview]) -> None:
    """Draws the envelope of each signal, with a common scale."""
    peak = max(overview.peak for overview in sides.values()) or 1.0
    for axes, (name, overview), colour in zip(panels, sides.items(), COLOURS, strict=False):
        axes.fill_between(*overview.envelope, color=colour, linewidth=0.6)
        axes.set(ylim=(-1.05 * peak, 1.05 * peak), ylabel=name)
        axes.grid(alpha=0.25)


def _draw_distress(axes: "Axes", segments: Sequence[Mapping[str, Any]]) -> None:
    """Draws the smoothed distress at the end of each segment, as a line over its time."""
    values = [segment["distress"] for segment in segments]
    for segment, value in zip(segments, values, strict=True):
        axes.fill_between([segment["start"], segment["end"]], value, color=COLOURS[0], alpha=0.3, linewidth=0)
    axes.plot([segment["end"] for segment in segments], values, color=COLOURS[0], marker=".")
    axes.set(ylim=(0, 1.05), yticks=[0, 1], ylabel="distress")
    axes.grid(alpha=0.25)


def _draw_scores(axes: "Axes", scores: Mapping[str, float]) -> None:
    """Draws one bar per emotion, the most probable on top."""
    ranked = sorted(scores.items(), key=lambda item: item[1])
    colours = emotion_colours(scores)
    names, values = zip(*ranked, strict=True)
    bars = axes.barh(names, values, color=[colours[name] for name in names], height=0.6)
    axes.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=4)
    axes.set_title("Whole recording", fontsize=10)
    axes.set(xlim=(0, 1.45), xticks=[])
    axes.spines["bottom"].set_visible(False)
    open_frame(axes)

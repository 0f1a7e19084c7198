# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""One picture of one result: waveforms and spectrograms before and after, and the emotion scores.

matplotlib is an optional extra (`demo`), so it is imported only where a picture is drawn.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.image import AxesImage

BLUE, GREEN, GREY = "#3b6ea5", "#2a9d6f", "#c3cad3"
DYNAMIC_RANGE_DB = 80
HIGHEST_FREQUENCY = 8_000
MAX_COLUMNS = 1_200  # more than a picture can show; it bounds the work for long recordings


def require_matplotlib() -> None:
    """Raises ImportError, saying how to mend it, where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'modeling-sparse-merit[demo]'") from error


def plot_result(
    path: str | os.PathLike,
    noisy: np.ndarray,
    enhanced: np.ndarray | None,
    sampling_rate: int,
    scores: Mapping[str, float],
    title: str,
    highest_frequency: float = HIGHEST_FREQUENCY,
) -> None:
    """Draws a PNG with whatever the model answered.

    Args:
        path: where the PNG goes.
        noisy: the recording (samples,), full scale 1.
        enhanced: its clean speech (samples,), or None where the model does not enhance.
        sampling_rate: of both, in Hz.
        scores: probability of each emotion, empty where the model does not recognise emotion.
        title: the heading.
        highest_frequency: of the spectrograms, in Hz; of a recording at a lower rate, half its own.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    sides = [("Recording", noisy, BLUE)]
    if enhanced is not None:
        sides.append(("Enhanced", enhanced, GREEN))
    widths = [5] * len(sides) + [2.2] * bool(scores)
    figure = Figure(figsize=(1.2 * sum(widths) + 0.6, 5.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths, height_ratios=[1, 1.7])
    _draw_sides(figure, grid, sides, sampling_rate, highest_frequency)
    if scores:
        _draw_scores(figure.add_subplot(grid[:, -1]), scores)
    figure.savefig(path, dpi=130)


def spectrogram(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Returns the power in dB of Hann windows of 32 ms: (frequencies, columns)."""
    size = int(0.032 * sampling_rate)
    hop = max(size // 4, len(waveform) // MAX_COLUMNS)
    padded = np.pad(waveform, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (columns, size)
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    return 10 * np.log10(power.T + 1e-12)


def envelope(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest sample of each of at most MAX_COLUMNS segments: (columns,) each."""
    length = -(-len(waveform) // MAX_COLUMNS)
    padded = np.pad(waveform, (0, -len(waveform) % length), mode="edge")
    segments = padded.reshape(-1, length)  # (columns, length)
    return segments.min(axis=1), segments.max(axis=1)


def _draw_sides(
    figure: "Figure", grid: "GridSpec", sides: list[tuple[str, np.ndarray, str]], rate: int, highest: float
) -> None:
    """Draws a column for each side, all on one level scale and one dB scale, so that they can be compared."""
    pictures = [spectrogram(waveform, rate) for _, waveform, _ in sides]
    ceiling = max(levels.max() for levels in pictures)
    peak = max(np.abs(waveform).max() for _, waveform, _ in sides) or 1.0
    upper = [figure.add_subplot(grid[0, column]) for column in range(len(sides))]
    lower = [figure.add_subplot(grid[1, column]) for column in range(len(sides))]
    for (name, waveform, colour), levels, top, bottom in zip(sides, pictures, upper, lower, strict=True):
        seconds = len(waveform) / rate
        low, high = envelope(waveform)
        top.fill_between(np.linspace(0, seconds, len(low)), low, high, color=colour, linewidth=0.6)
        top.set(title=name, xlim=(0, seconds), ylim=(-1.05 * peak, 1.05 * peak))
        top.grid(alpha=0.25)
        top.tick_params(labelbottom=False)
        image = draw_spectrogram(bottom, levels - ceiling, seconds, rate, highest)
    for axes in upper[1:] + lower[1:]:
        axes.tick_params(labelleft=False)
    upper[0].set_ylabel("Amplitude")
    lower[0].set_ylabel("Frequency (kHz)")
    figure.colorbar(image, ax=lower, label="Power (dB relative to the maximum)", pad=0.01, fraction=0.04)


def draw_spectrogram(
    axes: "Axes", levels: np.ndarray, seconds: float, rate: int, highest: float = HIGHEST_FREQUENCY
) -> "AxesImage":
    """Draws levels in dB (frequencies, columns), 0 the highest, up to a frequency in Hz."""
    axes.set(xlabel="Time (s)")
    image = axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-DYNAMIC_RANGE_DB,
        vmax=0,
        extent=(0, seconds, 0, rate / 2000),
    )
    axes.set_ylim(0, min(highest, rate / 2) / 1000)
    return image


def _draw_scores(axes: "Axes", scores: Mapping[str, float]) -> None:
    """Draws one bar for each emotion, the likeliest on top and in colour."""
    ranked = sorted(scores.items(), key=lambda item: item[1])
    names, values = zip(*ranked, strict=True)
    bars = axes.barh(names, values, color=[GREY] * (len(values) - 1) + [GREEN], height=0.6)
    axes.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=4)
    axes.set(title="Emotion", xlim=(0, 1.18), xticks=[0, 0.5, 1], xlabel="Score")
    axes.spines[["top", "right"]].set_visible(False)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Spectrograms of signals next to each other, with common scales."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .overview import Overview
from .style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DYNAMIC_RANGE_DB = 80
LOWEST_CEILING_DB = -40  # lowest reference of the colour scale, so that silence is dark
HIGHEST_FREQUENCY = 8_000.0
LEVEL = "Power (dB relative to the maximum)"


def plot_spectrograms(
    signals: Mapping[str, np.ndarray], sampling_rate: int = 16_000, band: float | None = None, title: str | None = None
) -> "Figure":
    """Draws spectrograms of signals side by side, for example of a recording before and after enhancement.

    Args:
        signals: {name: float32 (samples,), full scale +-1}.
        sampling_rate: sampling rate of all signals in Hz.
        band: highest frequency of the recording in Hz, where the pictures end: 4000 for a recording at 8 kHz that was
            resampled to 16 kHz. By default half the sampling rate.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> noisy, enhanced = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
        >>> figure = plot_spectrograms({"Recording": noisy, "Enhanced": enhanced})
        >>> figure.savefig("spectrograms.png")
    """
    return plot_spectrogram_rows({"": signals}, sampling_rate, band, title)


def plot_spectrogram_rows(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    sampling_rate: int = 16_000,
    band: float | None = None,
    title: str | None = None,
) -> "Figure":
    """Draws spectrograms of several examples: a row for each, with a common dB scale.

    Args:
        rows: {example: {name: (samples,)}}, with the same names in all rows.
        sampling_rate, band, title: as in `plot_spectrograms`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = list(next(iter(rows.values())))
    figure = new_figure(1.2 + 3.6 * len(columns), 0.8 + 2.3 * len(rows), title)
    grid = figure.subplots(len(rows), len(columns), sharey=True, squeeze=False)
    for panels, (example, signals) in zip(grid, rows.items(), strict=True):
        overviews = [Overview.of(signal, sampling_rate) for signal in signals.values()]
        image = draw_spectrograms(panels, overviews, band or sampling_rate / 2)
        panels[0].set_ylabel(f"{example}\nFrequency (kHz)".strip())
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, parse_math=False)
    for axes in grid[-1]:
        axes.set_xlabel("Time (s)")
    label = LEVEL if len(rows) == 1 else f"{LEVEL[:-1]} of a row)"
    draw_colour_bar(figure, grid.ravel().tolist(), image, label)
    return figure


def draw_spectrograms(
    panels: Sequence["Axes"], overviews: Sequence[Overview], band: float = HIGHEST_FREQUENCY
) -> "AxesImage":
    """Draws the spectrogram of each signal, with a common dB scale.

    Args:
        panels: where to draw each of them.
        overviews: the signals.
        band: highest frequency in Hz, at most half the sampling rate.

    Returns:
        the last image, for a colour bar.
    """
    levels = [overview.levels for overview in overviews]
    ceiling = max(LOWEST_CEILING_DB, *(each.max() for each in levels))
    for axes, overview, each in zip(panels, overviews, levels, strict=True):
        image = axes.imshow(
            each - ceiling,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-DYNAMIC_RANGE_DB,
            vmax=0,
            extent=(0, each.shape[1] * overview.column_seconds, 0, overview.rate / 2000),
        )
        axes.set(xlim=(0, overview.seconds), ylim=(0, min(band, overview.rate / 2) / 1000))
    return image


def draw_colour_bar(figure: "Figure", panels: Sequence["Axes"], image: "AxesImage", label: str = LEVEL) -> None:
    """Draws the dB scale of spectrograms.

    Args:
        figure: the figure.
        panels: the spectrograms.
        image: one of them.
        label: what the numbers are.
    """
    figure.colorbar(image, ax=panels, label=label, pad=0.01, fraction=0.04)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the page: waveforms and use of the experts as SVG, spectrograms as PNG without axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..inference.overview import Overview
from ..inference.plotting import ceiling_of, draw_spectrogram

COLUMNS = 500  # of a waveform or a use of experts, more than a page shows
HEIGHT = 100  # units of an SVG
SPECTROGRAM = (7.0, 1.9)  # inches
DPI = 110


def waveform_svg(overview: Overview, peak: float) -> str:
    """The envelope of a signal as an SVG path in the colour of the text.

    Args:
        overview: the signal.
        peak: amplitude at the upper border.
    """
    _, low, high = overview.envelope
    edges = np.unique(np.linspace(0, len(low), COLUMNS + 1).astype(int))[:-1]
    low, high = np.minimum.reduceat(low, edges), np.maximum.reduceat(high, edges)  # (columns,)
    places = np.arange(len(edges))
    scale = HEIGHT / 2 / max(peak, 1e-9)
    upper = [f"{place},{HEIGHT / 2 - scale * value:.1f}" for place, value in zip(places, high, strict=True)]
    lower = [f"{place},{HEIGHT / 2 - scale * value + 0.5:.1f}" for place, value in zip(places, low, strict=True)]
    points = " ".join([*upper, *lower[::-1]])
    return _svg(f'<polygon points="{points}" fill="currentColor"/>', max(1, len(edges) - 1))


def experts_svg(use: np.ndarray, colours: Sequence[str]) -> str:
    """The share of each expert over time, stacked from the bottom, as an SVG.

    Args:
        use: (T, N), the share of each expert in each frame.
        colours: N colours.
    """
    edges = np.unique(np.linspace(0, len(use), COLUMNS + 1).astype(int))
    counts = np.diff(edges)[:, None]
    tops = np.cumsum(np.add.reduceat(use, edges[:-1], axis=0) / counts, axis=1)  # (columns, N)
    bottom, layers = np.zeros(len(tops)), []
    for top, colour in zip(tops.T, colours, strict=True):
        path = "".join(
            f"M{left} {HEIGHT * (1 - high):.1f}H{right}V{HEIGHT * (1 - low):.1f}H{left}Z"
            for left, right, low, high in zip(edges[:-1], edges[1:], bottom, top, strict=True)
            if high > low
        )
        layers.append(f'<path d="{path}" fill="{colour}" shape-rendering="crispEdges"/>')
        bottom = top
    return _svg("".join(layers), len(use))


def write_spectrograms(overviews: Mapping[str, Overview], band: float, folder: Path) -> dict[str, Path]:
    """Writes spectrograms with a common dB scale as PNG files without axes.

    Args:
        overviews: the signals by their names.
        band: highest frequency in Hz.
        folder: where the files are written.

    Returns:
        The files by the names of the signals.
    """
    from matplotlib.figure import Figure

    ceiling = ceiling_of(list(overviews.values()))
    files = {}
    for number, (name, overview) in enumerate(overviews.items()):
        figure = Figure(figsize=SPECTROGRAM, dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_spectrogram(axes, overview, ceiling, band)
        axes.set_axis_off()
        files[name] = folder / f"spectrogram-{number}.png"
        figure.savefig(files[name])
    return files


def shades(number: int) -> list[str]:
    """Colours from dark to light, which can be distinguished without seeing colours, as "#rrggbb"."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](position)) for position in np.linspace(0.1, 0.92, number)]


def _svg(content: str, width: int) -> str:
    """An SVG that fills its container; it is described by the text around it."""
    box = f'viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none"'
    return f'<svg {box} aria-hidden="true" focusable="false">{content}</svg>'

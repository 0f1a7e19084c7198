# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the page: waveforms and use of the experts as SVG, spectrograms as PNG without axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..plotting.experts import columns_of
from ..plotting.overview import Overview
from ..plotting.spectrograms import draw_spectrograms

COLUMNS = 500  # of a waveform, more than a page shows
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
    columns = columns_of(use)
    edges = np.minimum(np.arange(len(columns.values) + 1) * columns.step, columns.items)
    tops = np.cumsum(columns.values / columns.counts[:, None], axis=1)  # (columns, N)
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

    figures = [Figure(figsize=SPECTROGRAM, dpi=DPI) for _ in overviews]
    panels = [figure.add_axes((0, 0, 1, 1)) for figure in figures]
    draw_spectrograms(panels, list(overviews.values()), band)
    files = {name: folder / f"spectrogram-{number}.png" for number, name in enumerate(overviews)}
    for figure, axes, file in zip(figures, panels, files.values(), strict=True):
        axes.set_axis_off()
        figure.savefig(file)
    return files


def _svg(content: str, width: int) -> str:
    """An SVG that fills its container; it is described by the text around it."""
    box = f'viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none"'
    return f'<svg {box} aria-hidden="true" focusable="false">{content}</svg>'

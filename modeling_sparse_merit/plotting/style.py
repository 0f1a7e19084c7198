# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What all pictures share: colours, sizes, and how they are written."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import import_extra
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish (https://jfly.uni-koeln.de/color), without
# yellow, which is invisible on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
GREY = "#606060"
DPI = 160
"""Pixels per inch. Figures are about 11 inches wide, so that text is readable when they are shown at half size."""


def new_figure(width: float, height: float, title: str | None = None) -> "Figure":
    """Creates an empty figure, apart from pyplot.

    Args:
        width, height: size in inches.
        title: heading of the figure; mathematical markup is not interpreted.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    import_extra("matplotlib", "demo")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    if title is not None:
        figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Writes a PNG atomically. Equal figures give equal files.

    Args:
        figure: the figure.
        path: path of the file.
    """
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi="figure")


def line_looks(names: Sequence[str], unprocessed: str = "noisy") -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each system, the same in every figure: dotted grey for the unprocessed speech,
    then a colour, a marker and a line style for each system. Where colours repeat, markers and line styles are others.

    Args:
        names: the systems, in the order of the report.
        unprocessed: the name of the unprocessed speech, whether it is among the names or not.
    """
    others = [name for name in names if name != unprocessed]
    looks = {
        name: {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[(index + 2 * (index // len(COLOURS))) % len(MARKERS)],
            "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        }
        for index, name in enumerate(others)
    }
    return {unprocessed: {"color": GREY, "marker": ".", "linestyle": ":"}, **looks}


def plain_shades(number: int) -> list[tuple[float, float, float, float]]:
    """Colours from dark to light, which can be distinguished without seeing colours."""
    from matplotlib import colormaps

    return [colormaps["viridis"](position) for position in np.linspace(0.05, 0.8, number)]


def open_frame(axes: "Axes") -> None:
    """Removes the upper and the right border."""
    axes.spines[["top", "right"]].set_visible(False)

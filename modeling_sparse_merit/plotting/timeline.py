# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotions over time as coloured spans, and time axes for seconds and hours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from .style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Segment = Mapping[str, Any]
"""A segment of a pipeline: `start` and `end` in seconds, and `emotion`, None if it is unsure."""
Span = tuple[float, float, str]
"""Start and end in seconds, and the emotion, or "unsure"."""
# Paul Tol's "muted" colours, which colour-blind readers can distinguish (https://sronpersonalpages.nl/~pault)
COLOURS = {
    "ang": "#cc6677",
    "sad": "#332288",
    "hap": "#ddcc77",
    "neu": "#88ccee",
    "fea": "#aa4499",
    "dis": "#117733",
    "sur": "#44aa99",
    "cal": "#999933",
    "con": "#882255",
}
"""Colour of each usual emotion, by its first three letters."""
OTHER_COLOURS = ("#ee7733", "#0077bb", "#bbcc33", "#ee3377", "#663333", "#555555")
UNSURE, UNSURE_COLOUR = "unsure", "#dddddd"
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400)
MOST_STEPS = 9
LONG = 120  # seconds; longer recordings have minutes on their axis
MANY = 120  # maximum number of spans that are drawn one by one
BINS = 100  # number of bars for a recording with many spans
MARGIN = 8  # pixels around the name of an emotion in its span


def plot_timeline(
    segments: Sequence[Segment], seconds: float, labels: Iterable[str] = (), title: str | None = None
) -> "Figure":
    """Draws the emotions over the time of a recording.

    Args:
        segments: segments in temporal order, as `pipe.emotion_timeline(recording)` returns them.
        seconds: length of the recording.
        labels: all emotions of the model; they keep their colours in all pictures if they are given.
        title: heading of the figure.

    Raises:
        ImportError: matplotlib is not installed.

    Usage:
        >>> segments = [{"start": 0.5, "end": 2.0, "emotion": "sad"}, {"start": 2.6, "end": 4.0, "emotion": None}]
        >>> figure = plot_timeline(segments, 5.0, title="call.wav")
    """
    figure = new_figure(11, 1.6, title)
    axes = figure.subplots()
    axes.set(ylim=(0, 1), yticks=[], ylabel="emotion")
    draw_time(axes, seconds)
    draw_timeline(axes, segments, labels)
    return figure


def emotion_colours(labels: Iterable[str]) -> dict[str, str]:
    """Colour of each label: the same in all figures, unless unusual emotions would get equal colours."""
    names = sorted(set(labels) - {UNSURE})
    colours = {name: COLOURS[name.lower()[:3]] for name in names if name.lower()[:3] in COLOURS}
    for name in names:
        if name not in colours:
            first = crc32(name.encode()) % len(OTHER_COLOURS)
            order = OTHER_COLOURS[first:] + OTHER_COLOURS[:first]
            colours[name] = next((colour for colour in order if colour not in colours.values()), order[0])
    return {**colours, UNSURE: UNSURE_COLOUR}


def merged_spans(segments: Iterable[Segment], gap: float) -> list[Span]:
    """Merges adjacent segments with the same emotion into spans.

    Args:
        segments: segments in temporal order.
        gap: merge spans that are less than this apart, in seconds.
    """
    spans: list[Span] = []
    for segment in segments:
        start, end, emotion = segment["start"], segment["end"], segment["emotion"] or UNSURE
        if spans and spans[-1][2] == emotion and start - spans[-1][1] < gap:
            start = spans.pop()[0]
        spans.append((start, end, emotion))
    return spans


def draw_timeline(axes: "Axes", segments: Sequence[Segment], labels: Iterable[str]) -> None:
    """Draws each segment as a span in the colour of its emotion; unsure segments are grey, and pauses are empty.

    With more than 120 spans, each hundredth of the recording is a bar with the shares of the emotions instead. Draw
    everything else first: the width of the axes determines which names fit into their spans. A legend below the figure
    explains emotions whose name does not fit.

    Args:
        axes: the axes; its limits are those of the recording, in seconds.
        segments: segments in temporal order.
        labels: all emotions of the model.
    """
    figure: Any = axes.figure  # no subfigure
    figure.draw_without_rendering()  # lays the figure out
    pixel = (axes.get_xlim()[1] - axes.get_xlim()[0]) / axes.get_window_extent().width
    spans = merged_spans(segments, gap=2 * pixel)
    emotions = {emotion for *_, emotion in spans}
    colours = emotion_colours({*labels, *emotions})
    if len(spans) > MANY:
        _draw_shares(axes, spans, colours)
        _draw_legend(figure, {emotion: colours[emotion] for emotion in colours if emotion in emotions})
        return
    for emotion in sorted(emotions):
        ranges = [(start, end - start) for start, end, name in spans if name == emotion]
        axes.broken_barh(ranges, (0, 1), facecolors=colours[emotion], linewidth=0)
    unnamed = _draw_names(axes, spans, colours, pixel)
    if unnamed:
        _draw_legend(figure, {emotion: colours[emotion] for emotion in colours if emotion in emotions})


def shares_of_time(spans: Sequence[Span], seconds: float, bins: int = BINS) -> dict[str, np.ndarray]:
    """The share of each emotion in equal parts of a recording; the rest are pauses.

    Args:
        spans: spans in temporal order.
        seconds: length of the recording.
        bins: number of parts.

    Returns:
        `{emotion: (bins,)}`.
    """
    edges = np.linspace(0, seconds, bins + 1)
    shares = {emotion: np.zeros(bins) for emotion in sorted({emotion for *_, emotion in spans})}
    for start, end, emotion in spans:
        shares[emotion] += (np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])).clip(0)
    return {emotion: values * bins / seconds for emotion, values in shares.items()}


def _draw_shares(axes: "Axes", spans: Sequence[Span], colours: dict[str, str]) -> None:
    seconds = axes.get_xlim()[1]
    starts, bottom = np.arange(BINS) * seconds / BINS, np.zeros(BINS)
    for emotion, shares in shares_of_time(spans, seconds).items():
        axes.bar(starts, shares, seconds / BINS, bottom, align="edge", color=colours[emotion], linewidth=0)
        bottom += shares


def _draw_names(axes: "Axes", spans: Sequence[Span], colours: dict[str, str], pixel: float) -> bool:
    """Writes names into the spans that are wide enough; returns whether any span is too narrow."""
    widths = {emotion: _width(axes, emotion) + MARGIN for *_, emotion in spans}
    wide = [span for span in spans if span[1] - span[0] >= pixel * widths[span[2]]]
    for start, end, emotion in wide:
        name = axes.text((start + end) / 2, 0.5, emotion, **_style(colours[emotion]))
        name.set(in_layout=False, clip_on=True)
    return len(wide) < len(spans)


def _width(axes: "Axes", text: str) -> float:
    """Width of a text in the axes, in pixels."""
    drawn = axes.text(0, 0, text, **_style(UNSURE_COLOUR))
    width = drawn.get_window_extent().width
    drawn.remove()
    return width


def _style(background: str) -> dict[str, Any]:
    """Properties of a text that is readable on a colour; mathematical markup is not interpreted."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(background)
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    colour = "white" if is_dark else "black"
    return {"color": colour, "fontsize": 9, "ha": "center", "va": "center", "parse_math": False}


def _draw_legend(figure: "Figure", colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour) for colour in colours.values()]
    legend = figure.legend(patches, list(colours), loc="outside lower center", ncols=min(len(colours), 10))
    legend.get_frame().set_linewidth(0)
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_time(axes: "Axes", seconds: float) -> None:
    """Labels a time axis in seconds or, for long recordings, as m:ss or h:mm:ss.

    Args:
        axes: the axes to label.
        seconds: end of the axis, which starts at 0.
    """
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(0, seconds)
    axes.set_xlabel("Time (s)")
    if seconds > LONG:
        step = next((step for step in STEPS if seconds / step <= MOST_STEPS), seconds / MOST_STEPS)
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value, seconds >= 3_600)))
        axes.set_xlabel("Time (h:mm:ss)" if seconds >= 3_600 else "Time (m:ss)")


def clock(seconds: float, with_hours: bool) -> str:
    """Formats a time as h:mm:ss or m:ss.

    Args:
        seconds: the time.
        with_hours: use h:mm:ss.
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if with_hours else f"{minutes}:{rest:02}"

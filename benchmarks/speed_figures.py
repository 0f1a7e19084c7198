# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Time and memory against length, batch size and experts, as pictures."""

from pathlib import Path
from typing import Any

STYLES = {"published": ("black", "--"), "fp32": ("C0", "-"), "bf16": ("C1", "-"), "int8": ("C2", "-")}


def draw_curves(results: dict[str, Any], folder: Path) -> None:
    """Writes length.png (time and memory), batch.png and experts.png."""
    import matplotlib

    matplotlib.use("Agg")
    for name, draw in {"length": _draw_length, "batch": _draw_batch, "experts": _draw_experts}.items():
        figure = draw(results)
        figure.savefig(folder / f"{name}.png", dpi=120)


def _draw_length(results: dict[str, Any]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    where = "device" if results["machine"]["device"] != "cpu" else "working"
    layouts = {"WavLM-Large layout": results["lengths"], "4 layers of 256": results["curves"]["length"]}
    for column, (title, rows) in enumerate(layouts.items()):
        for row, (quantity, label) in enumerate({"time": "seconds to compute", "memory": "peak memory (MiB)"}.items()):
            panel = axes[row, column]
            for side in dict.fromkeys(each["side"] for each in rows):
                points = [each for each in rows if each["side"] == side]
                values = [each["memory"][where] if quantity == "memory" else each["time"] for each in points]
                _line(panel, side, [each["seconds"] for each in points], values)
            panel.set(xscale="log", yscale="log", xlabel="seconds of audio", ylabel=label, title=title)
            panel.legend()
            panel.grid(alpha=0.3, which="both")
    return figure


def _draw_batch(results: dict[str, Any]) -> Any:
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    rows = results["curves"]["batch"]
    for side in dict.fromkeys(each["side"] for each in rows):
        points = [each for each in rows if each["side"] == side]
        _line(panel, side, [each["batch"] for each in points], [each["time"] / each["batch"] for each in points])
    panel.set(xlabel="clips of 4 s in a batch", ylabel="seconds a clip", title="4 layers of 256", ylim=(0, None))
    panel.legend()
    panel.grid(alpha=0.3)
    return figure


def _draw_experts(results: dict[str, Any]) -> Any:
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    rows = results["experts"]
    for side in ("published", "fp32"):
        _line(panel, side, [row["experts"] for row in rows], [row[side] for row in rows])
    panel.set(xlabel="experts", ylabel="seconds, expert part of 10 s", title="WavLM-Large layout", ylim=(0, None))
    panel.legend()
    panel.grid(alpha=0.3)
    return figure


def _line(panel: Any, side: str, places: list[float], values: list[float]) -> None:
    color, style = STYLES.get(side, ("C4", ":"))
    panel.plot(places, values, style, color=color, marker="o", label=side)

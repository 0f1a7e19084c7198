# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Figures of a report: scores against SNR, confusion matrices, and use of the experts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import import_extra
from ..metrics import SCORE_TITLES
from ..plotting import plot_confusion, plot_expert_shares, plot_robustness
from ..plotting.evaluation import Points
from ..plotting.style import save_figure
from .markdown import condition_score, list_measures, of_transmission

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(folder: str | os.PathLike, report: dict[str, Any], rows: dict[str, list[list[dict]]]) -> list[Path]:
    """Draws all figures of a report, for the conditions without transmission.

    Args:
        folder: folder of the PNG files.
        report: from `build_report`.
        rows: `{system: [rows of all conditions of each member]}`; expert use is that of the first member.

    Returns:
        The paths, in the order of the report.

    Raises:
        ImportError: matplotlib is not installed; the error names the extra that contains it.
    """
    import_extra("matplotlib", "demo")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    for measure in list_measures(report):
        if curves := score_curves(report, measure):
            figures[measure] = plot_robustness(curves, SCORE_TITLES[measure])
    for system, result in report["results"].items():
        if matrices := confusions(of_transmission(result, None)):
            figures[f"confusion_{system}"] = plot_confusion(matrices, report["labels"], system)
    for system, members in rows.items():
        shown = [row for row in members[0] if row.get("transmission") is None]
        if shown and expert_columns(shown):
            seed = f" (first of {len(members)} seeds)" if len(members) > 1 else ""
            title = f"{system}{seed}: share of the frames that each expert gets"
            figures[f"experts_{system}"] = plot_expert_shares(expert_shares(shown, report["labels"]), title)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def score_curves(report: dict[str, Any], measure: str) -> dict[str, dict[str | None, Points]]:
    """A score of each system against SNR with its 95 % intervals over clips, as `plot_robustness` draws it.

    Conditions with transmission and systems without noisy conditions are left out. Macro-F1 has a point for clean
    speech; speech measures of clean speech are on another scale and left out.

    Args:
        report: from `build_report`, or read from `results.json`.
        measure: "macro_f1" or a speech measure.
    """
    curves: dict[str, dict[str | None, dict]] = {}
    for system, result in report["results"].items():
        curve: dict[str | None, dict] = {}
        for summary in of_transmission(result, None):
            score, pool = condition_score(summary, measure), summary["pool"]
            if score and (measure == "macro_f1" or pool is not None):
                bounds = score["interval"] or [np.nan, np.nan]
                curve.setdefault(pool, {})[summary["snr_db"]] = (score["mean"], *bounds)
        if set(curve) - {None}:
            curves[system] = curve
    return curves


def confusions(conditions: Sequence[dict[str, Any]]) -> list[dict[str, list[list[int]]]]:
    """Confusion matrices, as `plot_confusion` draws them: a row per pool by SNR, with clean speech last in the first.

    Args:
        conditions: entries of `report["results"][system]["conditions"]`.
    """
    conditions = [summary for summary in conditions if summary["emotion"]]
    clean = [summary["emotion"]["confusion"] for summary in conditions if summary["pool"] is None]
    rows: dict[str, dict[str, list[list[int]]]] = {}
    noisy = [summary for summary in conditions if summary["pool"] is not None]
    for summary in sorted(noisy, key=lambda summary: summary["snr_db"]):
        name = f"{summary['pool']}, {summary['snr_db']:g} dB"
        rows.setdefault(summary["pool"], {})[name] = summary["emotion"]["confusion"]
    first, *others = [rows[pool] for pool in dict.fromkeys(summary["pool"] for summary in noisy)] or [{}]
    if clean:
        first = first | {"clean": clean[0]}
    return [row for row in (first, *others) if row]


def expert_columns(rows: list[dict]) -> dict[str, list[str]]:
    """`{task: names of its columns of expert shares}`; empty without a sparse router."""
    columns: dict[str, list[str]] = {}
    for name in rows[0]:
        if name.startswith("expert_") and rows[0][name] is not None:
            columns.setdefault(name.removeprefix("expert_").rpartition("_")[0], []).append(name)
    return columns


def expert_shares(rows: list[dict], labels: Sequence[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The share of frames routed to each expert, as `plot_expert_shares` draws it: a panel for each pool by SNR, and
    one by emotion over all conditions. Each clip is weighted by its frames.

    Args:
        rows: rows of one member in all conditions; experts of different trainings are unrelated.
        labels: the emotions, in the order of the bars.
    """
    clean = [row for row in rows if row["pool"] is None]
    groups: dict[str, dict[str, list[dict]]] = {}
    for pool in dict.fromkeys(row["pool"] for row in rows if row["pool"] is not None):
        inside = [row for row in rows if row["pool"] == pool]
        levels = sorted({row["snr_db"] for row in inside})
        bars = {f"{level:g}": [row for row in inside if row["snr_db"] == level] for level in levels}
        groups[f"{pool}, SNR (dB)"] = bars | {"clean": clean}
    groups["emotion"] = {label: [row for row in rows if row["emotion"] == label] for label in labels}
    return {
        panel: {
            task: {name: _mean_shares(clips, columns) for name, clips in bars.items() if clips}
            for task, columns in expert_columns(rows).items()
        }
        for panel, bars in groups.items()
    }


def _mean_shares(rows: list[dict], columns: Sequence[str]) -> list[float]:
    frames = [row["frames"] for row in rows]
    return [float(np.average([row[column] for row in rows], weights=frames)) for column in columns]

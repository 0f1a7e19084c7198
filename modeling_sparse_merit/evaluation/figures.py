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
from ..plotting.style import save_figure
from .markdown import condition_score, list_measures, of_transmission

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, dict[str | None, dict[float | None, tuple[float, ...]]]]
"""{system: {noise pool: {SNR in dB: (mean, low, high)}}}, as `plot_robustness` takes them."""


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
        curves = score_curves(report, measure)
        if any(curves.values()):
            figures[measure] = plot_robustness(curves, SCORE_TITLES[measure])
    for system in report["results"]:
        if matrices := confusions(report, system):
            figures[f"confusion_{system}"] = plot_confusion(
                matrices, report["results"][system].get("labels") or report["labels"], system
            )
    for system, members in rows.items():
        shown = [row for row in members[0] if row.get("transmission") is None]
        if shown and (panels := expert_shares(shown, report["labels"])):
            seed = f" (first of {len(members)} seeds)" if len(members) > 1 else ""
            title = f"{system}{seed}: share of the frames that each expert gets"
            figures[f"experts_{system}"] = plot_expert_shares(panels, title)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def draw_conversation_figures(folder: str | os.PathLike, report: dict[str, Any]) -> list[Path]:
    """Draws the confusion matrix of each system, and the weights of its gate by class and by place in the dialogue.

    Args:
        folder: folder of the PNG files.
        report: from `evaluate_conversations`.

    Returns:
        The paths.

    Raises:
        ImportError: matplotlib is not installed; the error names the extra that contains it.
    """
    import_extra("matplotlib", "demo")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for system, result in report["results"].items():
        (condition,) = result["conditions"]
        figures = {
            "confusion": plot_confusion({"": {"": condition["emotion"]["confusion"]}}, report["labels"], system)
        }
        gate = condition["gate"]
        if len(gate["experts"]) > 1:
            panels = {"true class": {"gate": gate["by_class"]}, "place in the dialogue": {"gate": gate["by_place"]}}
            title = f"{system}: weights of the experts"
            figures["gate"] = plot_expert_shares(panels, title, gate["experts"], "mean weight")
        for name, figure in figures.items():
            paths.append(folder / f"{name}_{system}.png")
            save_figure(figure, paths[-1])
    return paths


def score_curves(report: dict[str, Any], measure: str) -> Curves:
    """A score of each system against SNR with its 95 % intervals over clips, as `plot_robustness` draws it.

    Conditions with transmission are left out; systems without noisy conditions have no points. Macro-F1 has a point
    for clean speech; speech measures of clean speech are on another scale and left out.

    Args:
        report: from `build_report`, or read from `results.json`.
        measure: "macro_f1" or a speech measure.
    """
    curves: Curves = {}
    for system, result in report["results"].items():
        curve: dict[str | None, dict[float | None, tuple[float, ...]]] = {}
        for summary in of_transmission(result, None):
            score, pool = condition_score(summary, measure), summary["pool"]
            if score and (measure == "macro_f1" or pool is not None):
                bounds = score["interval"] or [np.nan, np.nan]
                curve.setdefault(pool, {})[summary["snr_db"]] = (score["mean"], *bounds)
        curves[system] = curve if set(curve) - {None} else {}
    return curves


def confusions(report: dict[str, Any], system: str) -> dict[str, dict[str, list[list[int]]]]:
    """Confusion matrices of a system, as `plot_confusion` draws them: a row per pool, by SNR, with clean speech at the
    end of the first. Conditions with transmission are left out.

    Args:
        report: from `build_report`, or read from `results.json`.
        system: name of the system.
    """
    counts = {
        (summary["pool"], summary["snr_db"]): summary["emotion"]["confusion"]
        for summary in of_transmission(report["results"][system], None)
        if summary["emotion"]
    }
    clean = counts.pop((None, None), None)
    rows: dict[str, dict[str, list[list[int]]]] = {pool: {} for pool, _ in counts}
    for pool, level in sorted(counts, key=lambda condition: condition[1]):
        rows[pool][f"{level:g} dB"] = counts[pool, level]
    if clean is not None:
        rows.setdefault(next(iter(rows), ""), {})["clean"] = clean
    return rows


def expert_columns(rows: list[dict]) -> dict[str, list[str]]:
    """`{task: names of its columns of expert shares}`; empty without a sparse router."""
    columns: dict[str, list[str]] = {}
    for name in rows[0]:
        if name.startswith("expert_") and rows[0][name] is not None:
            columns.setdefault(name.removeprefix("expert_").rpartition("_")[0], []).append(name)
    return columns


def expert_shares(rows: list[dict], labels: Sequence[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The share of frames routed to each expert, as `plot_expert_shares` draws it: a panel for each pool by SNR, and
    one by emotion over all conditions. Each clip is weighted by its frames. A panel without clips is left out.

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
    shown = {panel: {name: clips for name, clips in bars.items() if clips} for panel, bars in groups.items()}
    tasks = expert_columns(rows)
    return {
        panel: {
            task: {name: _mean_shares(clips, columns) for name, clips in bars.items()}
            for task, columns in tasks.items()
        }
        for panel, bars in shown.items()
        if bars and tasks
    }


def _mean_shares(rows: list[dict], columns: Sequence[str]) -> list[float]:
    frames = [row["frames"] for row in rows]
    return [float(np.average([row[column] for row in rows], weights=frames)) for column in columns]

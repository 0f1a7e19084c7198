# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""From per-clip rows to a report: means with 95 % bootstrap intervals over clips, as strict JSON and as a readable
table. Intervals say how the scores vary with the choice of clips, not of speakers."""

import json
import math
import os
import warnings
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..metrics import SPEECH_MEASURES, UndefinedScoreWarning, confusion
from ..metrics.emotion import defined_mean, f1_from_confusion, recall_from_confusion
from .conditions import Condition
from .configuration import EvaluationConfig

SIDES = ("noisy", "enhanced")
TITLES = {"pesq_wb": "PESQ-WB", "stoi": "STOI", "segmental_snr": "segmental SNR (dB)", "si_sdr": "SI-SDR (dB)"}


def summarise_condition(rows: list[dict], condition: Condition, labels: list[str], config: EvaluationConfig) -> dict:
    """Scores of one condition from its per-clip rows; None where a system has no such task or nothing is defined."""
    bootstrap = Bootstrap(config.seed, config.bootstrap_resamples)
    labelled = [row for row in rows if row["emotion"] is not None and row["predicted"] is not None]
    summary = {
        "condition": condition.name,
        "pool": condition.pool,
        "snr_db": condition.snr_db,
        "clips": len(rows),
        "emotion": summarise_emotion(labelled, labels, bootstrap) if labelled else None,
        "enhancement": {name: summarise_measure(rows, name, bootstrap) for name in SPEECH_MEASURES},
        "expert_use": summarise_expert_use(rows),
    }
    _warn_of_undefined(summary)
    return summary


class Bootstrap:
    """Percentile bootstrap over clips.

    Args:
        seed: of the resamples, the same ones for every statistic over the same number of clips.
        resamples: how many.
    """

    def __init__(self, seed: int, resamples: int):
        self.seed, self.resamples = seed, resamples

    def interval(self, num_clips: int, statistic: Callable[[np.ndarray], float]) -> list[float] | None:
        """The central 95 % of `statistic(chosen)`, chosen being indices of clips (num_clips,) drawn with replacement;
        None for fewer than two clips, or where nothing is defined."""
        if num_clips < 2:
            return None
        generator = np.random.default_rng(self.seed)
        draws = [statistic(generator.integers(num_clips, size=num_clips)) for _ in range(self.resamples)]
        return np.nanquantile(draws, [0.025, 0.975]).tolist() if np.isfinite(draws).any() else None


def summarise_emotion(rows: list[dict], labels: list[str], bootstrap: Bootstrap) -> dict:
    """macro-F1, UAR, F1 of each class, each with its interval, accuracy and the confusion counts of labelled rows."""
    counts = confusion([row["emotion"] for row in rows], [row["predicted"] for row in rows], labels)
    position = {label: index for index, label in enumerate(labels)}
    # a clip is one cell of the confusion matrix, so a resample is a count of cells
    cells = np.array([position[row["emotion"]] * len(labels) + position[row["predicted"]] for row in rows])  # (clips,)

    def resampled(
        score: Callable[[np.ndarray], np.ndarray], chosen: Callable[[np.ndarray], float] = defined_mean
    ) -> Callable[[np.ndarray], float]:
        shape = (len(labels), len(labels))
        return lambda clips: chosen(score(np.bincount(cells[clips], minlength=counts.size).reshape(shape)))

    return {
        "clips": len(rows),
        "macro_f1": float(defined_mean(f1_from_confusion(counts))),
        "macro_f1_interval": bootstrap.interval(len(rows), resampled(f1_from_confusion)),
        "unweighted_average_recall": float(defined_mean(recall_from_confusion(counts))),
        "unweighted_average_recall_interval": bootstrap.interval(len(rows), resampled(recall_from_confusion)),
        "accuracy": float(np.trace(counts) / counts.sum()),
        "per_class_f1": dict(zip(labels, f1_from_confusion(counts).tolist(), strict=True)),
        "per_class_f1_interval": {
            label: bootstrap.interval(len(rows), resampled(f1_from_confusion, itemgetter(index)))
            for index, label in enumerate(labels)
        },
        "confusion": counts.tolist(),
    }


def summarise_measure(rows: list[dict], name: str, bootstrap: Bootstrap) -> dict[str, dict | None]:
    """One speech measure: of the input, of the output, and the gain over clips where both are defined."""
    scores = {side: np.array([row[f"{side}_{name}"] for row in rows], dtype=float) for side in SIDES}  # each (clips,)
    measured = {side: any(row[f"{side}_{name}"] is not None for row in rows) for side in SIDES}
    summary = {side: _mean_of(scores[side], bootstrap) if measured[side] else None for side in SIDES}
    gain = _mean_of(scores["enhanced"] - scores["noisy"], bootstrap) if all(measured.values()) else None
    return {**summary, "difference": gain}


def _mean_of(scores: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    defined = scores[np.isfinite(scores)]
    return {
        "mean": float(defined.mean()) if len(defined) else None,
        "interval": bootstrap.interval(len(defined), lambda clips: defined[clips].mean()),
        "clips": len(defined),
        "undefined": len(scores) - len(defined),
    }


def summarise_expert_use(rows: list[dict]) -> dict[str, list[float]] | None:
    """Share of all frames that went to each expert, `{task: (experts,)}`; None without a sparse router."""
    columns = [name for name in rows[0] if name.startswith("expert_")]
    frames = np.array([row["frames"] for row in rows])  # (clips,)
    use: dict[str, list[float]] = {}
    for column in columns:
        task = column.removeprefix("expert_").rpartition("_")[0]
        shares = np.array([row[column] for row in rows])  # (clips,)
        use.setdefault(task, []).append(float(shares @ frames / frames.sum()))
    return use or None


def _warn_of_undefined(summary: dict):
    found = [
        f"{TITLES[name]} of {measure[side]['undefined']} {side} clips"
        for name, measure in summary["enhancement"].items()
        for side in SIDES
        if measure[side] and measure[side]["undefined"]
    ]
    if found:
        reason = f"undefined and left out of the means: {', '.join(found)} (of {summary['clips']})."
        warnings.warn(f"{summary['condition']}: {reason}", UndefinedScoreWarning, stacklevel=3)


def write_json(path: Path, report: dict):
    """Strict JSON (NaN and infinities become null), complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(_strict(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_report(report: dict, console: Console | None = None):
    """A table to read: a row for each condition, speech measures as input → output."""
    model, clips = report["model"]["name"], report["clips"]
    table = Table(title=f"{model}: {clips['evaluated']} clips of {clips['speakers']} speakers, input → output")
    table.add_column("condition")
    for heading in ("macro-F1 [95 %]", "UAR", *TITLES.values()):
        table.add_column(heading, justify="right")
    for summary in report["conditions"]:
        cells = [_arrow(summary["enhancement"][name]) for name in TITLES]
        table.add_row(summary["condition"], *_emotion_cells(summary["emotion"]), *cells)
    (console or Console()).print(table)


def _emotion_cells(emotion: dict | None) -> tuple[str, str]:
    if emotion is None:
        return "–", "–"
    interval = emotion["macro_f1_interval"]
    spread = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{emotion['macro_f1']:.3f}{spread}", f"{emotion['unweighted_average_recall']:.3f}"


def _arrow(measure: dict[str, dict | None]) -> str:
    means = [measure[side] and measure[side]["mean"] for side in SIDES]
    return " → ".join("–" if mean is None else f"{mean:.2f}" for mean in means)

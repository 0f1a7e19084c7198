# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores of systems with several seeds on the same clips, their intervals, and differences from a baseline."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.wild.text_baselines import f1
from modeling_sparse_merit.evaluation.statistics import (
    Comparison,
    Resampling,
    Score,
    compare_ccc,
    compare_f1,
    holm,
    resampled_score,
)
from modeling_sparse_merit.evaluation.task_scores import Statistic, concordance
from modeling_sparse_merit.models.sparse_merit.tasks import ClassificationTask, RegressionTask, Task

RESAMPLES, SEED = 1_000, 0
AVERAGES = ("macro", "weighted")


@dataclass(frozen=True)
class Predictions:
    """
    Targets and predictions of one task for all test clips.

    Attributes:
        task: the task.
        true: classes (clips,), or ratings (clips, K).
        predicted: the same.
        units: what is drawn together, of each clip; None for nothing.
    """

    task: Task
    true: np.ndarray
    predicted: np.ndarray
    units: list[str] | list[None]


def score_systems(systems: Mapping[str, Sequence[Predictions]], baseline: str) -> dict[str, Any]:
    """
    Scores of all systems and their comparisons with the baseline.

    Args:
        systems: predictions of each seed, by system; all for the same clips.
        baseline: the system that all others are compared with.

    Returns:
        {"systems": {system: {score: {"mean", "interval", "speaker_interval", "seeds"}}},
        "comparisons": [{"system", "measure", "difference", ..., "p_holm"}]}.
    """
    first = systems[baseline][0]
    resampling = Resampling(first.units, RESAMPLES, SEED)
    scores = {name: _scores(members, resampling, _stream(name)) for name, members in systems.items()}
    comparisons = [
        {"system": name, "measure": measure, **comparison.describe()}
        for name in systems
        if name != baseline
        for measure, comparison in _comparisons(systems, scores, (name, baseline), resampling).items()
    ]
    for measure in {entry["measure"] for entry in comparisons}:
        family = [entry for entry in comparisons if entry["measure"] == measure]
        for name in ("p", "speaker_p"):
            for entry, adjusted in zip(family, holm([entry[name] for entry in family]), strict=True):
                entry[f"{name}_holm"] = adjusted
    described = {name: {measure: score.describe() for measure, score in own.items()} for name, own in scores.items()}
    return {"clips": len(first.true), "baseline": baseline, "systems": described, "comparisons": comparisons}


def _stream(name: str) -> int:
    return zlib.crc32(name.encode())


def _scores(members: Sequence[Predictions], resampling: Resampling, stream: int) -> dict[str, Score]:
    first = members[0]
    predicted = np.stack([member.predicted for member in members])  # (members, clips) or (members, clips, K)
    statistics: dict[str, Statistic]
    if isinstance(first.task, RegressionTask):
        statistics = {
            f"ccc_{rating}": concordance(first.true[:, place], predicted[..., place])
            for place, rating in enumerate(first.task.outputs)
        }
    else:
        statistics = {
            f"{average}_f1": _of_members([partial(f1, first.true, values, average) for values in predicted])
            for average in AVERAGES
        }
    return {
        name: resampled_score(statistic, len(first.true), len(members), resampling, stream)
        for name, statistic in statistics.items()
    }


def _of_members(functions: Sequence[Any]) -> Any:
    """One function of counts for all members: (resamples, clips) -> (resamples, members)."""
    return lambda counts: np.stack([function(counts) for function in functions], axis=-1)


def _comparisons(
    systems: Mapping[str, Sequence[Predictions]],
    scores: Mapping[str, Mapping[str, Score]],
    names: tuple[str, str],
    resampling: Resampling,
) -> dict[str, Comparison]:
    """Comparisons of two systems by CCC, or by macro and weighted F1."""
    first = systems[names[0]][0]
    ours, baseline = (np.stack([member.predicted for member in systems[name]]) for name in names)
    if isinstance(first.task, ClassificationTask):
        classes = len(first.task.labels or ()) or int(first.true.max()) + 1
        return {
            f"{average}_f1": compare_f1(
                first.true,
                ours,
                baseline,
                classes,
                average,
                (scores[names[0]][f"{average}_f1"], scores[names[1]][f"{average}_f1"]),
                resampling,
            )
            for average in AVERAGES
        }
    comparisons = {}
    for place, measure in enumerate(scores[names[0]]):
        pair = (scores[names[0]][measure], scores[names[1]][measure])
        values = (first.true[:, place], ours[..., place], baseline[..., place])
        comparisons[measure] = compare_ccc(*values, pair, resampling)
    return comparisons


def scores_as_markdown(name: str, result: dict[str, Any]) -> str:
    """
    The results as Markdown.

    Args:
        name: of the folder of systems.
        result: `score_systems` with `command`, `commit` and `seeds`.
    """
    measures = list(next(iter(result["systems"].values())))
    lines = [
        f"# Speech and text: {name}",
        "",
        f"`{result['command']}`, commit {result['commit']}, {result['seeds']} seeds, {result['clips']} test clips. "
        "Means over the seeds, 95 % bootstrap intervals over clips; in parentheses the lowest and the highest seed.",
        "",
        f"| system | {' | '.join(measures)} |",
        "|---" * (len(measures) + 1) + "|",
    ]
    for system, scores in result["systems"].items():
        lines.append(f"| {system} | {' | '.join(_cell(scores[measure]) for measure in measures)} |")
    lines += [
        "",
        f"Differences from `{result['baseline']}`, with p-values of paired permutation tests over clips and over "
        "speakers or dialogues, corrected by Holm:",
        "",
        "| system | measure | difference | p (Holm) | p over speakers (Holm) |",
        "|---|---|---|---|---|",
    ]
    for entry in result["comparisons"]:
        low, high = entry["difference_interval"]
        p_values = " | ".join(
            "–" if entry[key] is None else f"{entry[key]:.4f}" for key in ("p_holm", "speaker_p_holm")
        )
        shown = f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {entry['system']} | {entry['measure']} | {shown} | {p_values} |")
    return "\n".join(lines)


def _cell(score: dict[str, Any]) -> str:
    low, high = score["interval"]
    seeds = score["seeds"]
    spread = f" ({seeds['min']:.3f} to {seeds['max']:.3f})" if seeds else ""
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]{spread}"

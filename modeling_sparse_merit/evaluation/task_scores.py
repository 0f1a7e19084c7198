# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores, with intervals, of the tasks without their own section in the report: classifications, regressions and
embeddings of the registry."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..metrics.emotion import accuracy_from_confusion, defined_mean, f1_from_confusion, recall_from_confusion
from ..metrics.verification import equal_error_rate, min_dcf
from ..models.sparse_merit.tasks import ClassificationTask, RegressionTask, Task
from .statistics import (
    Comparison,
    Resampling,
    Score,
    compare_ccc,
    confusion_cells,
    resampled_confusion,
    resampled_score,
)

PREFIX = "predicted_"
"""Prefix of the columns of per-clip results with a task's prediction: a class, ratings or an embedding."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps counts of clips (resamples, clips) to scores of members (resamples, members)."""


def task_scores(
    members: Sequence[Sequence[dict[str, Any]]], tasks: Mapping[str, Task], resampling: Resampling, stream: int
) -> dict[str, dict[str, Any]]:
    """
    Scores of the further tasks of one system in one condition.

    Args:
        members: the rows of each member of a system in one condition, for the same clips in the same order.
        tasks: the further tasks of all systems, by name.
        resampling: resamples of these clips.
        stream: see `Resampling.member_weights`.

    Returns:
        {task: {"clips": with a target, score: {"mean", "interval", "speaker_interval", "seeds"}}}, with the scores
        "macro_f1", "uar" and "accuracy", "ccc_RATING" and "mae_RATING", or "eer" and "min_dcf". Tasks without targets
        are left out.
    """
    by_task, clips = {}, members[0]
    for name, task in tasks.items():
        num_clips = sum(_has_target(task, row) for row in clips)
        if num_clips and f"{PREFIX}{name}" in clips[0]:
            predicted = [[row[f"{PREFIX}{name}"] for row in rows] for rows in members]
            scores: dict[str, Score] = {
                measure: resampled_score(statistic, len(clips), len(members), resampling, stream)
                for measure, statistic in _statistics(task, clips, predicted)
            }
            by_task[name] = {"clips": num_clips, **{measure: score.describe() for measure, score in scores.items()}}
    return by_task


def compare_ratings(
    ours: Sequence[Sequence[dict[str, Any]]],
    baseline: Sequence[Sequence[dict[str, Any]]],
    tasks: Mapping[str, Task],
    resampling: Resampling,
    streams: tuple[int, int],
) -> Iterator[tuple[str, str, Comparison]]:
    """Compares the CCC of each rating that two systems predict in one condition.

    Args:
        ours: the rows of each member of the compared system.
        baseline: those of the baseline, for the same clips in the same order.
        tasks: the further tasks of all systems, by name.
        resampling: resamples of these clips.
        streams: streams of both systems, see `Resampling.member_weights`.

    Yields:
        task, rating, comparison.
    """
    for name, task in tasks.items():
        column = f"{PREFIX}{name}"
        if not isinstance(task, RegressionTask) or not all(column in side[0][0] for side in (ours, baseline)):
            continue
        predicted = [np.array([[row[column] for row in rows] for rows in side], float) for side in (ours, baseline)]
        for place, (rating, target) in enumerate(zip(task.outputs, task.columns, strict=True)):
            true = _ratings(ours[0], target)
            if np.isfinite(true).sum() < 2:
                continue
            own, other = (side[..., place] for side in predicted)  # each (members, clips)
            own_score, other_score = (
                resampled_score(concordance(true, value), len(true), len(value), resampling, stream)
                for value, stream in zip((own, other), streams, strict=True)
            )
            yield name, rating, compare_ccc(true, own, other, (own_score, other_score), resampling)


def _ratings(clips: Sequence[dict[str, Any]], column: str) -> np.ndarray:
    """The rating of each clip, NaN for none: (clips,)."""
    return np.array([np.nan if row.get(column) is None else row[column] for row in clips], dtype=np.float64)


def _has_target(task: Task, row: dict[str, Any]) -> bool:
    values = [row.get(name) for name in task.columns]
    if isinstance(task, ClassificationTask):
        return values[0] in (task.labels or ())
    return any(value is not None for value in values)


def _statistics(task: Task, clips: Sequence[dict], predicted: list[list[Any]]) -> Iterator[tuple[str, Statistic]]:
    """The scores of a task, with their names."""
    if isinstance(task, RegressionTask):
        values = np.array(predicted, dtype=np.float64)  # (members, clips, K)
        for place, (rating, column) in enumerate(zip(task.outputs, task.columns, strict=True)):
            true = _ratings(clips, column)
            if np.isfinite(true).any():
                yield f"ccc_{rating}", concordance(true, values[..., place])
                yield f"mae_{rating}", _mean_error(true, values[..., place])
        return
    labels = [row.get(task.columns[0]) for row in clips]
    if isinstance(task, ClassificationTask):
        classes = list(task.labels or ())
        known = np.array([label in classes for label in labels])
        true = np.array([classes.index(label) if label in classes else 0 for label in labels])
        numbers = np.array([[classes.index(label) for label in member] for member in predicted])  # (members, clips)
        cells = confusion_cells(true, numbers, len(classes)) * known[:, None]
        yield "macro_f1", lambda counts: defined_mean(f1_from_confusion(resampled_confusion(cells, counts)))
        yield "uar", lambda counts: defined_mean(recall_from_confusion(resampled_confusion(cells, counts)))
        yield "accuracy", lambda counts: accuracy_from_confusion(resampled_confusion(cells, counts))
        return
    known = np.array([label is not None for label in labels])
    vectors = np.array(predicted, dtype=np.float64)  # (members, clips, size)
    texts = [str(label) for label in labels]
    for name, measure in (("eer", equal_error_rate), ("min_dcf", min_dcf)):
        yield name, partial(_of_members, measure, texts, vectors, known)


def _of_members(
    measure: Callable[..., Any], texts: list[str], vectors: np.ndarray, known: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """A score of embeddings (members, clips, size) for counts (resamples, clips): (resamples, members)."""
    return np.stack([measure(texts, vector, counts * known) for vector in vectors], axis=-1)


def concordance(true: np.ndarray, predicted: np.ndarray) -> Statistic:
    """CCC as a function of the counts of clips, by weighted moments.

    Args:
        true: ratings (clips,), NaN for a missing one.
        predicted: ratings (members, clips).
    """
    rated = np.isfinite(true)
    true = np.where(rated, true, 0.0)

    def statistic(counts: np.ndarray) -> np.ndarray:
        weights = counts * rated  # (resamples, clips)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = weights / weights.sum(1, keepdims=True)
            # not `@`: the order of summation in BLAS depends on the number of threads
            mean = np.einsum("rc,c->r", weights, true)[:, None]
            means = np.einsum("rc,mc->rm", weights, predicted)
            variance = np.einsum("rc,rc->r", weights, (true - mean) ** 2)[:, None]
            deviations = predicted - means[..., None]  # (resamples, members, clips)
            variances = np.einsum("rc,rmc->rm", weights, deviations**2)
            covariance = np.einsum("rc,rc,rmc->rm", weights, true - mean, deviations)
            return 2 * covariance / (variance + variances + (mean - means) ** 2)

    return statistic


def _mean_error(true: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Mean absolute error over the rated clips: (clips,) with NaN for missing ratings, (members, clips)."""
    rated = np.isfinite(true)
    errors = np.where(rated, np.abs(predicted - np.where(rated, true, 0.0)), 0.0)  # (members, clips)

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("rc,mc->rm", counts, errors) / (counts * rated).sum(1)[:, None]

    return statistic

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores of a task, depending on its kind."""

import warnings
from collections.abc import Sequence

import numpy as np

from ..models.sparse_merit.tasks import UNLABELLED, RegressionTask, Task
from .clips import UndefinedScoreWarning
from .emotion import defined_mean, macro_f1, unweighted_average_recall
from .regression import concordance_correlation
from .verification import equal_error_rate


def clip_scores(task: Task, targets: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """
    Computes the scores of a task.

    Args:
        task: a classification, regression or embedding task.
        targets: classes (clips,), -100 for none; or ratings (clips, K), NaN for none.
        predictions: classes (clips,), ratings (clips, K) or embeddings (clips, size).
        classes: the classes of a classification.

    Returns:
        "macro_f1" and "uar"; or "ccc_RATING" and "mae_RATING" of each rating and their means "ccc" and "mae"; or
        "eer". Undefined scores are NaN; empty if no clip has a target.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScoreWarning)
        if isinstance(task, RegressionTask):
            return _regression_scores(task, targets, predictions)
        labelled = targets != UNLABELLED
        if not labelled.any():
            return {}
        targets, predictions = targets[labelled], predictions[labelled]
        if task.kind == "embedding":
            return {"eer": float(equal_error_rate(targets.tolist(), predictions))}
        measures = {"macro_f1": macro_f1, "uar": unweighted_average_recall}
        pair = targets.tolist(), predictions.tolist()
        return {name: measure(*pair, range(len(classes))) for name, measure in measures.items()}


def _regression_scores(task: RegressionTask, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    named = {}
    for place, name in enumerate(task.outputs):
        rated = np.isfinite(targets[:, place])
        if rated.any():
            true, predicted = targets[rated, place], predictions[rated, place]
            named[f"ccc_{name}"] = concordance_correlation(true, predicted)
            named[f"mae_{name}"] = float(np.abs(true - predicted).mean())
    measures = ("ccc", "mae") if named else ()
    means = {each: [value for name, value in named.items() if name.startswith(f"{each}_")] for each in measures}
    return {measure: float(defined_mean(np.array(values))) for measure, values in means.items()} | named


def selection_score(task: Task, scores: dict[str, float]) -> float:
    """The score for selecting checkpoints, higher is better; 0 if missing or undefined.

    Args:
        task: the task.
        scores: from `clip_scores`.
    """
    value = scores.get(task.metric, float("nan"))
    if not np.isfinite(value):
        return 0.0
    return 1.0 - value if task.metric == "eer" else value

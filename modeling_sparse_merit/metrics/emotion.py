# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of emotion recognition for an explicit list of classes. All are computed from the confusion matrix of
scikit-learn, so bootstrap resamples are scored by the same formulas as the whole set."""

import warnings
from collections.abc import Hashable, Sequence

import numpy as np


def confusion(labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]) -> np.ndarray:
    """Counts of (true class, predicted class).

    Args:
        labels: the true class of each clip.
        predictions: the predicted class of each clip.
        classes: all classes, in the order of rows and columns.

    Returns:
        Integers of shape (classes, classes); rows are true, columns are predicted.

    Raises:
        ValueError: the lengths differ, or a label or prediction is not one of `classes`.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import confusion_matrix
    except ImportError as error:
        raise ImportError('This measure needs scikit-learn: pip install "modeling-sparse-merit[metrics]"') from error
    if len(labels) != len(predictions):
        raise ValueError(f"Every clip needs a label and a prediction: got {len(labels)} and {len(predictions)}.")
    position = {name: index for index, name in enumerate(classes)}
    unknown = sorted({str(value) for value in [*labels, *predictions] if value not in position})
    if unknown:
        raise ValueError(f"{unknown[:5]} are not among the classes {list(classes)}. Map or drop these clips first.")
    if len(labels) == 0:
        return np.zeros((len(classes), len(classes)), dtype=np.int64)
    true, predicted = [position[value] for value in labels], [position[value] for value in predictions]
    return confusion_matrix(true, predicted, labels=range(len(classes)))


def per_class_f1(
    labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]
) -> dict[Hashable, float]:
    """F1 of each class; NaN for classes that are neither labelled nor predicted.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    scores = f1_from_confusion(confusion(labels, predictions, classes))
    return dict(zip(classes, scores.tolist(), strict=True))


def macro_f1(labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """Mean F1 of the classes for which it is defined; NaN without clips.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    return float(defined_mean(f1_from_confusion(confusion(labels, predictions, classes))))


def weighted_f1(labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """Mean F1 of the classes, weighted by their clips, where an undefined F1 counts 0; NaN without clips.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    return float(weighted_f1_from_confusion(confusion(labels, predictions, classes)))


def micro_f1(labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """F1 over all clips, `2 TP / (2 TP + FP + FN)`, which equals the accuracy if each clip has one class; NaN without
    clips.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    return accuracy(labels, predictions, classes)


def unweighted_average_recall(
    labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]
) -> float:
    """UAR: mean recall of the classes that have clips; NaN without clips.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    return float(defined_mean(recall_from_confusion(confusion(labels, predictions, classes))))


def accuracy(labels: Sequence[Hashable], predictions: Sequence[Hashable], classes: Sequence[Hashable]) -> float:
    """Share of correct predictions; NaN without clips.

    Args:
        labels: true class of each clip.
        predictions: predicted class of each clip.
        classes: all classes.
    """
    return float(accuracy_from_confusion(confusion(labels, predictions, classes)))


def accuracy_from_confusion(counts: np.ndarray) -> np.ndarray:
    """Share of correct predictions: (..., classes, classes) -> (...); NaN without clips."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def f1_from_confusion(counts: np.ndarray) -> np.ndarray:
    """F1 of each class, `2 TP / (2 TP + FP + FN)`: (..., classes, classes) -> (..., classes); NaN where 0 / 0."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)  # (..., classes)
    return _ratio(2 * hits, counts.sum(-1) + counts.sum(-2))


def weighted_f1_from_confusion(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes, weighted by their clips: (..., classes, classes) -> (...); NaN without clips."""
    clips = counts.sum(-1)  # (..., classes)
    return _ratio((np.nan_to_num(f1_from_confusion(counts)) * clips).sum(-1), clips.sum(-1))


def recall_from_confusion(counts: np.ndarray) -> np.ndarray:
    """Recall of each class: (..., classes, classes) -> (..., classes); NaN for a class without clips."""
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1))


def defined_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if all are NaN: (..., classes) -> (...)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        return np.nanmean(scores, axis=-1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(numerator, denominator)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The score of the ICBHI 2017 challenge for respiratory sounds."""

from collections.abc import Hashable, Sequence

import numpy as np

from .clips import undefined
from .emotion import confusion

CLASSES = ("normal", "crackle", "wheeze", "both")
"""The classes of the challenge. The first one is normal, the others are abnormal."""


def icbhi_score(
    labels: Sequence[Hashable],
    predictions: Sequence[Hashable],
    classes: Sequence[Hashable] = CLASSES,
    binary: bool = False,
) -> dict[str, float]:
    """Specificity, sensitivity, and their mean, the score of the ICBHI 2017 challenge (Rocha et al., Physiological
    Measurement 2019): the share of normal cycles that are predicted as normal, and the share of abnormal cycles that
    are predicted as their own class.

    Args:
        labels: the true class of each cycle.
        predictions: the predicted class of each cycle.
        classes: all classes, the normal one first.
        binary: an abnormal cycle counts as recognised if it is predicted as any abnormal class.

    Returns:
        "specificity", "sensitivity" and "score", from 0 to 1. NaN with an `UndefinedScoreWarning` where there is no
        normal or no abnormal cycle.

    Raises:
        ValueError: the lengths differ, or a label or prediction is not one of `classes`.
        ImportError: scikit-learn is not installed.
    """
    counts = confusion(labels, predictions, classes)
    specificity, sensitivity, score = icbhi_from_confusion(counts, binary).tolist()
    if np.isnan(score):
        score = undefined("ICBHI score", "there is no normal or no abnormal cycle")
    return {"specificity": specificity, "sensitivity": sensitivity, "score": score}


def icbhi_from_confusion(counts: np.ndarray, binary: bool = False) -> np.ndarray:
    """Specificity, sensitivity and score: (..., classes, classes) -> (..., 3); NaN where 0 / 0.

    Args:
        counts: cycles by true and predicted class, the normal one first.
        binary: as for `icbhi_score`.
    """
    normal, abnormal = counts[..., 0, :].sum(-1), counts[..., 1:, :].sum((-2, -1))  # each (...)
    own = np.trace(counts[..., 1:, 1:], axis1=-2, axis2=-1)
    recognised = counts[..., 1:, 1:].sum((-2, -1)) if binary else own
    with np.errstate(divide="ignore", invalid="ignore"):
        specificity = np.true_divide(counts[..., 0, 0], normal)
        sensitivity = np.true_divide(recognised, abnormal)
    return np.stack([specificity, sensitivity, (specificity + sensitivity) / 2], axis=-1)

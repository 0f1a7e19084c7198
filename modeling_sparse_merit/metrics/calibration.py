# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Calibration of probabilities."""

from collections.abc import Sequence

import numpy as np

from .clips import undefined

BINS = 15


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """ECE: `sum_b n_b / n * |accuracy_b - confidence_b|` over equal-width bins of each clip's largest probability,
    `((b - 1) / bins, b / bins]` (Guo et al., 2017, On calibration of modern neural networks, ICML, equation 3).

    Args:
        confidences: probability of the predicted class of each clip, (clips,), from 0 to 1.
        correct: whether each prediction is correct, (clips,).
        bins: number of bins.

    Returns:
        From 0 (accuracy equals mean confidence in every bin) to 1. NaN, with an
        `UndefinedScoreWarning`, without clips.

    Raises:
        ValueError: the lengths differ, or a confidence is not in [0, 1].
    """
    confidence, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(
            f"`confidences` and `correct` must both have the shape (clips,): got {confidence.shape}, {right.shape}."
        )
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise ValueError(f"Confidences must be in [0, 1]; got {confidence.min()} to {confidence.max()}.")
    if not len(confidence):
        return undefined("ECE", "there are no clips")
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (clips,)
    # n_b * (accuracy_b - confidence_b) of each bin, (bins,)
    gaps = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))

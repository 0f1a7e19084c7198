# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Calibration of probabilities."""

from collections.abc import Sequence

import numpy as np

from .clips import undefined

BINS = 15
TEMPERATURES = (0.01, 100.0)
"""Smallest and largest temperature."""


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
    # n_b * (accuracy_b - confidence_b) of each bin, (bins,)
    gaps = np.bincount(bin_numbers(confidence, bins), weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def bin_numbers(confidences: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each confidence, 0 to bins - 1, of bins with equal widths `((b - 1) / bins, b / bins]`.

    Args:
        confidences: from 0 to 1, (clips,).
        bins: number of bins.
    """
    return np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mean confidence, accuracy and number of clips of each bin with clips, the points of a reliability diagram.

    Args:
        confidences: probability of the predicted class of each clip, (clips,), from 0 to 1.
        correct: whether each prediction is correct, (clips,).
        bins: number of bins.

    Returns:
        (bins with clips, 3).
    """
    numbers = bin_numbers(confidences, bins)
    counts = np.bincount(numbers, minlength=bins)
    sums = [np.bincount(numbers, weights=values, minlength=bins) for values in (confidences, correct)]
    filled = counts > 0
    return np.stack([*(total[filled] / counts[filled] for total in sums), counts[filled]], axis=1)


def brier_scores(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Brier score of each clip: `sum_k (p_k - y_k)^2`, where y is 1 for the true class and 0 for others (Brier, 1950,
    Verification of forecasts expressed in terms of probability, Monthly Weather Review 78).

    Args:
        probabilities: (clips, classes).
        true: class numbers, (clips,).

    Returns:
        (clips,), from 0 to 2. Twice the score that is usual for two classes.
    """
    targets = np.eye(probabilities.shape[-1])[true]  # (clips, classes)
    return ((probabilities - targets) ** 2).sum(-1)


def scale_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits divided by the temperature, which keeps the order of the classes.

    Args:
        logits: (..., classes); logarithms of probabilities do as well.
        temperature: above 0; a larger one makes probabilities more equal.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fit_temperature(logits: np.ndarray, true: np.ndarray) -> float:
    """The temperature with the smallest negative log-likelihood (Guo et al., 2017, section 4.2). The likelihood is
    concave in its inverse, so there is one minimum at most.

    Args:
        logits: (clips, classes); logarithms of probabilities do as well.
        true: class numbers, (clips,).

    Raises:
        ValueError: there are no clips, or the minimum is not between the `TEMPERATURES`.
    """
    from scipy.optimize import brentq

    if not len(true):
        raise ValueError("There are no clips to fit a temperature on; expected one or more.")
    logits = np.asarray(logits, dtype=np.float64)
    of_true = logits[np.arange(len(true)), true]  # (clips,)

    def slope(inverse: float) -> float:
        """The derivative of the negative log-likelihood by the inverse of the temperature."""
        expected = (scale_temperature(logits, 1 / inverse) * logits).sum(-1)
        return float((expected - of_true).mean())

    bounds = (1 / TEMPERATURES[1], 1 / TEMPERATURES[0])
    if not slope(bounds[0]) < 0 < slope(bounds[1]):
        right = float((logits.argmax(-1) == true).mean())
        raise ValueError(
            f"No temperature from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g} minimises the negative log-likelihood of "
            f"the {len(true)} clips, of which {100 * right:.0f} % are recognised; expected more clips, with some "
            "right and some wrong predictions."
        )
    return float(1 / brentq(slope, *bounds, xtol=1e-12))

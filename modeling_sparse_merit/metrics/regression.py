# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A metric of emotional attributes: arousal, valence, dominance."""

import numpy as np
from numpy.typing import ArrayLike

from .clips import undefined


def concordance_correlation(labels: ArrayLike, predictions: ArrayLike) -> float:
    """CCC, the concordance correlation coefficient (Lin, Biometrics 1989): `2 cov / (var + var + (mean - mean)^2)`,
    with variances divided by the number of clips.

    Args:
        labels: the true value of each clip, shape (clips,).
        predictions: the predicted value of each clip, shape (clips,).

    Returns:
        From -1 to 1 (equal values); 0 if one side is constant. NaN with an `UndefinedScoreWarning` for fewer than
        two clips, or if both sides are constant.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    labels, predictions = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(
            f"Every clip needs a label and a prediction, one number each: got shapes {labels.shape} and "
            f"{predictions.shape}, expected (clips,) for both. Evaluate each attribute separately."
        )
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        raise ValueError("A label or a prediction is NaN or infinite. Drop the clips without a label first.")
    if len(labels) < 2:
        return undefined("CCC", "there are fewer than two clips")
    if np.ptp(labels) == 0 and np.ptp(predictions) == 0:
        return undefined("CCC", "labels and predictions are constant")
    covariance = np.mean((labels - labels.mean()) * (predictions - predictions.mean()))
    return float(2 * covariance / (labels.var() + predictions.var() + (labels.mean() - predictions.mean()) ** 2))

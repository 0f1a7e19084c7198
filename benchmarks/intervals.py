# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals of means and of ratios, over the clips or recordings that were measured."""

import numpy as np

RESAMPLES = 10_000


def estimate(values: np.ndarray, weights: np.ndarray | None = None, seed: int = 0) -> dict[str, float]:
    """
    The mean of some values and its 95 % bootstrap interval.

    Args:
        values: (units,). Of a paired comparison, the differences.
        weights: (units,); the mean is weighted by them, and they are drawn along with the values. All 1 by default.
        seed: of the draws.

    Returns:
        `mean`, `low` and `high`.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = (values * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(np.average(values, weights=weights)), "low": float(low), "high": float(high)}


def shown(estimated: dict[str, float], digits: int = 2, sign: str = "") -> str:
    """An estimate as text, such as `+0.12 (-0.03 to +0.25)`."""
    mean, low, high = (f"{estimated[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"

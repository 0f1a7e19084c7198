# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of embeddings: how well their similarity tells pairs of the same class, such as speakers, from others."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from .clips import undefined

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""Maps the shares of missed pairs and of false alarms at each threshold to a score."""


def equal_error_rate(
    labels: Sequence[Hashable], embeddings: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """EER: the error rate at the threshold of cosine similarity where the share of rejected pairs of the same class
    equals the share of accepted pairs of different classes, interpolated between thresholds.

    Args:
        labels: class of each clip, (clips,).
        embeddings: (clips, size), with any norm but 0.
        weights: counts of the clips, (clips,) or (resamples, clips), 1 by default; a pair counts as the product
            of both.

    Returns:
        From 0 (all pairs of the same class are closer than all others) to 1; (resamples,) for weights (resamples,
        clips). NaN, and without weights an `UndefinedScoreWarning`, without pairs of the same or of different classes.

    Raises:
        ValueError: the numbers of labels and embeddings differ, or an embedding is 0 or not finite.
    """
    return _score("EER", _equal_error, labels, embeddings, weights)


def min_dcf(
    labels: Sequence[Hashable], embeddings: np.ndarray, weights: np.ndarray | None = None, target: float = 0.01
) -> float | np.ndarray:
    """minDCF: the least detection cost over all thresholds of cosine similarity, relative to the cost of accepting or
    rejecting every pair, with equal costs of both errors (NIST 2016 Speaker Recognition Evaluation Plan, section 3).

    Args:
        labels, embeddings, weights: as for `equal_error_rate`.
        target: prior probability that a pair is of the same class.

    Returns:
        From 0 to 1; shapes and NaN as for `equal_error_rate`.

    Raises:
        ValueError: as for `equal_error_rate`, or the prior is not between 0 and 1.
    """
    if not 0 < target < 1:
        raise ValueError(f"`target` is {target}; expected a probability between 0 and 1.")

    def cost(missed: np.ndarray, alarms: np.ndarray) -> float:
        return float(np.min(target * missed + (1 - target) * alarms) / min(target, 1 - target))

    return _score("minDCF", cost, labels, embeddings, weights)


def _score(
    name: str,
    statistic: Statistic,
    labels: Sequence[Hashable],
    embeddings: np.ndarray,
    weights: np.ndarray | None,
) -> float | np.ndarray:
    embeddings = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(embeddings, axis=-1)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(
            f"Every clip needs a label and an embedding: got {len(labels)} labels and the shape {embeddings.shape}."
        )
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("An embedding is 0 or not finite, so it has no direction. Leave its clip out.")
    first, second = np.triu_indices(len(labels), k=1)
    unit, ids = embeddings / lengths[:, None], np.unique([str(label) for label in labels], return_inverse=True)[1]
    similarity = (unit @ unit.T)[first, second]  # (pairs,)
    order = np.argsort(-similarity, kind="stable")
    first, second, similarity = first[order], second[order], similarity[order]
    counts = np.ones((1, len(labels))) if weights is None else np.atleast_2d(weights)
    same = ids[first] == ids[second]
    scores = [_of_pairs(statistic, row[first] * row[second], same, similarity) for row in counts]
    if weights is not None and np.ndim(weights) > 1:
        return np.array(scores)
    if weights is None and np.isnan(scores[0]):
        return undefined(name, "pairs of the same class, or of different ones, are missing")
    return scores[0]


def _of_pairs(statistic: Statistic, counts: np.ndarray, same: np.ndarray, similarity: np.ndarray) -> float:
    """The statistic of weighted pairs in order of decreasing similarity."""
    accepted, wrongly = np.cumsum(counts * same), np.cumsum(counts * ~same)  # with the threshold just below each
    if len(counts) == 0 or accepted[-1] == 0 or wrongly[-1] == 0:
        return float("nan")
    last = np.append(similarity[1:] != similarity[:-1], True)  # pairs of one similarity are accepted together
    missed = np.concatenate([[1.0], 1 - accepted[last] / accepted[-1]])
    alarms = np.concatenate([[0.0], wrongly[last] / wrongly[-1]])
    return statistic(missed, alarms)


def _equal_error(missed: np.ndarray, alarms: np.ndarray) -> float:
    place = int(np.argmax(alarms >= missed))  # the first threshold beyond the crossing; at the last one, 1 >= 0
    gap, gap_before = alarms[place] - missed[place], missed[place - 1] - alarms[place - 1]
    share = gap_before / (gap + gap_before)
    return float(missed[place - 1] + share * (missed[place] - missed[place - 1]))

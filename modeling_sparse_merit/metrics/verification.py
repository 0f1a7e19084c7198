# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A measure of embeddings: how well their similarity tells whether two clips are of one class, such as a speaker."""

from collections.abc import Hashable, Sequence

import numpy as np

from .clips import undefined


def equal_error_rate(
    labels: Sequence[Hashable], embeddings: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """EER: the error rate at the threshold of the cosine similarity at which the share of pairs of one class that are
    rejected equals the share of pairs of different classes that are accepted, interpolated between two thresholds.

    Args:
        labels: the class of each clip, (clips,).
        embeddings: (clips, size), of any length but 0.
        weights: how often each clip counts, (clips,) or (resamples, clips), once by default; a pair counts the product
            of both.

    Returns:
        From 0 (all pairs of one class are nearer than all others) to 1; (resamples,) for weights of that many. NaN,
        and without weights an `UndefinedScoreWarning`, where there is no pair of one class or none of different ones.

    Raises:
        ValueError: the numbers of labels and embeddings differ, or an embedding is 0 or not finite.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(embeddings, axis=-1)
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(
            f"Every clip needs a label and an embedding: got {len(labels)} labels and the shape {embeddings.shape}."
        )
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("An embedding is 0 or not finite, so that it has no direction.")
    first, second = np.triu_indices(len(labels), k=1)
    unit, ids = embeddings / lengths[:, None], np.unique([str(label) for label in labels], return_inverse=True)[1]
    similarity = (unit @ unit.T)[first, second]  # (pairs,)
    order = np.argsort(-similarity, kind="stable")
    first, second, similarity = first[order], second[order], similarity[order]
    counts = np.ones((1, len(labels))) if weights is None else np.atleast_2d(weights)
    same = ids[first] == ids[second]
    rates = [_rate(row[first] * row[second], same, similarity) for row in counts]
    if weights is not None and np.ndim(weights) > 1:
        return np.array(rates)
    if weights is None and np.isnan(rates[0]):
        return undefined("EER", "pairs of the same class, or of different ones, are missing")
    return rates[0]


def _rate(counts: np.ndarray, same: np.ndarray, similarity: np.ndarray) -> float:
    """The EER of pairs by falling similarity, each counted so often."""
    accepted, wrongly = np.cumsum(counts * same), np.cumsum(counts * ~same)  # if the threshold is right below each
    if len(counts) == 0 or accepted[-1] == 0 or wrongly[-1] == 0:
        return float("nan")
    last = np.append(similarity[1:] != similarity[:-1], True)  # pairs of one similarity are accepted together
    missed = np.concatenate([[1.0], 1 - accepted[last] / accepted[-1]])
    alarms = np.concatenate([[0.0], wrongly[last] / wrongly[-1]])
    place = int(np.argmax(alarms >= missed))  # the first threshold beyond the crossing; at the last one, 1 >= 0
    gap, gap_before = alarms[place] - missed[place], missed[place - 1] - alarms[place - 1]
    share = gap_before / (gap + gap_before)
    return float(missed[place - 1] + share * (missed[place] - missed[place - 1]))

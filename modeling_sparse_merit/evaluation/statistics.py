# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Uncertainty of scores: bootstrap intervals over clips, speakers and members, paired permutation tests, Holm's
correction and relative gains. All random numbers come from a given seed, so results are reproducible bit by bit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypedDict

import numpy as np

from ..metrics.emotion import (
    accuracy_from_confusion,
    defined_mean,
    f1_from_confusion,
    recall_from_confusion,
    weighted_f1_from_confusion,
)

PERMUTATIONS = 9_999  # the smallest p-value, 1e-4, is 0.05 after Holm's correction over 500 comparisons
UNITS = ("clip", "speaker")  # that are resampled and swapped
TOLERANCE = 1e-9  # smaller differences are due to rounding


class Resampling:
    """Resamples and swaps of a set of clips. They are the same for all systems and conditions, so that differences
    between systems are paired.

    Args:
        speakers: speaker of each clip; None if unknown.
        resamples: number of bootstrap resamples.
        seed: seed of all random numbers.

    Attributes:
        counts: `{"clip": (resamples, clips), "speaker": (resamples, clips) or None}`, how often each clip is in a
            resample; None with fewer than two units to draw from, or an unknown speaker.
    """

    def __init__(self, speakers: Sequence[str | None], resamples: int, seed: int):
        self.resamples, self.seed = resamples, seed
        speaker_ids = np.unique([str(speaker) for speaker in speakers], return_inverse=True)[1]
        known = None not in speakers
        self._units = {"clip": np.arange(len(speakers)), "speaker": speaker_ids if known else None}
        self.counts = {
            unit: None if ids is None else draw_counts(ids, resamples, seed) for unit, ids in self._units.items()
        }

    @cached_property
    def swaps(self) -> "dict[str, Swaps | None]":
        """`{"clip" | "speaker": Swaps, or None if unknown}`; drawn on first use, since only comparisons need them."""
        return {unit: None if ids is None else draw_swaps(ids, self.seed) for unit, ids in self._units.items()}

    def member_weights(self, stream: int, num_members: int) -> np.ndarray:
        """Share of each member of a system in each resample: (resamples, members).

        Args:
            stream: a number that identifies the system, so that systems draw their members independently.
            num_members: number of members; a single one is in every resample.
        """
        generator = np.random.default_rng([self.seed, stream])
        return generator.multinomial(num_members, [1 / num_members] * num_members, self.resamples) / num_members


def draw_counts(units: np.ndarray, resamples: int, seed: int) -> np.ndarray | None:
    """How often each observation occurs in each bootstrap resample of the units, drawn with replacement.

    Args:
        units: the unit (clip, speaker) of each observation, 0, 1, ...: (observations,).
        resamples: number of bootstrap resamples.
        seed: seed of the draws.

    Returns:
        (resamples, observations) float64; None for fewer than two units, which have no spread.
    """
    num_units = int(units.max(initial=-1)) + 1
    if num_units < 2:
        return None
    drawn = np.random.default_rng(seed).integers(num_units, size=(resamples, num_units))
    cells = drawn + num_units * np.arange(resamples)[:, None]  # (resamples, units), each resample in its own range
    counts = np.bincount(cells.ravel(), minlength=resamples * num_units).reshape(resamples, num_units)
    return counts[:, units].astype(np.float64)


@dataclass(frozen=True)
class Swaps:
    """Which clips two systems swap in each permutation.

    Attributes:
        clips: bool (permutations, clips).
        exhaustive: whether these are all possible permutations.
    """

    clips: np.ndarray
    exhaustive: bool


def draw_swaps(units: np.ndarray, seed: int) -> Swaps:
    """Draws the units that two systems swap: all `2 ** units` permutations if these are at most `PERMUTATIONS`, else
    `PERMUTATIONS` random ones.

    Args:
        units: the unit (clip, speaker) of each clip, 0, 1, ...: (clips,).
        seed: seed of the draws.
    """
    num_units = int(units.max(initial=-1)) + 1
    if 2**num_units <= PERMUTATIONS:
        swapped = (np.arange(2**num_units)[:, None] >> np.arange(num_units) & 1).astype(bool)
        return Swaps(swapped[:, units], exhaustive=True)
    swapped = np.random.default_rng(seed).integers(2, size=(PERMUTATIONS, num_units), dtype=bool)
    return Swaps(swapped[:, units], exhaustive=False)


def confusion_cells(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The cell of the flattened confusion matrix of each clip, one-hot.

    Args:
        true: class numbers (clips,).
        predicted: class numbers (members, clips).
        num_classes: number of classes.

    Returns:
        float32 (members, clips, classes * classes).
    """
    return np.eye(num_classes**2, dtype=np.float32)[true * num_classes + predicted]


def resampled_confusion(cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Confusion counts of every resample.

    Args:
        cells: from `confusion_cells`, (members, clips, classes * classes).
        counts: how often each clip occurs in each resample, (resamples, clips).

    Returns:
        (resamples, members, classes, classes).
    """
    num_classes = math.isqrt(cells.shape[-1])
    totals = counts @ cells  # (members, resamples, classes * classes); whole numbers, so exact in any order
    return totals.swapaxes(0, 1).reshape(len(counts), len(cells), num_classes, num_classes)


def resampled_mean(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean score over the defined clips of every resample.

    Args:
        scores: (members, clips), NaN where undefined.
        counts: how often each clip occurs in each resample, (resamples, clips).

    Returns:
        (resamples, members); NaN if no clip of a resample is defined.
    """
    defined = np.isfinite(scores)
    # not `@`: the order of summation in BLAS depends on the number of threads
    totals = np.einsum("rc,mc->rm", counts, np.where(defined, scores, 0.0))
    with np.errstate(invalid="ignore"):
        return totals / np.einsum("rc,mc->rm", counts, defined.astype(np.float64))


def mean_over_members(draws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the members in every resample, without undefined ones.

    Args:
        draws: scores (resamples, members), NaN where undefined.
        weights: shares of the members (resamples, members).

    Returns:
        (resamples,).
    """
    defined = np.isfinite(draws)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(defined, draws, 0.0)).sum(1) / (weights * defined).sum(1)


def percentile_interval(draws: np.ndarray | None) -> list[float] | None:
    """The central 95 % of resampled scores (resamples,); None if all are undefined."""
    if draws is None or not np.isfinite(draws).any():
        return None
    return np.nanquantile(draws, [0.025, 0.975]).tolist()


def swapped_f1(
    true: np.ndarray, ours: np.ndarray, baseline: np.ndarray, num_classes: int, average: str, swaps: np.ndarray
) -> tuple[float, np.ndarray]:
    """Difference in F1, and its values when the two systems swap their predictions for some clips.

    Systems of several members are compared as the mean over all pairs of a member of one and a member of the other,
    which is the difference of the mean scores.

    Args:
        true: class of each clip, 0, 1, ...: (clips,).
        ours: predicted classes (members, clips).
        baseline: predicted classes (its members, clips).
        num_classes: number of classes of the confusion matrix.
        average: "macro" averages over classes, "weighted" by their clips.
        swaps: bool (permutations, clips), the clips to swap.

    Returns:
        The difference, and the swapped differences (permutations,).
    """
    f1 = _F1[average]
    ours, baseline = (confusion_cells(true, predicted, num_classes) for predicted in (ours, baseline))
    identity = np.zeros((1, len(true)), dtype=bool)
    swaps = np.concatenate([identity, swaps]).astype(np.float32)
    # each (members, permutations, classes * classes); counts of clips, so exact in float32
    ours_moved, baseline_moved = swaps @ ours, swaps @ baseline
    differences = np.zeros(len(swaps))
    for our, our_moved in zip(ours, ours_moved, strict=True):
        for other, other_moved in zip(baseline, baseline_moved, strict=True):
            change = other_moved - our_moved
            differences += f1(our.sum(0) + change) - f1(other.sum(0) - change)
    differences /= len(ours) * len(baseline)
    return float(differences[0]), differences[1:]


def _macro_f1(totals: np.ndarray) -> np.ndarray:
    """(permutations, classes * classes) -> (permutations,)."""
    return defined_mean(f1_from_confusion(_matrices(totals)))


def _weighted_f1(totals: np.ndarray) -> np.ndarray:
    """(permutations, classes * classes) -> (permutations,)."""
    return weighted_f1_from_confusion(_matrices(totals))


def _matrices(totals: np.ndarray) -> np.ndarray:
    """(permutations, classes * classes) -> float64 (permutations, classes, classes)."""
    num_classes = math.isqrt(totals.shape[-1])
    return totals.reshape(-1, num_classes, num_classes).astype(np.float64)


_F1: dict[str, Callable[[np.ndarray], np.ndarray]] = {"macro": _macro_f1, "weighted": _weighted_f1}


def swapped_mean(ours: np.ndarray, baseline: np.ndarray, swaps: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean difference over clips, and its values when the two systems swap their scores for some clips, which flips
    the sign of these differences.

    Args:
        ours: scores (members, clips), NaN where undefined; a clip's score is the mean over members.
        baseline: scores (its members, clips).
        swaps: bool (permutations, clips), the clips to swap.

    Returns:
        The mean difference over clips for which both are defined (NaN if there are none), and the swapped differences
        (permutations,).
    """
    differences = defined_mean(ours.T) - defined_mean(baseline.T)  # (clips,)
    num_defined = np.isfinite(differences).sum()
    differences = np.where(np.isfinite(differences), differences, 0.0)
    with np.errstate(invalid="ignore"):
        moved = np.einsum("pc,c->p", swaps, differences)
        return float(differences.sum() / num_defined), (differences.sum() - 2 * moved) / num_defined


def permutation_p_value(observed: float, permuted: np.ndarray, exhaustive: bool) -> float | None:
    """Two-sided p-value: the share of swapped differences that are at least as large as the observed one. With random
    swaps, the observed difference is counted among them (Phipson and Smyth, 2010), so p is never 0.

    Args:
        observed: the difference between the two systems.
        permuted: the swapped differences (permutations,).
        exhaustive: whether the permutations are all possible ones.

    Returns:
        The p-value; None if the difference is undefined.
    """
    if not math.isfinite(observed):
        return None
    as_large = int((np.abs(permuted) >= abs(observed) - TOLERANCE).sum())
    return as_large / len(permuted) if exhaustive else (1 + as_large) / (1 + len(permuted))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts the p-values of a family of comparisons, so that the probability of any false positive stays below the
    significance level (Holm, 1979): the k-th smallest of n is multiplied by n - k + 1, and the order is kept.
    Undefined values (None) stay undefined and are not counted."""
    adjusted: list[float | None] = [None] * len(p_values)
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def relative_gain(score: float | None, baseline: float | None) -> float | None:
    """The relative gain `100 * (score - baseline) / baseline` in percent. None if the baseline is not positive, as
    scores in dB may be, since a percentage has no meaning then.

    Args:
        score: the score of a system; None if undefined.
        baseline: the score of the baseline; None if undefined.
    """
    if score is None or baseline is None or not baseline > 0 or not math.isfinite(score):
        return None
    return 100 * (score - baseline) / baseline


@dataclass(frozen=True)
class Score:
    """A score of one system with its bootstrap resamples.

    Attributes:
        members: the score of each member (members,), NaN where undefined.
        draws: `{"clip" | "speaker": the score in every resample (resamples,), or None}`.
    """

    members: np.ndarray
    draws: dict[str, np.ndarray | None]

    @property
    def mean(self) -> float:
        """Mean over the members for which the score is defined."""
        return float(defined_mean(self.members))

    def describe(self) -> dict[str, Any]:
        """Mean, 95 % intervals over clips and over speakers, and the spread over members if there are several."""
        intervals = {unit: percentile_interval(draws) for unit, draws in self.draws.items()}
        summary = {"mean": self.mean, "interval": intervals["clip"], "speaker_interval": intervals["speaker"]}
        return summary | {"seeds": _spread(self.members)}


class EmotionScores(TypedDict):
    """Scores of emotion recognition, see `emotion_scores`."""

    macro_f1: Score
    weighted_f1: Score
    unweighted_average_recall: Score
    accuracy: Score
    per_class_f1: list[Score]


@dataclass(frozen=True)
class Permuted:
    """A difference between two systems in permutations.

    Attributes:
        differences: the difference in every permutation (permutations,).
        exhaustive: whether the permutations are all possible ones.
    """

    differences: np.ndarray
    exhaustive: bool


@dataclass(frozen=True)
class Comparison:
    """A comparison of two systems on the same clips.

    Attributes:
        ours: score of the compared system.
        baseline: score of the baseline.
        difference: ours minus baseline.
        permuted: `{"clip" | "speaker": the difference in every permutation, or None if unknown}`.
        clips: number of clips for which both are defined.
    """

    ours: Score
    baseline: Score
    difference: float
    permuted: "dict[str, Permuted | None]"
    clips: int

    def describe(self) -> dict[str, Any]:
        """Both scores, their difference with its 95 % intervals, the relative gain, and the two-sided p-values."""
        draws = {
            unit: None if draws is None else draws - self.baseline.draws[unit]
            for unit, draws in self.ours.draws.items()
        }
        return {
            "score": self.ours.mean,
            "baseline": self.baseline.mean,
            "difference": self.difference,
            "difference_interval": percentile_interval(draws["clip"]),
            "difference_speaker_interval": percentile_interval(draws["speaker"]),
            "relative_gain_percent": relative_gain(self.ours.mean, self.baseline.mean),
            "p": self._p_value("clip"),
            "speaker_p": self._p_value("speaker"),
            "clips": self.clips,
        }

    def _p_value(self, unit: str) -> float | None:
        permuted = self.permuted[unit]
        if permuted is None:
            return None
        return permutation_p_value(self.difference, permuted.differences, permuted.exhaustive)


def average_comparison(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison of mean scores over several conditions. A resample or swap applies to a clip in all conditions,
    since `Resampling` draws the same ones for each."""
    return Comparison(
        _average_score([comparison.ours for comparison in comparisons]),
        _average_score([comparison.baseline for comparison in comparisons]),
        float(np.mean([comparison.difference for comparison in comparisons])),
        {unit: _average_permuted([one.permuted[unit] for one in comparisons]) for unit in UNITS},
        min(comparison.clips for comparison in comparisons),
    )


def _average_permuted(permuted: Sequence[Permuted | None]) -> Permuted | None:
    known = [one for one in permuted if one is not None]
    if len(known) < len(permuted):
        return None
    return Permuted(np.mean([one.differences for one in known], axis=0), known[0].exhaustive)


def _average_score(scores: Sequence[Score]) -> Score:
    draws: dict[str, np.ndarray | None] = {}
    for unit in scores[0].draws:
        drawn = [values for score in scores if (values := score.draws[unit]) is not None]
        draws[unit] = np.mean(drawn, axis=0) if len(drawn) == len(scores) else None
    return Score(np.mean([score.members for score in scores], axis=0), draws)


def _spread(members: np.ndarray) -> dict[str, Any] | None:
    if len(members) < 2 or not np.isfinite(members).any():
        return None
    spread = {"std": np.nanstd(members, ddof=1), "min": np.nanmin(members), "max": np.nanmax(members)}
    return {"values": members.tolist(), **{name: float(value) for name, value in spread.items()}}


def emotion_scores(
    true: np.ndarray,
    predicted: np.ndarray,
    num_classes: int,
    resampling: Resampling,
    stream: int,
    scored: Sequence[int] | None = None,
) -> EmotionScores:
    """Scores of emotion recognition: `macro_f1`, `weighted_f1`, `unweighted_average_recall`, `accuracy` (equal to
    micro-F1, since every clip has one label and one prediction) and a list `per_class_f1`.

    Args:
        true: class of each clip, 0, 1, ...: (clips,).
        predicted: classes predicted by each member (members, clips).
        num_classes: number of classes of the confusion matrix.
        resampling: resamples of these clips.
        stream: see `Resampling.member_weights`.
        scored: the classes that macro-F1 averages over; None takes all that are labelled or predicted.
    """
    averaged = slice(None) if scored is None else list(scored)
    cells = confusion_cells(true, predicted, num_classes)
    observed = resampled_confusion(cells, np.ones((1, len(true))))[0]  # (members, classes, classes)
    confusions = {
        unit: None if drawn is None else resampled_confusion(cells, drawn) for unit, drawn in resampling.counts.items()
    }
    weights = resampling.member_weights(stream, len(predicted))

    def score(function: Callable[[np.ndarray], np.ndarray]) -> Score:
        draws = {
            unit: None if drawn is None else mean_over_members(function(drawn), weights)
            for unit, drawn in confusions.items()
        }
        return Score(function(observed), draws)

    def class_f1(label: int) -> Score:
        return score(lambda counts: f1_from_confusion(counts)[..., label])

    return {
        "macro_f1": score(lambda counts: defined_mean(f1_from_confusion(counts)[..., averaged])),
        "weighted_f1": score(weighted_f1_from_confusion),
        "unweighted_average_recall": score(lambda counts: defined_mean(recall_from_confusion(counts))),
        "accuracy": score(accuracy_from_confusion),
        "per_class_f1": [class_f1(label) for label in range(num_classes)],
    }


def resampled_score(
    statistic: Callable[[np.ndarray], np.ndarray],
    num_clips: int,
    num_members: int,
    resampling: Resampling,
    stream: int,
) -> Score:
    """Bootstraps a score that is a function of the counts of clips.

    Args:
        statistic: maps counts (resamples, clips) to scores (resamples, members).
        num_clips, num_members: numbers of clips and of members of the system.
        resampling: resamples of these clips.
        stream: see `Resampling.member_weights`.
    """
    weights = resampling.member_weights(stream, num_members)
    draws = {
        unit: None if counts is None else mean_over_members(statistic(counts), weights)
        for unit, counts in resampling.counts.items()
    }
    return Score(statistic(np.ones((1, num_clips)))[0], draws)


def measure_score(scores: np.ndarray, resampling: Resampling, stream: int) -> Score:
    """Mean of a speech measure over the clips for which it is defined.

    Args:
        scores: (members, clips), NaN where undefined.
        resampling: resamples of these clips.
        stream: see `Resampling.member_weights`.
    """
    weights = resampling.member_weights(stream, len(scores))
    # a single defined clip has no spread
    has_spread = np.isfinite(scores).any(0).sum() > 1
    draws = {
        unit: mean_over_members(resampled_mean(scores, counts), weights) if has_spread and counts is not None else None
        for unit, counts in resampling.counts.items()
    }
    return Score(resampled_mean(scores, np.ones((1, scores.shape[1])))[0], draws)


def compare_macro_f1(
    true: np.ndarray,
    ours: np.ndarray,
    baseline: np.ndarray,
    num_classes: int,
    resampling: Resampling,
    streams: tuple[int, int],
) -> Comparison:
    """Compares the macro-F1 of two systems on the same clips.

    Args:
        true: class of each clip, 0, 1, ...: (clips,).
        ours: predicted classes (members, clips).
        baseline: predicted classes (its members, clips).
        num_classes: number of classes of the confusion matrix.
        resampling: resamples of these clips.
        streams: streams of both systems, see `Resampling.member_weights`.
    """
    own, other = (
        emotion_scores(true, predicted, num_classes, resampling, stream)["macro_f1"]
        for predicted, stream in zip((ours, baseline), streams, strict=True)
    )
    return compare_f1(true, ours, baseline, num_classes, "macro", (own, other), resampling)


def compare_f1(
    true: np.ndarray,
    ours: np.ndarray,
    baseline: np.ndarray,
    num_classes: int,
    average: str,
    scores: tuple[Score, Score],
    resampling: Resampling,
) -> Comparison:
    """Compares an F1 of two systems on the same clips.

    Args:
        true: class of each clip, 0, 1, ...: (clips,).
        ours: predicted classes (members, clips).
        baseline: predicted classes (its members, clips).
        num_classes: number of classes of the confusion matrix.
        average: "macro" or "weighted", see `swapped_f1`.
        scores: F1 of both systems.
        resampling: resamples of these clips.
    """
    swap = partial(swapped_f1, true, ours, baseline, num_classes, average)
    return Comparison(*scores, *_permuted(swap, resampling), len(true))


def swapped_ccc(
    true: np.ndarray, ours: np.ndarray, baseline: np.ndarray, swaps: np.ndarray
) -> tuple[float, np.ndarray]:
    """Difference in CCC, and its values when the two systems swap their predictions for some clips. Systems of several
    members are compared as in `swapped_f1`.

    Args:
        true: rating of each clip: (clips,).
        ours: predicted ratings (members, clips).
        baseline: predicted ratings (its members, clips).
        swaps: bool (permutations, clips), the clips to swap.

    Returns:
        The difference, and the swapped differences (permutations,).
    """
    centre, count = true.mean(), len(true)
    centred = true - centre
    swaps = np.concatenate([np.zeros((1, count), dtype=bool), swaps]).astype(np.float64)

    def moments(predicted: np.ndarray) -> np.ndarray:
        """Terms whose means determine the CCC: (members, clips) -> (members, 3, clips)."""
        return np.stack([predicted - centre, (predicted - centre) ** 2, (predicted - centre) * centred], axis=1)

    def concordance(sums: np.ndarray) -> np.ndarray:
        """(permutations, 3) -> (permutations,), with the mean of `centred`, 0."""
        mean, square, product = (sums / count).T
        return 2 * product / (square + (centred**2).mean())

    differences = np.zeros(len(swaps))
    for own in moments(ours):
        for other in moments(baseline):
            # not `@`: the order of summation in BLAS depends on the number of threads
            change = np.einsum("pc,kc->pk", swaps, other - own)
            differences += concordance(own.sum(1) + change) - concordance(other.sum(1) - change)
    differences /= len(ours) * len(baseline)
    return float(differences[0]), differences[1:]


def compare_ccc(
    true: np.ndarray,
    ours: np.ndarray,
    baseline: np.ndarray,
    scores: tuple[Score, Score],
    resampling: Resampling,
) -> Comparison:
    """Compares the CCC of two systems on the same clips.

    Args:
        true: rating of each clip, NaN for none: (clips,).
        ours: predicted ratings (members, clips).
        baseline: predicted ratings (its members, clips).
        scores: the CCC of both.
        resampling: resamples of these clips.
    """
    rated = np.isfinite(true)

    def swap(swaps: np.ndarray) -> tuple[float, np.ndarray]:
        return swapped_ccc(true[rated], ours[:, rated], baseline[:, rated], swaps[:, rated])

    return Comparison(*scores, *_permuted(swap, resampling), int(rated.sum()))


def compare_measure(
    ours: np.ndarray, baseline: np.ndarray, resampling: Resampling, streams: tuple[int, int]
) -> Comparison:
    """Compares a speech measure of two systems, over the clips for which both are defined.

    Args:
        ours: scores (members, clips), NaN where undefined.
        baseline: scores (its members, clips).
        resampling: resamples of these clips.
        streams: streams of both systems, see `Resampling.member_weights`.
    """
    common = np.isfinite(ours).any(0) & np.isfinite(baseline).any(0)  # (clips,)
    ours, baseline = (np.where(common & np.isfinite(scores), scores, np.nan) for scores in (ours, baseline))
    own, other = (
        measure_score(values, resampling, stream) for values, stream in zip((ours, baseline), streams, strict=True)
    )
    return Comparison(own, other, *_permuted(partial(swapped_mean, ours, baseline), resampling), int(common.sum()))


def _permuted(
    swap: Callable[[np.ndarray], tuple[float, np.ndarray]], resampling: Resampling
) -> tuple[float, dict[str, Permuted | None]]:
    """The observed difference, and the differences when clips or whole speakers are swapped.

    Args:
        swap: maps the clips to swap, bool (permutations, clips), to the difference and the swapped differences.
        resampling: provides the clips to swap.
    """
    permuted: dict[str, Permuted | None] = {}
    for unit in UNITS:
        swaps = resampling.swaps[unit]
        if swaps is None:
            permuted[unit] = None
        else:
            difference, differences = swap(swaps.clips)
            permuted[unit] = Permuted(differences, swaps.exhaustive)
    return difference, permuted

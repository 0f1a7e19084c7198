# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Baselines on texts: scores of resamples are those of the repeated rows."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.wild.text_baselines import estimates, f1
from modeling_sparse_merit.evaluation.task_scores import concordance
from modeling_sparse_merit.metrics.regression import concordance_correlation

COUNTS = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0], [0, 1, 1, 1, 3, 0]], dtype=float)


def repeated(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.repeat(values, counts.astype(int))


def test_ccc_of_a_resample_is_that_of_the_repeated_rows():
    true, predicted = np.array([1.0, 2, 3, 4, 2, 1]), np.array([1.5, 2, 2, 5, 1, 1])
    expected = [concordance_correlation(repeated(true, row), repeated(predicted, row)) for row in COUNTS]
    np.testing.assert_allclose(concordance(true, predicted[None])(COUNTS)[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("average", ["weighted", "macro"])
def test_f1_of_a_resample_is_that_of_the_repeated_rows(average):
    true, predicted = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 1, 2, 1, 2])
    expected = [f1_score(repeated(true, row), repeated(predicted, row), average=average) for row in COUNTS]
    np.testing.assert_allclose(f1(true, predicted, average, COUNTS), expected, rtol=1e-12)


def test_intervals_are_over_units_and_contain_the_score():
    true = np.arange(40) % 3
    predicted = np.where(np.arange(40) % 5 == 0, 0, true)
    scores = {"macro": lambda counts: f1(true, predicted, "macro", counts)}
    by_row, by_dialogue = (estimates(scores, units)["macro"] for units in (np.arange(40), np.arange(40) // 10))
    assert by_row["mean"] == by_dialogue["mean"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert by_row["low"] < by_row["mean"] < by_row["high"] and by_row["low"] != by_dialogue["low"]

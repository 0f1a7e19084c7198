# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The concordance correlation coefficient as a module of `evaluate`."""

from collections.abc import Sequence

from datasets import Features, Value

from modeling_sparse_merit.metrics import regression
from modeling_sparse_merit.metrics.modules import Measure


class ConcordanceCorrelation(Measure):
    """CCC of predicted against true values, of arousal for instance: 1 for equal ones, 0 without agreement. Undefined
    for fewer than two clips and where both sides are constant."""

    citation = """@article{lin1989,
  title = {A Concordance Correlation Coefficient to Evaluate Reproducibility},
  author = {Lin, Lawrence I-Kuei},
  journal = {Biometrics},
  volume = {45}, number = {1}, year = {1989},
}"""
    usage = """
Args:
    predictions: the predicted value of each clip.
    references: the true value of each clip.
Returns:
    concordance_correlation: -1 to 1, or NaN.
"""

    def _features(self) -> Features:
        return Features({"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {"concordance_correlation": regression.concordance_correlation(references, predictions)}

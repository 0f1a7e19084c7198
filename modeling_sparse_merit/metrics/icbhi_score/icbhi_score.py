# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The ICBHI score as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

from datasets import Features, Value

from modeling_sparse_merit.metrics import icbhi
from modeling_sparse_merit.metrics.modules import Measure


class IcbhiScore(Measure):
    """Score of the ICBHI 2017 challenge for respiratory sounds: mean of specificity and sensitivity. Undefined without
    a normal and an abnormal cycle."""

    options = {"classes": icbhi.CLASSES, "binary": False}
    citation = """@article{rocha2019,
  title = {An open access database for the evaluation of respiratory sound classification algorithms},
  author = {Rocha, Bruno M. and Filos, Dimitris and Mendes, Lu{\\'\\i}s and others},
  journal = {Physiological Measurement},
  volume = {40}, number = {3}, year = {2019},
}"""
    usage = """
Args:
    predictions: the predicted class of each breathing cycle.
    references: the true class of each breathing cycle.
    classes: all classes, the normal one first; normal, crackle, wheeze, both by default.
    binary: whether any abnormal class counts as recognised for an abnormal cycle.
Returns:
    specificity, sensitivity, score: from 0 to 1, or NaN.
"""

    def _features(self) -> list[Features]:
        return [Features({"predictions": Value(kind), "references": Value(kind)}) for kind in ("int64", "string")]

    def _compute(self, predictions: Sequence, references: Sequence, **chosen: Any) -> dict[str, float]:
        options = self._override(self.defaults, chosen)
        return icbhi.icbhi_score(references, predictions, **options)

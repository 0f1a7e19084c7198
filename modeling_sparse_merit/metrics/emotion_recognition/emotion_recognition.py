# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores of emotion recognition as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

from datasets import Features, Value

from modeling_sparse_merit.metrics import emotion
from modeling_sparse_merit.metrics.modules import Measure


class EmotionRecognition(Measure):
    """Macro-F1, micro-F1 (equal to the accuracy), unweighted average recall (UAR), F1 of each class and the confusion
    matrix. Classes are names or integers."""

    options = {"classes": None}
    citation = """@inproceedings{schuller2009,
  title = {The {INTERSPEECH} 2009 Emotion Challenge},
  author = {Schuller, Björn and Steidl, Stefan and Batliner, Anton},
  booktitle = {Interspeech},
  year = {2009},
}"""
    usage = """
Args:
    predictions: the predicted class of each clip.
    references: the true class of each clip.
    classes: all classes, in the order of the confusion matrix; by default those that occur, sorted.
Returns:
    macro_f1, micro_f1, uar: from 0 to 1; means of the classes that occur.
    per_class_f1: {class: F1}; NaN for a class that does not occur.
    confusion: counts; rows are true classes, columns are predicted classes.
    classes: the classes of `confusion`.
"""

    def _features(self) -> list[Features]:
        return [Features({"predictions": Value(kind), "references": Value(kind)}) for kind in ("int64", "string")]

    def _compute(self, predictions: Sequence, references: Sequence, **chosen: Any) -> dict[str, Any]:
        classes = self._override(self.defaults, chosen)["classes"]
        classes = sorted({*predictions, *references}) if classes is None else list(classes)
        return {
            "macro_f1": emotion.macro_f1(references, predictions, classes),
            "micro_f1": emotion.micro_f1(references, predictions, classes),
            "uar": emotion.unweighted_average_recall(references, predictions, classes),
            "per_class_f1": emotion.per_class_f1(references, predictions, classes),
            "confusion": emotion.confusion(references, predictions, classes).tolist(),
            "classes": classes,
        }

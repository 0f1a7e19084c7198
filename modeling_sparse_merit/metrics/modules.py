# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the modules of `evaluate` in the folders beside this file have in common. The file in a folder names a measure,
its options and its source. `evaluate` runs a copy of it elsewhere, so its imports of this package are absolute."""

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value

from .clips import UndefinedScoreWarning
from .scores import ClipMeasure, score_clips

CLIPS_AT_ONCE = 16  # on their way to the disk every sample is an object of Python's, 32 bytes
LOADING_ARGUMENTS = inspect.signature(evaluate.Metric.__init__).parameters


class Measure(evaluate.Metric, ABC):
    """A metric whose options are given where it is loaded, and so hold in `evaluate.combine` too, or to `compute`.

    Attributes:
        options: `{name: default}`.
        citation: who defined the measure, as BibTeX.
        usage: what `compute` takes and gives.
    """

    options: ClassVar[dict[str, Any]] = {}
    citation: ClassVar[str]
    usage: ClassVar[str]

    def __init__(self, **arguments: Any):
        chosen = {name: value for name, value in arguments.items() if name not in LOADING_ARGUMENTS}
        self.defaults = self._override(self.options, chosen)
        super().__init__(**{name: value for name, value in arguments.items() if name in LOADING_ARGUMENTS})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self)),
            citation=self.citation,
            inputs_description=self.usage,
            features=self._features(),
        )

    @abstractmethod
    def _features(self) -> Features | list[Features]:
        """What `predictions` and `references` hold."""

    def _override(self, defaults: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(chosen.keys() - defaults.keys())
        if unknown:
            raise ValueError(f"{type(self).__name__} has no options {unknown}; expected {sorted(self.options)}.")
        return defaults | chosen


class ClipsMeasure(Measure):
    """A metric of enhanced clips against clean ones, which may differ in length from pair to pair."""

    options = {"sampling_rate": 16_000, "num_processes": 1}
    usage = """
Args:
    predictions: enhanced clips, each a sequence of samples.
    references: their clean clips, each as long as its prediction.
    sampling_rate: of all clips, in Hz.
    num_processes: clips that are scored at once; -1 is one for each CPU core. The scores do not depend on it.
Returns, for each score:
    NAME: the mean over the clips that have the score.
    NAME_per_clip: the score of each clip; NaN where it is undefined.
    NAME_undefined: how many clips that is.
"""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.writer_batch_size = CLIPS_AT_ONCE

    @abstractmethod
    def clip_measure(self, sampling_rate: int, **options: Any) -> ClipMeasure:
        """The function of a clean and an enhanced clip, each of shape (samples,), that gives a score or several."""

    def _features(self) -> Features:
        return Features({"predictions": List(Value("float32")), "references": List(Value("float32"))})

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        info.format = "numpy"  # clips come back as arrays; as lists of Python's numbers they are 8 times the size
        return info

    def add_batch(self, *, predictions: Sequence, references: Sequence, **others: Any) -> None:
        """Add clips, as `evaluate.Metric.add_batch` does."""
        if len(predictions) != len(references):
            raise ValueError(
                f"Every clip needs a reference: got {len(predictions)} clips and {len(references)} references."
            )
        for start in range(0, len(predictions), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            super().add_batch(predictions=predictions[part], references=references[part], **others)

    def _compute(self, predictions: Sequence, references: Sequence, **chosen: Any) -> dict[str, Any]:
        options = self._override(self.defaults, chosen)
        num_processes = options.pop("num_processes")
        scores, reasons = score_clips(self.clip_measure(**options), references, predictions, num_processes)
        if reasons:
            _warn_of_undefined(reasons, len(scores))
        named = [score if isinstance(score, dict) else {self.name: score} for score in scores]
        summary: dict[str, Any] = {}
        for name in named[0]:
            summary |= _summary(name, [score[name] for score in named])
        return summary


def _summary(name: str, scores: list[float]) -> dict[str, Any]:
    defined = [score for score in scores if not math.isnan(score)]
    return {
        name: float(np.mean(defined)) if defined else math.nan,
        f"{name}_per_clip": scores,
        f"{name}_undefined": len(scores) - len(defined),
    }


def _warn_of_undefined(reasons: list[str], num_clips: int) -> None:
    counts = ", ".join(f"{reason.rstrip('.')} ({count} clips)" for reason, count in Counter(reasons).most_common())
    message = f"{len(reasons)} of {num_clips} clips have no score and do not count in the mean: {counts}."
    warnings.warn(message, UndefinedScoreWarning, stacklevel=4)  # the caller of `compute`

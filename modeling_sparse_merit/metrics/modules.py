# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Base classes of the `evaluate` modules in the neighbouring folders. The file in each folder defines a metric, its
options and its source. `evaluate` runs a copy of that file, so it imports this package absolutely."""

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

CLIPS_AT_ONCE = 16  # when written to disk, every sample becomes a Python object of 32 bytes
LOADING_ARGUMENTS = inspect.signature(evaluate.Metric.__init__).parameters


class Measure(evaluate.Metric, ABC):
    """A metric whose options are given to `load`, which also works with `evaluate.combine`, or to `compute`.

    Attributes:
        options: `{name: default}`.
        citation: source of the metric, as BibTeX.
        usage: arguments and results of `compute`.
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
        """The schema of `predictions` and `references`."""

    def _override(self, defaults: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(chosen.keys() - defaults.keys())
        if unknown:
            raise ValueError(f"{type(self).__name__} has no options {unknown}; expected {sorted(self.options)}.")
        return defaults | chosen


class ClipsMeasure(Measure):
    """A metric of enhanced clips, against clean ones if its features have references; lengths may differ between
    pairs."""

    options = {"sampling_rate": 16_000, "num_processes": 1}
    usage = """
Args:
    predictions: enhanced clips, each a sequence of samples.
    references: their clean clips, each as long as its prediction.
    sampling_rate: sampling rate of all clips in Hz.
    num_processes: number of processes; -1 is one per CPU core. The scores do not depend on it.
Returns, for each score:
    NAME: mean over the clips for which the score is defined.
    NAME_per_clip: score of each clip; NaN where undefined.
    NAME_undefined: number of clips for which the score is undefined.
"""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.writer_batch_size = CLIPS_AT_ONCE

    @abstractmethod
    def clip_measure(self, sampling_rate: int, **options: Any) -> ClipMeasure:
        """A function of a clean and an enhanced clip, each (samples,), that returns one or several scores.

        Args:
            sampling_rate: sampling rate of both clips in Hz.
            options: options of the metric.
        """

    def _features(self) -> Features:
        return Features({"predictions": List(Value("float32")), "references": List(Value("float32"))})

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        info.format = "numpy"  # read clips as arrays; lists of Python numbers are 8 times as large
        return info

    def add_batch(self, *, predictions: Sequence, references: Sequence | None = None, **others: Any) -> None:
        """Adds clips, as `evaluate.Metric.add_batch` does.

        Args:
            predictions: enhanced clips, each (samples,).
            references: clean clips, each (samples,); None for a metric without references.
            others: passed on to `evaluate.Metric.add_batch`.

        Raises:
            ValueError: the numbers of clips and references differ.
        """
        if references is not None and len(predictions) != len(references):
            raise ValueError(
                f"Every clip needs a reference: got {len(predictions)} clips and {len(references)} references."
            )
        for start in range(0, len(predictions), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            clean = None if references is None else references[part]
            super().add_batch(predictions=predictions[part], references=clean, **others)

    def _compute(self, predictions: Sequence, references: Sequence | None = None, **chosen: Any) -> dict[str, Any]:
        options = self._override(self.defaults, chosen)
        num_processes = options.pop("num_processes")
        clean = predictions if references is None else references  # not used without references
        scores, reasons = score_clips(self.clip_measure(**options), clean, predictions, num_processes)
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
    message = f"{len(reasons)} of {num_clips} clips have an undefined score and are left out of the mean: {counts}."
    warnings.warn(message, UndefinedScoreWarning, stacklevel=4)  # the caller of `compute`

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The emotion diarization error rate as a module of `evaluate`."""

from collections.abc import Sequence
from typing import Any

from datasets import Features, List, Value

from modeling_sparse_merit.metrics import diarization
from modeling_sparse_merit.metrics.modules import Measure


class EmotionDiarizationErrorRate(Measure):
    """EDER: the share of time with a wrong emotion: false alarms, missed emotions, confusions and overlaps. 0 is
    best."""

    options = {"background": diarization.NEUTRAL}
    citation = """@inproceedings{wang2023speech,
  title = {Speech Emotion Diarization: Which Emotion Appears When?},
  author = {Wang, Yingzhi and Ravanelli, Mirco and Yacoubi, Alya},
  booktitle = {IEEE Automatic Speech Recognition and Understanding Workshop},
  year = {2023},
}"""
    usage = """
Args:
    predictions: segments of each recording, {"start", "end", "emotion"} in seconds.
    references: {"segments": such segments, "duration": in seconds} of each recording.
    background: emotion of the reference outside its segments; "neutral" by default, None for no speech.
Returns:
    emotion_diarization_error_rate, and its components false_alarm, missed_emotion, confusion, overlap: 0 to 1.
"""

    def _features(self) -> Features:
        segment = {"start": Value("float64"), "end": Value("float64"), "emotion": Value("string")}
        reference = {"segments": List(segment), "duration": Value("float64")}
        return Features({"predictions": List(segment), "references": reference})

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[dict[str, Any]], **options: Any
    ) -> dict[str, float]:
        background = self._override(self.defaults, options)["background"]
        segments, durations = ([entry[name] for entry in references] for name in ("segments", "duration"))
        return diarization.emotion_diarization_error_rate(segments, predictions, durations, background)

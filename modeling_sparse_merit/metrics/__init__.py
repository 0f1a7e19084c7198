# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Measures of both tasks: how close enhanced speech is to the clean speech, and how well emotions are recognised."""

from .emotion import accuracy, confusion, macro_f1, per_class_f1, unweighted_average_recall
from .speech import SPEECH_MEASURES, UndefinedScoreWarning, pesq, segmental_snr, si_sdr, snr, speech_scores, stoi

__all__ = [
    "SPEECH_MEASURES",
    "UndefinedScoreWarning",
    "accuracy",
    "confusion",
    "macro_f1",
    "per_class_f1",
    "pesq",
    "segmental_snr",
    "si_sdr",
    "snr",
    "speech_scores",
    "stoi",
    "unweighted_average_recall",
]

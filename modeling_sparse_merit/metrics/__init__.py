# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of speech enhancement and emotion recognition: as functions, and as modules of `evaluate` by `load`. The
folder of each module can also be passed to `evaluate.load`."""

from .calibration import expected_calibration_error
from .clips import UndefinedScoreWarning
from .diarization import emotion_diarization_error_rate
from .emotion import (
    accuracy,
    confusion,
    macro_f1,
    micro_f1,
    per_class_f1,
    unweighted_average_recall,
    weighted_f1,
)
from .icbhi import icbhi_score
from .loading import load
from .quality import composite, log_likelihood_ratio, weighted_spectral_slope
from .ratings import dnsmos
from .regression import concordance_correlation
from .scores import DEFAULT_SPEECH_MEASURES, SCORE_TITLES, SPEECH_MEASURES, score_clips, speech_scores
from .speech import pesq, segmental_snr, si_sdr, snr, stoi
from .verification import equal_error_rate, min_dcf

__all__ = [
    "DEFAULT_SPEECH_MEASURES",
    "SCORE_TITLES",
    "SPEECH_MEASURES",
    "UndefinedScoreWarning",
    "accuracy",
    "composite",
    "concordance_correlation",
    "confusion",
    "dnsmos",
    "emotion_diarization_error_rate",
    "equal_error_rate",
    "expected_calibration_error",
    "icbhi_score",
    "load",
    "log_likelihood_ratio",
    "macro_f1",
    "micro_f1",
    "min_dcf",
    "per_class_f1",
    "pesq",
    "score_clips",
    "segmental_snr",
    "si_sdr",
    "snr",
    "speech_scores",
    "stoi",
    "unweighted_average_recall",
    "weighted_f1",
    "weighted_spectral_slope",
]

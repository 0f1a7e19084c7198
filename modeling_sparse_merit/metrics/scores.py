# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Several measures of one clip, and one measure of several clips."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from ..extras import import_extra
from .clips import UndefinedScoreWarning
from .quality import COMPOSITE_MEASURES, composite
from .ratings import DNSMOS_MEASURES, dnsmos
from .speech import pesq, segmental_snr, si_sdr, stoi

ClipMeasure = Callable[[np.ndarray, np.ndarray], "float | dict[str, float]"]


def _composite_measure(clean: np.ndarray, enhanced: np.ndarray, name: str) -> float:
    return composite(clean, enhanced)[name]


def _dnsmos_measure(clean: np.ndarray, enhanced: np.ndarray, name: str) -> float:
    return dnsmos(enhanced)[name]


# functions of a clean and an enhanced clip, each (samples,) at 16 kHz
SPEECH_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pesq_wb": pesq,
    "pesq_nb": partial(pesq, mode="nb"),
    "stoi": stoi,
    "estoi": partial(stoi, extended=True),
    "segmental_snr": segmental_snr,
    "si_sdr": si_sdr,
    **{name: partial(_composite_measure, name=name) for name in COMPOSITE_MEASURES},
    **{name: partial(_dnsmos_measure, name=name) for name in DNSMOS_MEASURES},
}
SCORE_TITLES = {
    "macro_f1": "macro-F1",
    "segmental_snr": "segmental SNR (dB)",
    "pesq_wb": "PESQ-WB",
    "pesq_nb": "PESQ-NB",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "si_sdr": "SI-SDR (dB)",
    "csig": "CSIG",
    "cbak": "CBAK",
    "covl": "COVL",
    "dnsmos_ovrl": "DNSMOS OVRL",
    "dnsmos_sig": "DNSMOS SIG",
    "dnsmos_bak": "DNSMOS BAK",
}
"""Title of each score in reports, in the order of reports; the first two are those of the paper."""
DEFAULT_SPEECH_MEASURES = ("pesq_wb", "stoi", "segmental_snr", "si_sdr")


def speech_scores(clean: np.ndarray, enhanced: np.ndarray, measures: Sequence[str] | None = None) -> dict[str, float]:
    """Computes several measures of one clip. PESQ takes most of the time; the composite measures reuse `pesq_wb`,
    and DNSMOS is computed once.

    Args:
        clean: the reference at 16 kHz, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        measures: names of `SPEECH_MEASURES`; None takes `DEFAULT_SPEECH_MEASURES`.

    Returns:
        `{name: score}`, in the order of `measures`. An undefined score is NaN without a warning, since the caller
        can count them over clips.

    Raises:
        ImportError: a package of the extras `metrics` or `mos` is not installed.
        ValueError: a measure is unknown, shapes differ, are not one-dimensional, or a sample is not finite.
    """
    measures = DEFAULT_SPEECH_MEASURES if measures is None else measures
    unknown = [name for name in measures if name not in SPEECH_MEASURES]
    if unknown:
        raise ValueError(f"Unknown speech measures {unknown}; expected names among {list(SPEECH_MEASURES)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScoreWarning)
        alone = [name for name in measures if name not in (*COMPOSITE_MEASURES, *DNSMOS_MEASURES)]
        scores = {name: SPEECH_MEASURES[name](clean, enhanced) for name in alone}
        if not set(COMPOSITE_MEASURES).isdisjoint(measures):
            scores |= composite(clean, enhanced, known=scores)
        if not set(DNSMOS_MEASURES).isdisjoint(measures):
            scores |= dnsmos(enhanced)
    return {name: scores[name] for name in measures}


def score_clips(
    measure: ClipMeasure,
    clean: Iterable[np.ndarray],
    enhanced: Iterable[np.ndarray],
    num_processes: int = 1,
) -> tuple[list[float | dict[str, float]], list[str]]:
    """Computes one measure of several clips in parallel; the scores do not depend on the number of processes.

    Args:
        measure: a function of one clean and one enhanced clip.
        clean: the references, each of shape (samples,).
        enhanced: the clips to be scored, equally many.
        num_processes: number of processes; -1 is one per CPU core.

    Returns:
        The score of each clip, in order, and the reason of every undefined score.

    Raises:
        ImportError: a package of the `metrics` extra is not installed.
        ValueError: a pair of clips cannot be scored; the message says which.
    """
    joblib = import_extra("joblib", "metrics")
    pairs = enumerate(zip(clean, enhanced, strict=True))
    tasks = (joblib.delayed(_score_clip)(measure, index, *pair) for index, pair in pairs)
    results = joblib.Parallel(n_jobs=num_processes)(tasks)
    return [score for score, _ in results], [reason for _, reason in results if reason]


def _score_clip(
    measure: ClipMeasure, index: int, clean: np.ndarray, enhanced: np.ndarray
) -> tuple[float | dict[str, float], str | None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            score = measure(clean, enhanced)
        except ValueError as error:
            raise ValueError(f"Clip {index}: {error}") from error
    reasons = [str(warning.message) for warning in caught if warning.category is UndefinedScoreWarning]
    return score, reasons[0] if reasons else None

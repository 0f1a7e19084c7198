# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Many measures of a clip, and a measure of many clips."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from .clips import UndefinedScoreWarning, import_extra
from .quality import COMPOSITE_MEASURES, composite
from .speech import pesq, segmental_snr, si_sdr, stoi

ClipMeasure = Callable[[np.ndarray, np.ndarray], "float | dict[str, float]"]


def _composite_measure(clean: np.ndarray, enhanced: np.ndarray, name: str) -> float:
    return composite(clean, enhanced)[name]


# each of a clean and an enhanced clip, of shape (samples,) at 16 kHz
SPEECH_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pesq_wb": pesq,
    "pesq_nb": partial(pesq, mode="nb"),
    "stoi": stoi,
    "estoi": partial(stoi, extended=True),
    "segmental_snr": segmental_snr,
    "si_sdr": si_sdr,
    **{name: partial(_composite_measure, name=name) for name in COMPOSITE_MEASURES},
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
}
"""What a report calls each score, in the order in which it shows them; the first two are the paper's."""
DEFAULT_SPEECH_MEASURES = ("pesq_wb", "stoi", "segmental_snr", "si_sdr")


def speech_scores(clean: np.ndarray, enhanced: np.ndarray, measures: Sequence[str] | None = None) -> dict[str, float]:
    """Several measures of one clip. PESQ takes most of the time; the composite measures share it with `pesq_wb`.

    Args:
        clean: the reference at 16 kHz, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        measures: names of `SPEECH_MEASURES`; None takes `DEFAULT_SPEECH_MEASURES`.

    Returns:
        `{name: score}`, in the order of `measures`. An undefined score is NaN without a warning here, as the caller
        sees many clips and can count them.

    Raises:
        ImportError: a package of the `metrics` extra is not installed.
        ValueError: there is no such measure; shapes differ, are not one-dimensional, or a sample is not finite.
    """
    measures = DEFAULT_SPEECH_MEASURES if measures is None else measures
    unknown = [name for name in measures if name not in SPEECH_MEASURES]
    if unknown:
        raise ValueError(f"There are no speech measures {unknown}; expected names among {list(SPEECH_MEASURES)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScoreWarning)
        scores = {name: SPEECH_MEASURES[name](clean, enhanced) for name in measures if name not in COMPOSITE_MEASURES}
        if not scores.keys() >= set(measures):
            scores |= composite(clean, enhanced, known=scores)
    return {name: scores[name] for name in measures}


def score_clips(
    measure: ClipMeasure,
    clean: Iterable[np.ndarray],
    enhanced: Iterable[np.ndarray],
    num_processes: int = 1,
) -> tuple[list[float | dict[str, float]], list[str]]:
    """One measure of many clips, in parallel over clips; the scores do not depend on the number of processes.

    Args:
        measure: a function of one clean and one enhanced clip.
        clean: the references, each of shape (samples,).
        enhanced: the clips to be scored, as many.
        num_processes: clips that are scored at once; -1 is one for each CPU core.

    Returns:
        What `measure` gave for each clip, in their order, and a reason for every clip whose score is undefined.

    Raises:
        ImportError: a package of the `metrics` extra is not installed.
        ValueError: a pair of clips cannot be scored; the error tells which.
    """
    joblib = import_extra("joblib")
    pairs = enumerate(zip(clean, enhanced, strict=True))
    tasks = (joblib.delayed(_score_clip)(measure, index, *pair) for index, pair in pairs)
    answers = joblib.Parallel(n_jobs=num_processes)(tasks)
    return [score for score, _ in answers], [reason for _, reason in answers if reason]


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

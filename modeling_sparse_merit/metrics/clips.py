# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common parts of speech measures: checks of the two clips, and undefined scores."""

import math
import warnings

import numpy as np


class UndefinedScoreWarning(UserWarning):
    """A measure is undefined for a clip, so NaN was returned."""


def checked_pair(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks a pair of clips, and converts both to float64 (samples,).

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = np.asarray(clean, dtype=np.float64), np.asarray(enhanced, dtype=np.float64)
    if clean.ndim != 1 or clean.shape != enhanced.shape:
        raise ValueError(
            f"A clip is scored against a reference of the same length: got clean {clean.shape} and enhanced "
            f"{enhanced.shape}, expected two arrays of shape (samples,). Cut or pad one of them first."
        )
    return checked_clip(clean, "clean"), checked_clip(enhanced, "enhanced")


def checked_clip(waveform: np.ndarray, name: str) -> np.ndarray:
    """Checks a clip, and converts it to float64 (samples,).

    Args:
        waveform: the clip, shape (samples,).
        name: what the clip is, in error messages.

    Raises:
        ValueError: the clip is not one-dimensional, or a sample is not finite.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    if waveform.ndim != 1:
        raise ValueError(f"The {name} clip has the shape {waveform.shape}; expected (samples,).")
    if not np.isfinite(waveform).all():
        raise ValueError(f"The {name} clip has NaN or infinite samples, so it cannot be scored.")
    return waveform


def undefined(measure: str, reason: str) -> float:
    """Returns NaN, with an `UndefinedScoreWarning` that points to the caller of the measure.

    Args:
        measure: name of the measure.
        reason: why it is undefined.
    """
    warnings.warn(f"{measure} is undefined: {reason}.", UndefinedScoreWarning, stacklevel=3)
    return math.nan

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common parts of speech measures: checks of the two clips, and undefined scores."""

import importlib
import math
import warnings
from types import ModuleType

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
    for name, waveform in (("clean", clean), ("enhanced", enhanced)):
        if not np.isfinite(waveform).all():
            raise ValueError(f"The {name} clip has NaN or infinite samples, so it cannot be scored.")
    return clean, enhanced


def undefined(measure: str, reason: str) -> float:
    """Returns NaN, with an `UndefinedScoreWarning` that points to the caller of the measure.

    Args:
        measure: name of the measure.
        reason: why it is undefined.
    """
    warnings.warn(f"{measure} is undefined: {reason}.", UndefinedScoreWarning, stacklevel=3)
    return math.nan


def import_extra(name: str) -> ModuleType:
    """Imports a package of the `metrics` extra.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This measure needs the package `{name}`: pip install "modeling-sparse-merit[metrics]"'
        ) from error

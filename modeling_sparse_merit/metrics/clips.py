# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What every speech measure does with its two clips before it measures, and with a score that does not exist."""

import importlib
import math
import warnings
from types import ModuleType

import numpy as np


class UndefinedScoreWarning(UserWarning):
    """A measure has no value for a clip, and NaN was returned."""


def checked_pair(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both clips as float64 (samples,).

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
            raise ValueError(f"The {name} clip holds NaN or infinite samples; it cannot be scored.")
    return clean, enhanced


def undefined(measure: str, reason: str) -> float:
    """NaN, with an `UndefinedScoreWarning` that points at the caller of the measure."""
    warnings.warn(f"{measure} is undefined: {reason}.", UndefinedScoreWarning, stacklevel=3)
    return math.nan


def import_extra(name: str) -> ModuleType:
    """A package of the `metrics` extra, imported when it is first needed.

    Raises:
        ImportError: it is not installed; the error says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This measure needs the package `{name}`: pip install "modeling-sparse-merit[metrics]"'
        ) from error

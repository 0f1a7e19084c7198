# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Ratings as listeners would give them, predicted without the clean speech. `dnsmos` needs the package of the extra
`mos`, which contains the network."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..extras import one_thread_session
from .clips import checked_clip, undefined

DNSMOS_MEASURES = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
DNSMOS_RATE = 16_000  # Hz
DNSMOS_SECONDS, DNSMOS_SAMPLES = 9.01, 144_160  # the input of the network
# Quadratic calibrations of the network's outputs to the ratings of P.835, as published with it: signal, background,
# overall; coefficients of x^2, x and 1
CALIBRATION = {
    "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


def dnsmos(waveform: np.ndarray, sampling_rate: int = DNSMOS_RATE) -> dict[str, float]:
    """DNSMOS P.835 (Reddy et al., ICASSP 2022): predicted ratings from 1 to 5 of the overall quality, the signal and
    the background (package `speechmos`).

    A clip is repeated until it has 9.01 s. A longer one has the mean over windows of that length that start at whole
    seconds: at those of the published script. Samples beyond full scale are clipped.

    Args:
        waveform: the clip to be rated, shape (samples,), full scale 1.
        sampling_rate: sampling rate of the clip, 16000 Hz.

    Returns:
        `{"dnsmos_ovrl": ..., "dnsmos_sig": ..., "dnsmos_bak": ...}`; NaN if the clip is silent.

    Raises:
        ImportError: `speechmos` or `onnxruntime` is not installed.
        ValueError: the sampling rate is not 16000 Hz, the clip is not one-dimensional, or a sample is not finite.
    """
    if sampling_rate != DNSMOS_RATE:
        raise ValueError(
            f"DNSMOS got sampling_rate={sampling_rate}, but is defined at {DNSMOS_RATE} Hz: resample the clip first."
        )
    clip = np.clip(checked_clip(waveform, "rated"), -1, 1).astype(np.float32)
    session = _dnsmos_session()
    if not np.any(clip):
        return dict.fromkeys(DNSMOS_MEASURES, undefined("DNSMOS", "the clip is silent"))
    while len(clip) < DNSMOS_SAMPLES:
        clip = np.concatenate([clip, clip])
    windows = sliding_window_view(clip, DNSMOS_SAMPLES)[_window_starts(len(clip))]  # (windows, 144160)
    outputs = np.concatenate([session.run(None, {"input_1": window[None]})[0] for window in windows])  # (windows, 3)
    ratings = {
        name: float(np.polyval(coefficients, output).mean())
        for (name, coefficients), output in zip(CALIBRATION.items(), outputs.T.astype(np.float64), strict=True)
    }
    return {name: ratings[name] for name in DNSMOS_MEASURES}


def _window_starts(samples: int) -> list[int]:
    """First samples of the windows of the published script, which leaves out the last one of some lengths, and those
    that lack a sample after rounding."""
    seconds = range(max(1, samples // DNSMOS_RATE - 9))
    ends = {second: int((second + DNSMOS_SECONDS) * DNSMOS_RATE) for second in seconds}
    return [second * DNSMOS_RATE for second, end in ends.items() if end - second * DNSMOS_RATE == DNSMOS_SAMPLES]


@cache
def _dnsmos_session() -> Any:
    package = find_spec("speechmos")
    if package is None or package.origin is None:
        raise ImportError('DNSMOS needs the package `speechmos`: pip install "modeling-sparse-merit[mos]"')
    return one_thread_session(Path(package.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx", "mos")

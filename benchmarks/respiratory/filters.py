# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Two filters without training, as baselines of the enhancers."""

import numpy as np
from scipy.signal import butter, istft, sosfiltfilt, stft

SAMPLING_RATE = 16_000
CUTOFF = 1_000.0  # Hz; most of the energy of breath is below it
WINDOW, HOP = 512, 128  # samples
NOISE_QUANTILE = 0.2  # of the power of each bin over time, taken as noise
SMOOTHING = 0.98  # of the a-priori SNR
SMALLEST_GAIN = 0.1


def low_pass(waveform: np.ndarray) -> np.ndarray:
    """A Butterworth filter of fourth order at 1 kHz, forwards and backwards, so that no phase changes: (samples,)."""
    return sosfiltfilt(butter(4, CUTOFF, fs=SAMPLING_RATE, output="sos"), waveform).astype(np.float32)


def wiener(waveform: np.ndarray) -> np.ndarray:
    """
    A Wiener filter: stationary noise from the quiet frames of each bin, a-priori SNR by the decision-directed approach
    (Ephraim and Malah, IEEE TASSP 1984).

    Args:
        waveform: (samples,) at 16 kHz.
    """
    spectrum = stft(waveform, SAMPLING_RATE, nperseg=WINDOW, noverlap=WINDOW - HOP)[2]  # (bins, frames)
    power = np.abs(spectrum) ** 2
    # the quantile of exponentially distributed power is this share of its mean
    noise = np.quantile(power, NOISE_QUANTILE, axis=1) / -np.log(1 - NOISE_QUANTILE) + 1e-12  # (bins,)
    gains, previous = np.empty_like(power), np.zeros(len(power))
    for frame, current in enumerate(power.T):
        posterior = current / noise
        prior = SMOOTHING * previous + (1 - SMOOTHING) * np.maximum(posterior - 1, 0)
        gains[:, frame] = np.maximum(prior / (1 + prior), SMALLEST_GAIN)
        previous = gains[:, frame] ** 2 * posterior
    enhanced = istft(gains * spectrum, SAMPLING_RATE, nperseg=WINDOW, noverlap=WINDOW - HOP)[1]
    return enhanced[: len(waveform)].astype(np.float32)


FILTERS = {"low_pass": low_pass, "wiener": wiener}

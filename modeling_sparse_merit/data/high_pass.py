# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A high-pass filter for recordings whose rumble has more energy than their sound, such as those of stethoscopes."""

import numpy as np
from scipy.signal import butter, sosfiltfilt

ORDER = 4
PADDING = 15  # samples on both sides, what `sosfiltfilt` takes for this order


class RandomHighPass:
    """
    Filters what is below a frequency out, which is drawn for each call. It is a transform as [`MixingRecipe`] takes
    it: the recipe seeds the global generator of numpy for the call.

    Args:
        low, high: Range of the frequency in Hz, which is uniform on a logarithmic scale.
    """

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high

    def __call__(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """
        Args:
            samples: (samples,).
            sample_rate: In Hz.

        Returns:
            float32 (samples,).
        """
        frequency = float(np.exp(np.random.uniform(np.log(self.low), np.log(self.high))))
        return high_pass(samples, frequency, sample_rate)


def high_pass(samples: np.ndarray, frequency: float, sampling_rate: int) -> np.ndarray:
    """
    A Butterworth filter of fourth order, forwards and backwards, so that no phase changes.

    Args:
        samples: (samples,).
        frequency: Frequencies below it are removed, in Hz.
        sampling_rate: In Hz.

    Returns:
        float32 (samples,).
    """
    sections = butter(ORDER, frequency, "highpass", fs=sampling_rate, output="sos")
    return sosfiltfilt(sections, samples, padlen=min(PADDING, len(samples) - 1)).astype(np.float32)

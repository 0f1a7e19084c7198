# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Loudness of mono signals, and signals at equal loudness (ITU-R BS.1770-5, annex 1)."""

from collections.abc import Sequence

import numpy as np

# Biquads of the K-weighting at 48 kHz, numerator and denominator (tables 1 and 2)
K_WEIGHTING = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
FILTER_RATE = 48_000  # Hz
OFFSET = -0.691  # dB, of the K-weighting at 997 Hz
BLOCK_S, STEP_S = 0.4, 0.1
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LKFS, and LU relative to the mean of what passes the absolute gate
COMMON = -20.0  # LKFS
PEAK = 0.99


def loudness(waveform: np.ndarray, sampling_rate: int) -> float:
    """Gated loudness of a mono signal in LKFS; minus infinity if no block reaches -70 LKFS.

    The weighting is applied to the spectrum of each block of 0.4 s, instead of to the signal by a filter.

    Args:
        waveform: (samples,), full scale +-1.
        sampling_rate: in Hz, at most 48,000.
    """
    blocks = block_loudness(waveform, sampling_rate)
    blocks = blocks[blocks > ABSOLUTE_GATE]
    if not len(blocks):
        return -np.inf
    gate = _mean(blocks) + RELATIVE_GATE
    return _mean(blocks[blocks > gate])


def block_loudness(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Loudness in LKFS of blocks of 0.4 s that start every 0.1 s, (blocks,); a shorter signal is one block.

    Args:
        waveform: (samples,), full scale +-1.
        sampling_rate: in Hz, at most 48,000.
    """
    size, step = min(round(BLOCK_S * sampling_rate), len(waveform)), round(STEP_S * sampling_rate)
    weights = k_weighting(np.fft.rfftfreq(size, 1 / sampling_rate)) / size**2
    weights[1 : (size + 1) // 2] *= 2  # negative frequencies
    powers = [
        np.square(np.abs(np.fft.rfft(waveform[start : start + size]))) @ weights
        for start in range(0, len(waveform) - size + 1, step)
    ]
    return OFFSET + 10 * np.log10(np.array(powers) + 1e-12)


def k_weighting(frequencies: np.ndarray) -> np.ndarray:
    """Gain of the K-weighting, as a power ratio, at frequencies in Hz: (F,) -> (F,)."""
    delay = np.exp(-2j * np.pi * frequencies / FILTER_RATE)
    response = np.ones(len(frequencies), complex)
    for numerator, denominator in K_WEIGHTING:
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    return np.square(np.abs(response))


def at_equal_loudness(waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[np.ndarray]:
    """Scales signals to the same loudness: -20 LKFS, or less if a sample would exceed full scale.

    A signal without loudness, such as silence, gets the smallest gain of the others.

    Args:
        waveforms: arrays (samples,), full scale +-1.
        sampling_rate: of all signals in Hz, at most 48,000.
    """
    levels = [loudness(waveform, sampling_rate) for waveform in waveforms]
    gains = [10 ** ((COMMON - level) / 20) if np.isfinite(level) else None for level in levels]
    smallest = min((gain for gain in gains if gain is not None), default=1.0)
    scaled = [waveform * np.float32(gain or smallest) for waveform, gain in zip(waveforms, gains, strict=True)]
    peak = max(float(np.abs(waveform).max(initial=0)) for waveform in scaled)
    return [waveform * np.float32(min(1.0, PEAK / max(peak, 1e-9))) for waveform in scaled]


def _mean(blocks: np.ndarray) -> float:
    """Loudness of the mean power of blocks in LKFS."""
    return float(10 * np.log10(np.mean(10 ** (blocks / 10))))

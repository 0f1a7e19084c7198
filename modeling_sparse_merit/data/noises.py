# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Waveforms of synthetic noises, drawn from a random number generator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio


def coloured_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose power falls with frequency as f^-a, with a between -0.3 and 2.2, and is changed by up to 12 dB at
    two to six frequencies.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    size = 1 << (samples - 1).bit_length()
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLING_RATE), 30)
    spectrum = np.fft.rfft(generator.standard_normal(size)) * frequencies ** (-generator.uniform(-0.3, 2.2) / 2)
    points = np.sort(generator.uniform(np.log(50), np.log(8000), generator.integers(2, 7)))
    gains_db = np.interp(np.log(frequencies), points, generator.uniform(-12, 12, len(points)))
    return np.fft.irfft(spectrum * 10 ** (gains_db / 20), size)[:samples]


def harmonic_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """A tone of 40 to 1500 Hz with up to 20 harmonics and hiss, usually with vibrato, like engines and sirens.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    time = np.arange(samples) / SAMPLING_RATE
    pitch = np.exp(generator.uniform(np.log(40), np.log(1500)))
    depth = generator.uniform(0, 0.3) * (generator.random() < 0.6)
    rate, start = generator.uniform(0.2, 6), generator.uniform(0, 2 * np.pi)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + depth * np.sin(2 * np.pi * rate * time + start))) / SAMPLING_RATE
    decay, tone = generator.uniform(0.3, 1.5), np.zeros(samples)
    for harmonic in range(1, int(min(20, 7500 / (pitch * (1 + depth)))) + 1):
        tone += np.sin(harmonic * phase + generator.uniform(0, 2 * np.pi)) * harmonic**-decay
    return tone + generator.standard_normal(samples) * tone.std() * generator.uniform(0.05, 0.6)


def impact_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """One to eight decaying bursts per second at random times over a faint coloured floor.

    A burst is coloured noise, in half of the cases ringing at one frequency, that decays by 60 dB within 10 to 300 ms.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    noise = coloured_noise(generator, samples)
    noise *= generator.uniform(0.003, 0.03) / noise.std()
    for start in generator.integers(samples, size=max(1, round(generator.uniform(1, 8) * samples / SAMPLING_RATE))):
        time = np.arange(min(SAMPLING_RATE // 2, samples - start)) / SAMPLING_RATE
        burst = coloured_noise(generator, SAMPLING_RATE // 2)
        burst = burst[: len(time)] / burst.std()
        if generator.random() < 0.5:
            burst = 0.3 * burst + np.sin(2 * np.pi * np.exp(generator.uniform(np.log(100), np.log(6000))) * time)
        decay = np.log(1000) / generator.uniform(0.01, 0.3)  # 1/s
        noise[start : start + len(time)] += generator.uniform(0.2, 1) * burst * np.exp(-decay * time)
    return noise


def babble_noise(generator: np.random.Generator, samples: int, speech: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A mixture of three to eight clips of speech with levels up to 6 dB apart, each repeated to the full length.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.
        speech: rows of a speech dataset, or mappings whose `audio` is any form that `load_audio` accepts.

    Returns:
        (samples,), unscaled.
    """
    noise = np.zeros(samples)
    for row in generator.integers(len(speech), size=generator.integers(3, 9)):
        voice = load_audio(speech[int(row)]["audio"])
        voice = np.resize(np.roll(voice, -generator.integers(len(voice))), samples)
        level = max(np.sqrt(np.mean(voice**2, dtype=np.float64)), 1e-9)
        noise += voice / level * 10 ** (generator.uniform(-6, 0) / 20)
    return noise


def slow_envelope(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Linear interpolation between 3 to 39 random gains from 0.03 to 1.03, like passing cars.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,).
    """
    gains = generator.uniform(0, 1, generator.integers(3, 40)) ** 2 + 0.03
    return np.interp(np.arange(samples), np.linspace(0, samples, len(gains)), gains)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The noise test: adds a synthetic noise to a clean recording at a chosen signal-to-noise ratio."""

from collections.abc import Callable

import numpy as np

from ..data.mixing import SILENT_RMS, rms
from ..data.noises import babble_noise, coloured_noise, harmonic_noise, impact_noise, slow_envelope
from ..models.sparse_merit.audio import SAMPLING_RATE
from .examples import EXAMPLES

SEED = 3
NOISE_S = 60  # longer recordings repeat the noise
SNR_DB = (-10, 20)
"""Range of the signal-to-noise ratio in dB."""


def _voices(generator: np.random.Generator, samples: int) -> np.ndarray:
    return babble_noise(generator, samples, [{"audio": example.path} for example in EXAMPLES])


def _cars(generator: np.random.Generator, samples: int) -> np.ndarray:
    return coloured_noise(generator, samples) * slow_envelope(generator, samples)


NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "Ventilation": coloured_noise,
    "Passing cars": _cars,
    "Engine": harmonic_noise,
    "Knocks": impact_noise,
    "Voices": _voices,
}
"""Functions of a generator and a number of samples that return a noise (samples,) at 16 kHz, by their names."""


def add_noise(clean: np.ndarray, noise: str, snr_db: float, name: str = "The recording") -> np.ndarray:
    """Adds a noise to a recording; the ratio is that of the energies of the whole recording.

    The same arguments give the same samples. If the mixture exceeds full scale, it is scaled down.

    Args:
        clean: float32 (samples,) at 16 kHz, full scale +-1.
        noise: a name in `NOISES`.
        snr_db: signal-to-noise ratio in dB.
        name: name of the recording in messages.

    Raises:
        ValueError: the noise is unknown, or the recording is silent.
    """
    if noise not in NOISES:
        raise ValueError(f"There is no noise {noise!r}; expected one of {', '.join(NOISES)}.")
    if rms(clean) < SILENT_RMS:
        raise ValueError(f"{name} is silent, so it has no signal-to-noise ratio. Choose a recording with speech.")
    drawn = NOISES[noise](np.random.default_rng(SEED), min(len(clean), NOISE_S * SAMPLING_RATE))
    added = np.resize(drawn, len(clean))
    mixture = clean + added * (rms(clean) / rms(added) / 10 ** (snr_db / 20))
    return (mixture / max(1.0, np.abs(mixture).max())).astype(np.float32)

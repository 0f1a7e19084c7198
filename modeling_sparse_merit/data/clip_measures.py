# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Measures of one decoded recording: duration, level, clipping, DC offset, bandwidth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.fft import rfft

from ..files import sha256_of_samples
from ..models.sparse_merit.audio import FULL_SCALE, decode_audio, level_dbfs
from .audio_fingerprint import audio_fingerprint

BAND_HZ = 250
FLOOR_DB = -60.0  # nothing above the bandwidth exceeds this level, relative to the strongest band
DROP_DB = 30.0  # by which the spectrum falls at the bandwidth; natural speech falls by up to 25 dB within 1 kHz


@dataclass(frozen=True)
class ClipMeasures:
    """Measures of the mean of the channels, at the recording's own sampling rate.

    Args:
        seconds: duration.
        sampling_rate: in Hz.
        level_dbfs: root mean square relative to full scale, in dB; None for digital silence.
        clipped_ratio: share of the samples in flat tops; see `clipped_ratio`.
        offset_ratio: absolute mean relative to the root mean square, 0 to 1.
        bandwidth_hz: highest frequency with content; see `bandwidth_hz`.
        sha256: of the samples, as float32.
        fingerprint: see `audio_fingerprint`.
        warnings: sentences about anything unusual in the file.
    """

    seconds: float
    sampling_rate: int
    level_dbfs: float | None
    clipped_ratio: float
    offset_ratio: float
    bandwidth_hz: float
    sha256: str
    fingerprint: np.ndarray
    warnings: tuple[str, ...]


def measure_clip(recording: Any) -> ClipMeasures:
    """Decodes a recording completely and measures it.

    Args:
        recording: in any form that `load_audio` reads.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the recording is empty, damaged, cut short, not finite, or of an unknown format.
    """
    audio = decode_audio(recording)
    (track,) = audio.tracks("mix")
    waveform, rate = track.waveform, audio.sampling_rate
    return ClipMeasures(
        seconds=len(waveform) / rate,
        sampling_rate=rate,
        level_dbfs=level_dbfs(track.power),
        clipped_ratio=clipped_ratio(waveform),
        offset_ratio=abs(float(waveform.mean(dtype=np.float64))) / max(track.power**0.5, 1e-12),
        bandwidth_hz=bandwidth_hz(waveform, rate),
        sha256=sha256_of_samples(waveform),
        fingerprint=audio_fingerprint(waveform, rate),
        warnings=tuple(audio.warnings),
    )


def clipped_ratio(waveform: np.ndarray) -> float:
    """The share of samples in flat tops: three or more in a row within 0.1 % of the peak, or beyond full scale. They
    show that a recording was clipped even if its level was reduced afterwards.

    Args:
        waveform: float32 (samples,), full scale +-1.
    """
    limit = FULL_SCALE * min(float(np.abs(waveform).max()), 1.0)
    if not limit or len(waveform) < 3:
        return 0.0
    is_top = [np.lib.stride_tricks.sliding_window_view(tops, 3).all(axis=1) for tops in _tops(waveform, limit)]
    return float(np.count_nonzero(is_top)) / len(waveform)


def _tops(waveform: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are at the upper and at the lower limit."""
    return waveform >= limit, waveform <= -limit


def bandwidth_hz(waveform: np.ndarray, rate: int) -> float:
    """The frequency above which a recording holds nothing: half the sampling rate, or less if the recording was
    made at a lower rate or sent over a telephone line.

    The limit is the lowest band edge at which the mean power spectrum falls by 30 dB within 500 Hz and above which it
    never exceeds -60 dB, relative to its strongest band. Speech falls off more gradually.

    Args:
        waveform: float32 (samples,).
        rate: sampling rate in Hz.

    Returns:
        In Hz, in steps of 250 Hz.
    """
    levels = _band_levels(waveform, rate)
    for band in range(2, len(levels) - 1):
        below, above = levels[max(0, band - 4) : band].max(), levels[band + 1 :].max()
        if above < levels.max() + FLOOR_DB and above < below - DROP_DB:
            return float(band * BAND_HZ)
    return rate / 2


def _band_levels(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Peak of the mean power spectrum (32-ms Hann windows) in each band of 250 Hz, in dB: (bands,)."""
    size = round(0.032 * rate)
    waveform = np.pad(waveform, (0, max(0, size - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[:: size // 2]  # (frames, size)
    spectrum = np.mean(np.square(np.abs(rfft(frames * np.hanning(size).astype(np.float32), axis=1))), axis=0)
    starts = np.searchsorted(np.arange(len(spectrum)) * rate / size, np.arange(0, rate // 2, BAND_HZ))
    return 10 * np.log10(np.maximum.reduceat(spectrum, starts) + 1e-20)

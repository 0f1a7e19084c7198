# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech measures of a clip against its clean reference. Undefined scores (silent or short clips, no utterance) are
NaN with an `UndefinedScoreWarning`, never 0. `snr`, `segmental_snr` and `si_sdr` only need numpy; `pesq` and `stoi`
need the packages of the `metrics` extra."""

import math
import warnings
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..extras import import_extra
from .clips import checked_pair, undefined

STOI_RATE = 10_000  # Hz
STOI_SECONDS = (256 + 29 * 128) / STOI_RATE  # 30 frames of 256 samples, hop 128, at 10 kHz: below it STOI is undefined
# The reference implementation stores up to 50 utterances without checking the limit. It joins utterances less than
# 0.2 s apart and drops those under 0.2 s, so more than 50 need more than 20 s.
PESQ_SECONDS = 20


def snr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Signal-to-noise ratio in dB over the whole clip, sensitive to the level: `10 log10(|s|^2 / |s - x|^2)`.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        dB; `inf` if both are identical, NaN if the reference is silent or empty.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    if not np.any(clean):
        return undefined("SNR", "the clean reference is silent")
    return _decibels(np.sum(clean**2), np.sum((clean - enhanced) ** 2))


def si_sdr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., ICASSP 2019), zero-mean variant: the mean of
    each clip is removed first.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        dB; `inf` for an exact copy, NaN if a clip is silent (or constant) or empty.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    if _is_constant(clean) or _is_constant(enhanced):
        return undefined("SI-SDR", "a clip is silent")
    clean, enhanced = clean - clean.mean(), enhanced - enhanced.mean()
    target = np.sum(enhanced * clean) / np.sum(clean**2) * clean
    return _decibels(np.sum(target**2), np.sum((enhanced - target) ** 2))


def segmental_snr(clean: np.ndarray, enhanced: np.ndarray, sampling_rate: int = 16_000) -> float:
    """Segmental SNR in dB (Hansen and Pellom, ICSLP 1998), as in papers on VoiceBank-DEMAND: the mean over frames of
    30 ms with 75 % overlap and a Hann window, with the SNR of each frame limited to [-10, 35] dB. Frames with silent
    reference count as -10 dB.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: sampling rate of both clips in Hz.

    Returns:
        dB between -10 and 35; NaN if the reference is silent or shorter than a frame and a quarter.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    length = round(0.03 * sampling_rate)
    hop = length // 4
    num_frames = int(len(clean) / hop - length / hop)
    if num_frames < 1:
        return undefined("segmental SNR", "the clip is shorter than a frame and a quarter (37.5 ms)")
    if not np.any(clean):
        return undefined("segmental SNR", "the clean reference is silent")
    weight = np.hanning(length + 2)[1:-1] ** 2  # (length,)
    signal = _frame_energy(clean, weight, hop)[:num_frames]  # (frames,)
    noise = _frame_energy(clean - enhanced, weight, hop)[:num_frames]  # (frames,)
    epsilon = np.finfo(np.float64).eps
    return float(np.mean(np.clip(10 * np.log10(signal / (noise + epsilon) + epsilon), -10, 35)))


def pesq(clean: np.ndarray, enhanced: np.ndarray, sampling_rate: int = 16_000, mode: str = "wb") -> float:
    """Perceptual evaluation of speech quality, MOS-LQO from 1.04 to 4.64 (ITU-T P.862.2 wide-band; package `pesq`).

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: sampling rate of both clips in Hz: 16000, or 8000 with `mode="nb"`.
        mode: `"wb"` (wide-band) or `"nb"` (narrow-band).

    Returns:
        The score; NaN if a clip is silent, has no utterance, is shorter than a quarter of a second, or is longer than
        20 s (the reference implementation may crash then; score such clips in pieces).

    Raises:
        ImportError: `pesq` is not installed.
        ValueError: rate or mode are not supported, shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    if (sampling_rate, mode) not in {(16_000, "wb"), (16_000, "nb"), (8_000, "nb")}:
        raise ValueError(
            f"PESQ got sampling_rate={sampling_rate} and mode={mode!r}; it is defined at 16000 Hz ('wb' or 'nb') and "
            "8000 Hz ('nb'): resample both clips first."
        )
    library = import_extra("pesq", "metrics")
    if not np.any(clean) or not np.any(enhanced):
        return undefined("PESQ", "a clip is silent")
    if len(clean) > PESQ_SECONDS * sampling_rate:
        return undefined("PESQ", f"the clip is longer than {PESQ_SECONDS} s; score it in pieces")
    try:
        return float(library.pesq(sampling_rate, clean, enhanced, mode))
    except library.NoUtterancesError:
        return undefined("PESQ", "no utterance was found in a clip")
    except library.BufferTooShortError:
        return undefined("PESQ", "the clip is shorter than a quarter of a second")


def stoi(
    clean: np.ndarray,
    enhanced: np.ndarray,
    sampling_rate: int = 16_000,
    extended: bool = False,
    resampler: str | None = None,
) -> float:
    """Short-time objective intelligibility, at most 1 (Taal et al., IEEE TASLP 2011; package `pystoi`).

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: sampling rate of both clips in Hz.
        extended: the extended measure for modulated noise (Jensen and Taal, IEEE TASLP 2016).
        resampler: filter that resamples clips to 10 kHz: `"scipy"`, as in the script used by papers on
            VoiceBank-DEMAND, or `"pystoi"`, the filter of that package. None is `"scipy"` for STOI and `"pystoi"` for
            the extended measure, which the script lacks. Scores agree within 1e-4, unless the filter moves a frame
            across the silence threshold (40 dB below the loudest frame): one of 170 frames changed a score by 0.009.

    Returns:
        The score; NaN if a clip is silent or has less than 0.4 s of speech.

    Raises:
        ImportError: `pystoi` is not installed.
        ValueError: the resampler is unknown, shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    resampler = resampler or ("pystoi" if extended else "scipy")
    if resampler not in ("scipy", "pystoi"):
        raise ValueError(f"STOI got resampler={resampler!r}; expected 'scipy', 'pystoi' or None.")
    library = import_extra("pystoi", "metrics")
    if not np.any(clean) or not np.any(enhanced):
        return undefined("STOI", "a clip is silent")
    if len(clean) < STOI_SECONDS * sampling_rate:
        return undefined("STOI", "the clip is shorter than 0.4 s")
    if resampler == "scipy" and sampling_rate != STOI_RATE:
        signal = import_extra("scipy.signal", "metrics")
        clean, enhanced = (signal.resample_poly(waveform, STOI_RATE, sampling_rate) for waveform in (clean, enhanced))
        sampling_rate = STOI_RATE
    score = _quiet_stoi(library, clean, enhanced, sampling_rate, extended)
    return undefined("STOI", "less than 0.4 s of the clip is speech") if score is None else score


def _is_constant(waveform: np.ndarray) -> bool:
    return len(waveform) == 0 or bool(np.all(waveform == waveform[0]))


def _frame_energy(waveform: np.ndarray, weight: np.ndarray, hop: int) -> np.ndarray:
    """Weighted energy of every frame: (samples,), (length,) -> (frames,)."""
    frames = sliding_window_view(waveform**2, len(weight))[::hop]  # (frames, length), a view
    # not `frames @ weight`: the order of summation in BLAS depends on the number of threads
    return np.einsum("fl,l->f", frames, weight)


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return -math.inf
    return math.inf if noise == 0 else float(10 * np.log10(signal / noise))


def _quiet_stoi(
    library: ModuleType, clean: np.ndarray, enhanced: np.ndarray, sampling_rate: int, extended: bool
) -> float | None:
    """The score of `pystoi`; None with too few loud frames, for which `pystoi` returns 1e-5. Its extended measure adds
    noise of 1e-16 from numpy's global generator, which is seeded here."""
    state = np.random.get_state()
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(library.stoi(clean, enhanced, sampling_rate, extended))
        except RuntimeWarning:
            return None
        finally:
            np.random.set_state(state)

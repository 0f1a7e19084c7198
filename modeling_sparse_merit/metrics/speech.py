# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech measures of one clip against its clean reference. A score that is undefined (silence, too short, no utterance
found) is NaN with an `UndefinedScoreWarning`, never 0. `snr`, `segmental_snr` and `si_sdr` need only numpy; `pesq` and
`stoi` need the packages of the `metrics` extra."""

import importlib
import math
import warnings
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

STOI_SECONDS = (256 + 29 * 128) / 10_000  # 30 frames of 256 samples, hop 128, at 10 kHz: below it STOI is undefined
# The reference implementation has room for 50 utterances and, unchecked, writes past it. It joins utterances less than
# 0.2 s apart and drops those under 0.2 s, so more than 50 need more than 20 s.
PESQ_SECONDS = 20


class UndefinedScoreWarning(UserWarning):
    """A measure has no value for a clip, and NaN was returned."""


def snr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Signal-to-noise ratio in dB over the whole clip, level included: `10 log10(|s|^2 / |s - x|^2)`.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        dB; `inf` where both are identical, NaN where the reference is silent or empty.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = _checked_pair(clean, enhanced)
    if not np.any(clean):
        return _undefined("SNR", "the clean reference is silent")
    return _decibels(np.sum(clean**2), np.sum((clean - enhanced) ** 2))


def si_sdr(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., ICASSP 2019), zero-mean variant: the mean of
    each clip is removed first.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        dB; `inf` for an exact copy, NaN where either clip is silent (or constant) or empty.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = _checked_pair(clean, enhanced)
    if _is_constant(clean) or _is_constant(enhanced):
        return _undefined("SI-SDR", "a clip is silent")
    clean, enhanced = clean - clean.mean(), enhanced - enhanced.mean()
    target = np.sum(enhanced * clean) / np.sum(clean**2) * clean
    return _decibels(np.sum(target**2), np.sum((enhanced - target) ** 2))


def segmental_snr(clean: np.ndarray, enhanced: np.ndarray, sampling_rate: int = 16_000) -> float:
    """Segmental SNR in dB, as papers on VoiceBank-DEMAND compute it: frames of 30 ms with 75 % overlap and a Hann
    window, each frame's SNR limited to [-10, 35] dB, and the mean over frames (Hansen and Pellom, ICSLP 1998). A frame
    in which the reference is silent counts as -10 dB, as there.

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: of both, in Hz.

    Returns:
        dB between -10 and 35; NaN where the reference is silent or shorter than a frame and a quarter.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = _checked_pair(clean, enhanced)
    length = round(0.03 * sampling_rate)
    hop = length // 4
    num_frames = int(len(clean) / hop - length / hop)
    if num_frames < 1:
        return _undefined("segmental SNR", "the clip is shorter than a frame and a quarter (37.5 ms)")
    if not np.any(clean):
        return _undefined("segmental SNR", "the clean reference is silent")
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
        sampling_rate: of both, in Hz: 16000, or 8000 with `mode="nb"`.
        mode: `"wb"` (wide-band) or `"nb"` (narrow-band).

    Returns:
        The score; NaN where a clip is silent, shorter than a quarter of a second or longer than 20 s (the reference
        implementation can crash beyond; score such a clip in pieces), or no utterance is found in it.

    Raises:
        ImportError: `pesq` is not installed.
        ValueError: a rate or mode that PESQ does not know; shapes differ, are not one-dimensional, or not finite.
    """
    clean, enhanced = _checked_pair(clean, enhanced)
    if (sampling_rate, mode) not in {(16_000, "wb"), (16_000, "nb"), (8_000, "nb")}:
        raise ValueError(
            f"PESQ got sampling_rate={sampling_rate} and mode={mode!r}; it is defined at 16000 Hz ('wb' or 'nb') and "
            "8000 Hz ('nb'): resample both clips first."
        )
    library = _import_extra("pesq")
    if not np.any(clean) or not np.any(enhanced):
        return _undefined("PESQ", "a clip is silent")
    if len(clean) > PESQ_SECONDS * sampling_rate:
        return _undefined("PESQ", f"the clip is longer than {PESQ_SECONDS} s; score it in pieces")
    try:
        return float(library.pesq(sampling_rate, clean, enhanced, mode))
    except library.NoUtterancesError:
        return _undefined("PESQ", "no utterance was found in a clip")
    except library.BufferTooShortError:
        return _undefined("PESQ", "the clip is shorter than a quarter of a second")


def stoi(clean: np.ndarray, enhanced: np.ndarray, sampling_rate: int = 16_000, extended: bool = False) -> float:
    """Short-time objective intelligibility, at most 1 (Taal et al., IEEE TASLP 2011; package `pystoi`).

    Args:
        clean: the reference, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: of both, in Hz.
        extended: the extended measure for modulated noise (Jensen and Taal, IEEE TASLP 2016).

    Returns:
        The score; NaN where a clip is silent or has less than 0.4 s of speech in it.

    Raises:
        ImportError: `pystoi` is not installed.
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = _checked_pair(clean, enhanced)
    library = _import_extra("pystoi")
    if not np.any(clean) or not np.any(enhanced):
        return _undefined("STOI", "a clip is silent")
    if len(clean) < STOI_SECONDS * sampling_rate:
        return _undefined("STOI", "the clip is shorter than 0.4 s")
    with warnings.catch_warnings():
        # the library answers 1e-5 where too few frames are loud enough, which would pass for a very bad score
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(library.stoi(clean, enhanced, sampling_rate, extended))
        except RuntimeWarning:
            pass
    return _undefined("STOI", "less than 0.4 s of the clip is speech")


def speech_scores(clean: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
    """All of `SPEECH_MEASURES` for one clip of shape (samples,) at 16 kHz: `{name: score}`. An undefined score is NaN
    without a warning here, as the caller sees many clips and can count them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScoreWarning)
        return {name: measure(clean, enhanced) for name, measure in SPEECH_MEASURES.items()}


SPEECH_MEASURES = {"pesq_wb": pesq, "stoi": stoi, "segmental_snr": segmental_snr, "si_sdr": si_sdr}


def _checked_pair(clean: np.ndarray, enhanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _is_constant(waveform: np.ndarray) -> bool:
    return len(waveform) == 0 or bool(np.all(waveform == waveform[0]))


def _frame_energy(waveform: np.ndarray, weight: np.ndarray, hop: int) -> np.ndarray:
    """Weighted energy of every frame: (samples,), (length,) -> (frames,)."""
    frames = sliding_window_view(waveform**2, len(weight))[::hop]  # (frames, length), a view
    # not `frames @ weight`: BLAS adds in another order with another number of threads
    return np.einsum("fl,l->f", frames, weight)


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return -math.inf
    return math.inf if noise == 0 else float(10 * np.log10(signal / noise))


def _undefined(measure: str, reason: str) -> float:
    warnings.warn(f"{measure} is undefined: {reason}.", UndefinedScoreWarning, stacklevel=3)
    return math.nan


def _import_extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This measure needs the package `{name}`: pip install "modeling-sparse-merit[metrics]"'
        ) from error

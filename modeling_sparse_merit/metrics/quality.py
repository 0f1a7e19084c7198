# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The composite measures of Hu and Loizou (IEEE TASLP 16(1), 2008): predicted ratings of the signal (CSIG), the
background (CBAK) and the overall quality (COVL), from PESQ, segmental SNR and two spectral distances. They are
computed at 16 kHz with wide-band PESQ, as in papers on VoiceBank-DEMAND; the original paper used 8 kHz."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .clips import checked_pair, undefined
from .speech import pesq, segmental_snr

COMPOSITE_MEASURES = ("csig", "cbak", "covl")
FRAME, HOP = 480, 120  # samples: 30 ms with 75 % overlap
LINEAR_PREDICTION_ORDER = 16
PREDICTABLE = 1e-12  # smallest meaningful prediction error relative to a frame's energy; below it is rounding
FFT_SIZE = 1024
KEPT_FRAMES = 0.95  # share of frames that count; the worst 5 % are left out
FULL_SCALE = 32_768  # the reference script rescales floats in [-1, 1], which affects its floor of 1e-10
# 25 critical bands in Hz, after Klatt (ICASSP 1982)
BAND_CENTRES = np.array(
    [50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.3, 1288.72, 1442.54]
    + [1610.7, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63]
)
BAND_WIDTHS = np.array(
    [70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154]
    + [183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136]
)


def composite(
    clean: np.ndarray,
    enhanced: np.ndarray,
    sampling_rate: int = 16_000,
    known: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """CSIG, CBAK and COVL, each from 1 to 5 (Hu and Loizou 2008).

    `CSIG = 3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS`, `CBAK = 1.634 + 0.478 PESQ - 0.007 WSS + 0.063 segSNR`,
    `COVL = 1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS`.

    Args:
        clean: the reference, shape (samples,), full scale 1.
        enhanced: the clip to be scored, shape (samples,).
        sampling_rate: sampling rate of both clips, 16000 Hz.
        known: `{"pesq_wb": ..., "segmental_snr": ...}` of the same clips, if measured already; PESQ takes
            most of the time.

    Returns:
        `{"csig": ..., "cbak": ..., "covl": ...}`; NaN where PESQ is undefined.

    Raises:
        ImportError: `pesq` is not installed.
        ValueError: the sampling rate is not 16000 Hz, shapes differ, are not one-dimensional, or a sample is not
            finite.
    """
    if sampling_rate != 16_000:
        raise ValueError(
            f"The composite measures got sampling_rate={sampling_rate}, but are defined at 16000 Hz: resample both "
            "clips first."
        )
    known = known or {}
    quality = known["pesq_wb"] if "pesq_wb" in known else pesq(clean, enhanced)
    if math.isnan(quality):
        return dict.fromkeys(COMPOSITE_MEASURES, math.nan)
    level = known["segmental_snr"] if "segmental_snr" in known else segmental_snr(clean, enhanced)
    envelope, slope = log_likelihood_ratio(clean, enhanced), weighted_spectral_slope(clean, enhanced)
    scores = {
        "csig": 3.093 - 1.029 * envelope + 0.603 * quality - 0.009 * slope,
        "cbak": 1.634 + 0.478 * quality - 0.007 * slope + 0.063 * level,
        "covl": 1.594 + 0.805 * quality - 0.512 * envelope - 0.007 * slope,
    }
    return {name: float(np.clip(score, 1, 5)) for name, score in scores.items()}


def log_likelihood_ratio(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """LLR, the log-likelihood ratio of linear predictors: `log(a_x R_s a_x' / a_s R_s a_s')` of order 16, where the
    predictors of enhanced (x) and clean (s) frame are applied to the clean frame; mean over the best 95 % of frames.

    Args:
        clean: the reference at 16 kHz, shape (samples,).
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        0 (equal spectral envelopes) or more. Frames with silent reference are left out; NaN if there are no others.

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    frames, enhanced_frames = _windowed_frames(clean), _windowed_frames(enhanced)
    audible = frames.any(axis=-1)
    if not audible.any():
        return undefined("LLR", "the clean reference has no complete frame with sound")
    lags = _autocorrelation(frames[audible], LINEAR_PREDICTION_ORDER)
    _, least = _linear_predictor(lags)
    predictor, _ = _linear_predictor(_autocorrelation(enhanced_frames[audible], LINEAR_PREDICTION_ORDER))
    products = _autocorrelation(predictor, LINEAR_PREDICTION_ORDER) * lags
    error = products[:, 0] + 2 * products[:, 1:].sum(axis=-1)  # a R a', since R depends on the lag only
    return _trimmed_mean(np.log(np.maximum(error, least) / least))  # a frame's own predictor is the best one


def weighted_spectral_slope(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """WSS: squared differences of the slopes between adjacent of 25 critical bands, in dB, weighted towards spectral
    peaks (Klatt, ICASSP 1982); mean over the best 95 % of frames.

    Args:
        clean: the reference at 16 kHz, shape (samples,), full scale 1.
        enhanced: the clip to be scored, shape (samples,).

    Returns:
        0 (equal slopes) or more; NaN if the clips are shorter than a frame and a quarter (37.5 ms).

    Raises:
        ValueError: shapes differ, are not one-dimensional, or a sample is not finite.
    """
    clean, enhanced = checked_pair(clean, enhanced)
    if len(clean) < FRAME + HOP:
        return undefined("WSS", "the clip is shorter than a frame and a quarter (37.5 ms)")
    clean_levels, enhanced_levels = _band_levels(clean), _band_levels(enhanced)  # (frames, 25)
    weight = (_slope_weights(clean_levels) + _slope_weights(enhanced_levels)) / 2  # (frames, 24)
    difference = np.diff(clean_levels) - np.diff(enhanced_levels)
    return _trimmed_mean((weight * difference**2).sum(axis=-1) / weight.sum(axis=-1))


def _windowed_frames(waveform: np.ndarray) -> np.ndarray:
    """Frames under a Hann window: (samples,) -> (frames, FRAME). As in the reference script, the last one is left
    out."""
    if len(waveform) < FRAME + HOP:
        return np.zeros((0, FRAME))
    num_frames = (len(waveform) - FRAME) // HOP
    return sliding_window_view(waveform, FRAME)[::HOP][:num_frames] * np.hanning(FRAME + 2)[1:-1]


def _trimmed_mean(distances: np.ndarray) -> float:
    return float(np.mean(np.sort(distances)[: round(len(distances) * KEPT_FRAMES)]))


def _autocorrelation(rows: np.ndarray, order: int) -> np.ndarray:
    """Lags 0 to `order` of every row: (frames, length) -> (frames, order + 1)."""
    length = rows.shape[-1]
    return np.stack(
        [np.einsum("fl,fl->f", rows[:, : length - lag], rows[:, lag:]) for lag in range(order + 1)], axis=-1
    )


def _linear_predictor(lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levinson-Durbin recursion for all frames: lags (frames, order + 1) -> prediction-error filters (frames, order +
    1) and residual energies (frames,). The recursion stops for frames that are silent or predicted up to rounding."""
    filters = np.zeros_like(lags)
    filters[:, 0] = 1
    error = lags[:, 0].copy()
    for order in range(1, lags.shape[-1]):
        going_on = error > PREDICTABLE * lags[:, 0]
        correlation = np.einsum("fk,fk->f", filters[:, :order], lags[:, order:0:-1])
        reflection = np.divide(-correlation, error, out=np.zeros_like(error), where=going_on)
        reflection[np.abs(reflection) >= 1] = 0  # rounding: the error of a prediction is never negative
        filters[:, : order + 1] += reflection[:, None] * filters[:, order::-1]
        error *= 1 - reflection**2
    return filters, error


def _band_levels(waveform: np.ndarray) -> np.ndarray:
    """Levels in dB of the critical bands: (samples,) -> (frames, 25)."""
    spectrum = np.abs(np.fft.rfft(_windowed_frames(waveform / FULL_SCALE), FFT_SIZE)[:, : FFT_SIZE // 2]) ** 2
    # not a matrix product: the order of summation in BLAS depends on the number of threads
    energy = np.einsum("fn,bn->fb", spectrum, _critical_band_filters())
    return 10 * np.log10(np.maximum(energy, 1e-10))


def _critical_band_filters() -> np.ndarray:
    """Gaussian filters of equal area, cut off at -30 dB: (25, FFT_SIZE / 2)."""
    bins_per_hertz = FFT_SIZE / 16_000
    distance = np.arange(FFT_SIZE // 2) - np.floor(BAND_CENTRES * bins_per_hertz)[:, None]  # (25, bins)
    width = (BAND_WIDTHS * bins_per_hertz)[:, None]
    response = np.exp(-11 * (distance / width) ** 2) * (BAND_WIDTHS[0] / BAND_WIDTHS)[:, None]
    return np.where(response > math.exp(-30 / (2 * 2.303)), response, 0)


def _slope_weights(levels: np.ndarray) -> np.ndarray:
    """Klatt's weights of the slopes, 1 at the highest peak: (frames, 25) -> (frames, 24). The nearest peak is uphill
    of a band; if it is to the right, the band before it is used, as in the reference script."""
    rising = np.diff(levels) > 0
    bands = np.arange(rising.shape[-1])
    falls, rises = np.where(rising, len(bands), bands), np.where(rising, bands, -1)
    next_fall = np.minimum.accumulate(falls[:, ::-1], axis=-1)[:, ::-1]
    last_rise = np.maximum.accumulate(rises, axis=-1)
    peak = np.take_along_axis(levels, np.where(rising, next_fall - 1, last_rise + 1), axis=-1)  # (frames, 24)
    below_maximum, below_peak = levels.max(axis=-1, keepdims=True) - levels[:, :-1], peak - levels[:, :-1]
    return 20 / (20 + below_maximum) / (1 + below_peak)

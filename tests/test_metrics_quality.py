# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The composite measures and the two distances of spectra in them, against formulas written out frame by frame."""

import math
import warnings

import numpy as np
import pesq
import pytest
from scipy.linalg import solve_toeplitz, toeplitz

from modeling_sparse_merit import metrics
from modeling_sparse_merit.metrics.quality import BAND_CENTRES, BAND_WIDTHS

WINDOW = np.array([0.5 * (1 - math.cos(2 * math.pi * n / 481)) for n in range(1, 481)])


@pytest.fixture(scope="module")
def clips(speech_clip) -> tuple[np.ndarray, np.ndarray]:
    clean = speech_clip(0.6, seed=3).astype(np.float64)
    return clean, clean + 0.01 * np.random.default_rng(0).standard_normal(len(clean))


def frames_of(waveform: np.ndarray) -> list[np.ndarray]:
    return [WINDOW * waveform[start : start + 480] for start in range(0, len(waveform) - 480, 120)]


def mean_of_the_best(distances: list[float]) -> float:
    return float(np.mean(sorted(distances)[: round(0.95 * len(distances))]))


def band_filter(centre: float, width: float) -> list[float]:
    """Weights of the bins of 15.625 Hz: a Gaussian with the area of the first band, nothing below -30 dB."""
    gains = [
        math.exp(-11 * ((n - math.floor(centre * 0.064)) / (width * 0.064)) ** 2) * 70 / width for n in range(512)
    ]
    return [gain if gain > math.exp(-30 / 4.606) else 0 for gain in gains]


def band_levels(frame: np.ndarray) -> list[float]:
    power = np.abs(np.fft.fft(frame / 32_768, 1024)[:512]) ** 2
    return [10 * math.log10(max(np.dot(weights, power), 1e-10)) for weights in FILTERS]


FILTERS = [band_filter(*band) for band in zip(BAND_CENTRES, BAND_WIDTHS, strict=True)]


def slope_weight(levels: list[float], band: int) -> float:
    """Klatt's weight; a peak to the right is taken one band early, as in the script that papers share."""
    peak = band
    if levels[band + 1] > levels[band]:
        while peak < 24 and levels[peak + 1] > levels[peak]:
            peak += 1
        peak -= 1
    else:
        while peak > 0 and levels[peak] <= levels[peak - 1]:
            peak -= 1
    return 20 / (20 + max(levels) - levels[band]) * 1 / (1 + levels[peak] - levels[band])


def test_llr_equals_the_normal_equations_solved_frame_by_frame(clips):
    distances = []
    for clean, noisy in zip(*map(frames_of, clips), strict=True):
        lags, noisy_lags = (np.array([frame[: 480 - k] @ frame[k:] for k in range(17)]) for frame in (clean, noisy))
        own, other = (np.r_[1, -solve_toeplitz(r[:16], r[1:])] for r in (lags, noisy_lags))
        matrix = toeplitz(lags)
        distances.append(math.log((other @ matrix @ other) / (own @ matrix @ own)))
    assert metrics.log_likelihood_ratio(*clips) == pytest.approx(mean_of_the_best(distances), rel=1e-6)


def test_wss_equals_a_walk_over_frames_and_bands(clips):
    clips = [4 * waveform[3_000:5_400] for waveform in clips]
    distances = []
    for clean, noisy in zip(*map(frames_of, clips), strict=True):
        levels, noisy_levels = band_levels(clean), band_levels(noisy)
        weights = [(slope_weight(levels, i) + slope_weight(noisy_levels, i)) / 2 for i in range(24)]
        squares = (np.diff(levels) - np.diff(noisy_levels)) ** 2
        distances.append(np.dot(weights, squares) / sum(weights))
    assert metrics.weighted_spectral_slope(*clips) == pytest.approx(mean_of_the_best(distances), rel=1e-9)


def test_distances_of_a_clip_that_is_only_louder_are_0(clips):
    clean = 1e4 * clips[0]  # loud enough to stay above the floor of the critical bands
    assert metrics.log_likelihood_ratio(clean, 3 * clean) == pytest.approx(0, abs=1e-6)
    assert metrics.weighted_spectral_slope(clean, 3 * clean) == pytest.approx(0, abs=1e-9)


def test_composite_by_hand(clips):
    clean, _ = clips
    actual = metrics.composite(clean, clean, known={"pesq_wb": 1.0, "segmental_snr": -10.0})  # LLR 0 and WSS 0
    expected = {"csig": 3.093 + 0.603, "cbak": 1.634 + 0.478 - 0.63, "covl": 1.594 + 0.805}
    assert actual == pytest.approx(expected, abs=1e-6)


def test_composite_is_kept_between_1_and_5(clips):
    assert set(metrics.composite(clips[0], clips[0]).values()) == {5.0}
    noise = np.random.default_rng(1).standard_normal(len(clips[0]))
    assert metrics.composite(clips[0], noise)["csig"] == 1


def test_pesq_is_computed_once_for_all_measures_that_need_it(clips, monkeypatch):
    calls, library = [], pesq.pesq
    monkeypatch.setattr(pesq, "pesq", lambda *arguments: calls.append(arguments) or library(*arguments))
    together = metrics.speech_scores(*clips, ["covl", "csig", "pesq_wb", "cbak"])
    assert len(calls) == 1
    assert list(together) == ["covl", "csig", "pesq_wb", "cbak"]
    assert together == {name: metrics.SPEECH_MEASURES[name](*clips) for name in together}


def test_frames_of_digital_silence_do_not_spoil_the_composite(clips):
    clean, noisy = (np.concatenate([np.zeros(8_000), waveform]) for waveform in clips)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half_silent = metrics.composite(clean, noisy)
        muted = metrics.composite(np.concatenate([clips[0], clips[0]]), np.concatenate([clips[1], 0 * clips[1]]))
    assert metrics.log_likelihood_ratio(clean, noisy) == pytest.approx(metrics.log_likelihood_ratio(*clips), abs=0.1)
    assert all(1 <= score <= 5 for score in [*half_silent.values(), *muted.values()])


@pytest.mark.parametrize("make", [np.ones, lambda n: np.sin(0.1 * np.arange(n)), lambda n: np.eye(1, n, n // 2)[0]])
def test_sounds_that_are_predicted_exactly_have_finite_distances(make, clips):
    other = clips[1][:4_000]
    for pair in ((make(4_000), other), (other, make(4_000)), (make(4_000), make(4_000))):
        assert 0 <= metrics.log_likelihood_ratio(*pair) < math.inf


def test_distances_of_silence_and_of_clips_without_a_frame_are_undefined():
    with pytest.warns(metrics.UndefinedScoreWarning, match="LLR"):
        assert math.isnan(metrics.log_likelihood_ratio(np.zeros(4_000), np.ones(4_000)))
    with pytest.warns(metrics.UndefinedScoreWarning, match="37.5 ms"):
        assert math.isnan(metrics.weighted_spectral_slope(np.ones(599), np.ones(599)))


def test_composite_says_that_it_needs_16_khz():
    with pytest.raises(ValueError, match="sampling_rate=8000.*16000"):
        metrics.composite(np.ones(8_000), np.ones(8_000), sampling_rate=8_000)

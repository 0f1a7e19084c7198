# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""DNSMOS: equal to the package that publishes it, and NaN where undefined."""

import sys

import numpy as np
import pytest

from modeling_sparse_merit import metrics
from modeling_sparse_merit.metrics import ratings

NAMES = ["dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak"]


@pytest.fixture
def package():
    """The module of the package; the test is skipped where it is not installed."""
    return pytest.importorskip("speechmos.dnsmos", reason="speechmos is not installed: extra `mos`")


@pytest.mark.parametrize("seconds", [4.6, 9.0, 10.5, 12.2])
def test_ratings_equal_those_of_the_package(package, speech_clip, seconds):
    clip = 4 * speech_clip(seconds)  # beyond full scale
    expected = package.run(np.clip(clip, -1, 1), 16_000)
    actual = metrics.dnsmos(clip)
    assert list(actual) == NAMES
    for name in NAMES:
        assert actual[name] == pytest.approx(expected[f"{name.removeprefix('dnsmos_')}_mos"], abs=1e-4)


@pytest.mark.slow
def test_ratings_are_measures_that_need_no_reference(package, speech_clip, tmp_path):
    clip = speech_clip(1.0)
    scores = metrics.speech_scores(np.zeros_like(clip), clip, ["dnsmos_bak", "segmental_snr", "dnsmos_ovrl"])
    expected = metrics.dnsmos(clip)
    assert list(scores) == ["dnsmos_bak", "segmental_snr", "dnsmos_ovrl"] and np.isnan(scores["segmental_snr"])
    assert scores["dnsmos_bak"] == expected["dnsmos_bak"] == metrics.SPEECH_MEASURES["dnsmos_bak"](clip, clip)
    computed = metrics.load("dnsmos", cache_dir=str(tmp_path)).compute(predictions=[clip, 0.5 * clip])
    assert computed["dnsmos_ovrl_per_clip"][0] == pytest.approx(expected["dnsmos_ovrl"], abs=1e-4)
    assert computed["dnsmos_ovrl_undefined"] == 0 and len(computed["dnsmos_sig_per_clip"]) == 2


def test_a_silent_clip_has_no_rating(package):
    with pytest.warns(metrics.UndefinedScoreWarning, match="DNSMOS is undefined: the clip is silent"):
        assert all(np.isnan(score) for score in metrics.dnsmos(np.zeros(16_000)).values())


def test_what_cannot_be_rated_is_named():
    with pytest.raises(ValueError, match="sampling_rate=8000, but is defined at 16000 Hz"):
        metrics.dnsmos(np.ones(100), 8_000)
    with pytest.raises(ValueError, match=r"rated clip has the shape \(2, 100\)"):
        metrics.dnsmos(np.ones((2, 100)))
    with pytest.raises(ValueError, match="rated clip has NaN"):
        metrics.dnsmos(np.array([0.1, np.nan]))


def test_without_the_package_the_error_names_the_extra(monkeypatch, speech_clip):
    monkeypatch.setitem(sys.modules, "speechmos", None)
    ratings._dnsmos_session.cache_clear()
    with pytest.raises(ImportError, match=r'`speechmos`: pip install "modeling-sparse-merit\[mos\]"'):
        metrics.dnsmos(speech_clip())

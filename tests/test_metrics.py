# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The measures: equal to published scores and to values worked out by hand, and NaN rather than 0 where undefined."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pystoi
import pytest
import soundfile
from sklearn.metrics import f1_score, recall_score

from modeling_sparse_merit import metrics

CLASSES = ["angry", "sad", "happy"]
WITH_REFERENCE = [name for name in metrics.SPEECH_MEASURES if not name.startswith("dnsmos")]
ALL_BUT_NARROW_BAND = [name for name in WITH_REFERENCE if name != "pesq_nb"]


def synthetic_speech(seconds: float = 1.5, seed: int = 0) -> np.ndarray:
    """Harmonics of a gliding pitch, four syllables a second: voiced enough for PESQ to find utterances."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.5 * time)) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 25))
    hiss = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    return 0.1 * (voice * np.clip(np.sin(2 * np.pi * 4 * time), 0, None) + hiss)


def with_noise(clean: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(clean))
    return clean + noise * np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)


def test_equal_to_the_scores_published_for_voicebank_demand(reference_data):
    folder = reference_data / "golden" / "speech_metrics"
    scores = json.loads((folder / "scores.json").read_text())
    assert len(scores) == 18
    for expected in scores:
        clean, _ = soundfile.read(folder / expected["reference"])
        processed, _ = soundfile.read(folder / expected["processed"])
        actual = metrics.speech_scores(clean, processed, ALL_BUT_NARROW_BAND)
        for name in ("pesq_wb", "stoi", "si_sdr"):
            assert actual[name] == pytest.approx(expected[name], abs=1e-3), (name, expected["processed"])
        assert actual["segmental_snr"] == pytest.approx(expected["ssnr"], abs=1e-3)
        assert actual["segmental_snr"] == pytest.approx(expected["ssnr_pysepm"], abs=1e-3)
        assert actual["estoi"] == pytest.approx(expected["pystoi_extended"], abs=1e-3)
        assert metrics.stoi(clean, processed, resampler="pystoi") == pytest.approx(expected["pystoi"], abs=1e-3)
        for name in ("csig", "cbak", "covl"):
            assert actual[name] == pytest.approx(expected[name], abs=1e-2), (name, expected["processed"])


def test_segmental_snr_equals_a_frame_by_frame_computation():
    clean = synthetic_speech()
    noisy = with_noise(clean, 3)
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, 481) / 481))
    ratios = []
    for start in range(0, len(clean) - 480, 120):
        frame, error = (window * x[start : start + 480] for x in (clean, clean - noisy))
        ratio = 10 * math.log10((frame**2).sum() / ((error**2).sum() + 2.2e-16) + 2.2e-16)
        ratios.append(min(max(ratio, -10.0), 35.0))
    assert metrics.segmental_snr(clean, noisy) == pytest.approx(np.mean(ratios[: (len(clean) - 480) // 120]), abs=1e-9)


def test_every_frame_of_segmental_snr_is_kept_between_minus_10_and_35_db():
    clean = synthetic_speech() + 1e-3  # no frame of silence
    assert metrics.segmental_snr(clean, clean) == 35
    assert metrics.segmental_snr(clean, clean + 100) == -10
    assert metrics.segmental_snr(clean, 0.5 * clean) == pytest.approx(20 * math.log10(2))


def test_snr_is_the_ratio_of_energies():
    clean, enhanced = np.array([3.0, -4.0]), np.array([3.0, -3.5])
    assert metrics.snr(clean, enhanced) == pytest.approx(20)  # 25 to 0.25
    assert metrics.snr(clean, clean) == math.inf


def test_si_sdr_by_hand_ignores_scale_and_offset():
    clean = np.array([1.0, -1.0, 1.0, -1.0])
    error = np.array([0.1, 0.1, -0.1, -0.1])  # orthogonal to the reference, mean 0: 4 to 0.04
    assert metrics.si_sdr(clean, clean + error) == pytest.approx(20)
    assert metrics.si_sdr(clean, 7 * (clean + error) + 3) == pytest.approx(20)


def test_a_perfect_enhancer_gets_the_best_of_every_measure():
    clean = synthetic_speech() + 1e-3
    scores = metrics.speech_scores(clean, clean, WITH_REFERENCE)
    assert list(scores) == WITH_REFERENCE
    assert scores["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert scores["pesq_nb"] == pytest.approx(4.549, abs=1e-3)
    assert scores["stoi"] == pytest.approx(1, abs=1e-6)
    assert scores["estoi"] == pytest.approx(1, abs=1e-6)
    assert scores["segmental_snr"] == 35
    assert scores["si_sdr"] > 100
    assert scores["csig"] == scores["cbak"] == scores["covl"] == 5


def test_by_default_four_measures_are_taken():
    clean = synthetic_speech(0.5)
    assert list(metrics.speech_scores(clean, clean)) == ["pesq_wb", "stoi", "segmental_snr", "si_sdr"]
    assert metrics.speech_scores(clean, clean, []) == {}


def test_a_measure_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"\['mos'\].*'pesq_wb'"):
        metrics.speech_scores(np.ones(16_000), np.ones(16_000), ["si_sdr", "mos"])


def test_every_measure_falls_as_noise_rises():
    clean = synthetic_speech()
    by_snr = [metrics.speech_scores(clean, with_noise(clean, snr_db), WITH_REFERENCE) for snr_db in (20, 10, 0)]
    for name in WITH_REFERENCE:
        assert by_snr[0][name] > by_snr[1][name] > by_snr[2][name], name


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_a_silent_reference_has_no_score(name):
    with pytest.warns(metrics.UndefinedScoreWarning, match="silent"):
        score = metrics.SPEECH_MEASURES[name](np.zeros(16_000), synthetic_speech(1.0))
    assert math.isnan(score)


@pytest.mark.parametrize("name", ["pesq_wb", "pesq_nb", "stoi", "estoi", "si_sdr", "csig", "cbak", "covl"])
def test_a_silent_output_has_no_score(name):
    with pytest.warns(metrics.UndefinedScoreWarning, match="silent"):
        assert math.isnan(metrics.SPEECH_MEASURES[name](synthetic_speech(1.0), np.zeros(16_000)))


@pytest.mark.parametrize(("name", "samples"), [("pesq_wb", 3_000), ("stoi", 6_000), ("segmental_snr", 599)])
def test_a_clip_that_is_too_short_has_no_score(name, samples):
    clean = synthetic_speech()[2_000 : 2_000 + samples]
    with pytest.warns(metrics.UndefinedScoreWarning, match="shorter"):
        assert math.isnan(metrics.SPEECH_MEASURES[name](clean, with_noise(clean, 5)))


def test_pesq_of_a_clip_too_long_for_the_library_is_undefined_and_does_not_crash():
    utterance_and_pause = np.concatenate([synthetic_speech(0.3), np.zeros(4_000)])
    clean = np.tile(utterance_and_pause, 120)  # 66 s; the library writes past its memory after 50 utterances
    with pytest.warns(metrics.UndefinedScoreWarning, match="longer than 20 s"):
        assert math.isnan(metrics.pesq(clean, with_noise(clean, 10)))
    assert metrics.pesq(clean[: 20 * 16_000], with_noise(clean[: 20 * 16_000], 10)) > 1


def test_stoi_of_a_clip_with_too_little_speech_is_undefined_and_not_nearly_0():
    clean = np.concatenate([synthetic_speech(0.25), np.zeros(16_000)])
    with pytest.warns(metrics.UndefinedScoreWarning, match="less than 0.4 s"):
        assert math.isnan(metrics.stoi(clean, with_noise(clean, 5)))


def test_pesq_without_an_utterance_is_undefined():
    clean = np.zeros(16_000)
    clean[8_000:8_800] = synthetic_speech()[1_000:1_800]  # 50 ms of sound are no utterance
    with pytest.warns(metrics.UndefinedScoreWarning, match="utterance"):
        assert math.isnan(metrics.pesq(clean, clean))


def test_scores_of_many_clips_leave_the_counting_to_the_caller():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = metrics.speech_scores(np.zeros(16_000), np.zeros(16_000), WITH_REFERENCE)
    assert len(scores) == 9
    assert all(math.isnan(score) for score in scores.values())


def test_clips_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"\(16000,\).*\(15999,\).*Cut or pad"):
        metrics.si_sdr(np.ones(16_000), np.ones(15_999))


def test_samples_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="enhanced clip has NaN"):
        metrics.segmental_snr(np.ones(16_000), np.full(16_000, np.nan))


def test_pesq_says_which_rates_it_knows():
    with pytest.raises(ValueError, match="sampling_rate=44100.*resample"):
        metrics.pesq(np.ones(16_000), np.ones(16_000), sampling_rate=44_100)


def test_stoi_knows_two_resamplers_to_10_khz():
    clean = synthetic_speech()
    noisy = with_noise(clean, 5)
    assert metrics.stoi(clean, noisy) == metrics.stoi(clean, noisy, resampler="scipy")
    assert metrics.stoi(clean, noisy, resampler="pystoi") == pystoi.stoi(clean, noisy, 16_000)
    at_10_khz = metrics.stoi(clean, noisy, 10_000, resampler="scipy")
    assert at_10_khz == metrics.stoi(clean, noisy, 10_000, resampler="pystoi")
    with pytest.raises(ValueError, match="'soxr'.*'scipy', 'pystoi'"):
        metrics.stoi(clean, noisy, resampler="soxr")


def test_extended_stoi_is_the_same_each_time_and_leaves_the_random_numbers_alone():
    clean = synthetic_speech()
    noisy = with_noise(clean, 5)
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    first = metrics.stoi(clean, noisy, extended=True)
    assert np.random.random() == expected
    assert metrics.stoi(clean, noisy, extended=True) == first


@pytest.mark.parametrize("missing", ["pesq", "pystoi", "sklearn", "evaluate"])
def test_without_the_extra_the_others_work_and_the_error_names_it(missing):
    call = {
        "pesq": "metrics.pesq(x, x)",
        "pystoi": "metrics.stoi(x, x)",
        "sklearn": "metrics.macro_f1(['a'], ['a'], ['a'])",
        "evaluate": "metrics.load('si_sdr')",
    }[missing]
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import numpy as np; from modeling_sparse_merit import metrics\n"
        "x = np.sin(np.arange(16000.0)); assert metrics.si_sdr(x, x) > 100 and metrics.segmental_snr(x, x) == 35\n"
        f"{call}"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "modeling-sparse-merit[metrics]"' in finished.stderr.strip().splitlines()[-1]


def test_emotion_scores_by_hand():
    labels = ["angry", "angry", "angry", "sad", "sad", "happy"]
    predictions = ["angry", "angry", "sad", "sad", "happy", "happy"]
    assert metrics.confusion(labels, predictions, CLASSES).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics.per_class_f1(labels, predictions, CLASSES) == pytest.approx(
        {"angry": 4 / 5, "sad": 2 / 4, "happy": 2 / 3}
    )
    assert metrics.macro_f1(labels, predictions, CLASSES) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert metrics.unweighted_average_recall(labels, predictions, CLASSES) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert metrics.accuracy(labels, predictions, CLASSES) == pytest.approx(4 / 6)
    assert metrics.micro_f1(labels, predictions, CLASSES) == pytest.approx(4 / 6)


def test_emotion_scores_equal_scikit_learn():
    generator = np.random.default_rng(3)
    labels, predictions = generator.integers(4, size=(2, 200))
    assert metrics.macro_f1(labels, predictions, range(4)) == pytest.approx(
        f1_score(labels, predictions, average="macro")
    )
    assert metrics.micro_f1(labels, predictions, range(4)) == pytest.approx(
        f1_score(labels, predictions, average="micro")
    )
    assert metrics.unweighted_average_recall(labels, predictions, range(4)) == pytest.approx(
        recall_score(labels, predictions, average="macro")
    )


def test_a_class_that_never_occurs_has_no_score_and_does_not_reduce_the_mean():
    labels, predictions = ["angry", "sad"], ["angry", "sad"]
    assert math.isnan(metrics.per_class_f1(labels, predictions, CLASSES)["happy"])
    assert metrics.macro_f1(labels, predictions, CLASSES) == 1
    assert metrics.unweighted_average_recall(labels, predictions, CLASSES) == 1


def test_a_class_that_is_only_predicted_counts_as_0_in_f1():
    assert metrics.per_class_f1(["angry"], ["happy"], CLASSES)["happy"] == 0


def test_no_clips_give_nan():
    for measure in (metrics.macro_f1, metrics.unweighted_average_recall, metrics.accuracy):
        assert math.isnan(measure([], [], CLASSES))


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(ValueError, match="'fear'"):
        metrics.macro_f1(["angry", "fear"], ["angry", "sad"], CLASSES)
    with pytest.raises(ValueError, match="2 and 1"):
        metrics.macro_f1(["angry", "sad"], ["angry"], CLASSES)


def test_concordance_correlation_by_hand():
    labels = [1.0, 2.0, 3.0, 4.0]  # variance 5/4
    assert metrics.concordance_correlation(labels, labels) == 1
    assert metrics.concordance_correlation(labels, labels[::-1]) == -1
    assert metrics.concordance_correlation(labels, [2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.5 / (2.5 + 1))  # offset 1
    # twice as wide around the same mean: covariance 5/2, variances 5/4 and 5
    assert metrics.concordance_correlation(labels, [-0.5, 1.5, 3.5, 5.5]) == pytest.approx(5 / (1.25 + 5))
    assert metrics.concordance_correlation(labels, [2.5] * 4) == 0


@pytest.mark.parametrize(("values", "reason"), [([], "fewer"), ([0.5], "fewer"), ([0.5, 0.5], "constant")])
def test_without_any_variation_there_is_no_concordance(values, reason):
    with pytest.warns(metrics.UndefinedScoreWarning, match=reason):
        assert math.isnan(metrics.concordance_correlation(values, values))


def test_concordance_refuses_missing_values_and_several_dimensions():
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.concordance_correlation([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"\(2, 3\).*Evaluate each attribute"):
        metrics.concordance_correlation(np.ones((2, 3)), np.ones((2, 3)))


def test_calibration_errors_by_hand():
    confidences = [0.5, 0.55, 0.9, 0.95, 1.0]
    correct = [True, False, True, True, False]
    # of 2 bins, (0, 0.5] and (0.5, 1]: |1 - 0.5| / 5 + |2 - 3.4| / 5
    assert metrics.expected_calibration_error(confidences, correct, bins=2) == pytest.approx((0.5 + 1.4) / 5)
    # of 15 bins: 0.5, 0.55, 0.9 (of (13/15, 14/15]) and 0.95 are alone but for 1.0
    expected = (0.5 + 0.55 + 0.1 + abs(1 - 1.95)) / 5
    assert metrics.expected_calibration_error(confidences, correct) == pytest.approx(expected)
    assert metrics.expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert metrics.expected_calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)


def test_calibration_errors_of_nothing_and_of_no_probabilities():
    with pytest.warns(metrics.UndefinedScoreWarning, match="no clips"):
        assert math.isnan(metrics.expected_calibration_error([], []))
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 0.5 to 2.0"):
        metrics.expected_calibration_error([0.5, 2.0], [True, True])
    with pytest.raises(ValueError, match=r"got \(1,\), \(2,\)"):
        metrics.expected_calibration_error([0.5], [True, True])


def test_weighted_f1_by_hand():
    # F1 of a: 2 * 2 / (3 + 2); of b: 2 * 1 / (1 + 2); c is predicted once and never labelled
    labels, predictions = ["a", "a", "a", "b"], ["a", "a", "b", "b"]
    expected = 3 / 4 * (4 / 5) + 1 / 4 * (2 / 3)
    assert metrics.weighted_f1(labels, predictions, ["a", "b", "c"]) == pytest.approx(expected)
    assert math.isnan(metrics.weighted_f1([], [], ["a", "b"]))

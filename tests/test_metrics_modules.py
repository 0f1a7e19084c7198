# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The measures as modules of `evaluate`: by folder and by name, without the network, equal to the functions."""

import math
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from modeling_sparse_merit import metrics

FOLDER = Path(metrics.__file__).parent
MODULES = [
    *("pesq", "stoi", "segmental_snr", "si_sdr", "composite", "dnsmos"),
    *("emotion_recognition", "emotion_diarization_error_rate", "concordance_correlation", "icbhi_score"),
]


@pytest.fixture
def load(tmp_path):
    """`load(name, **options)`, with a cache of its own."""
    return lambda name, **options: metrics.load(name, cache_dir=str(tmp_path), **options)


@pytest.fixture(scope="module")
def clips(speech_clip) -> dict[str, list[np.ndarray]]:
    """Three pairs of clips of different lengths."""
    clean = [speech_clip(seconds, seed=index) for index, seconds in enumerate((1.2, 1.5, 1.3))]
    generator = np.random.default_rng(0)
    noisy = [(x + 0.02 * generator.standard_normal(len(x))).astype(np.float32) for x in clean]
    return {"predictions": noisy, "references": clean}


@pytest.mark.parametrize("name", MODULES)
def test_each_folder_loads_offline_and_says_what_it_is(name, tmp_path):
    module = evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))
    assert module.name == name
    assert module.module_type == "metric"
    assert module.citation.startswith("@") and "predictions" in module.inputs_description and module.description


@pytest.mark.slow
def test_a_folder_loads_in_a_process_that_reaches_no_network_and_imported_nothing_else(tmp_path):
    program = (
        "import evaluate\n"
        f"module = evaluate.load({str(FOLDER / 'si_sdr')!r}, cache_dir={str(tmp_path)!r})\n"
        "print(module.compute(predictions=[[1.0, -1.0, 1.1]], references=[[1.0, -1.0, 1.0]]))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(FOLDER.parents[1])}
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "'si_sdr_undefined': 0" in finished.stdout, finished.stderr


def test_speech_scores_equal_the_functions_clip_by_clip(load, clips):
    for name in ("pesq", "stoi", "segmental_snr", "si_sdr"):
        function = getattr(metrics, name)
        actual = load(name).compute(**clips)
        expected = [function(x, y) for x, y in zip(clips["references"], clips["predictions"], strict=True)]
        assert actual == {name: pytest.approx(np.mean(expected)), f"{name}_per_clip": expected, f"{name}_undefined": 0}


def test_composite_gives_three_scores(load, clips):
    actual = load("composite").compute(**clips)
    for index, (clean, noisy) in enumerate(zip(clips["references"], clips["predictions"], strict=True)):
        for name, score in metrics.composite(clean, noisy).items():
            assert actual[f"{name}_per_clip"][index] == score
    assert actual["covl"] == pytest.approx(np.mean(actual["covl_per_clip"])) and actual["csig_undefined"] == 0


def test_options_hold_whether_given_at_loading_or_at_computing(load, clips):
    clean, noisy = clips["references"][0], clips["predictions"][0]
    one = {"predictions": [noisy], "references": [clean]}
    narrow = metrics.pesq(clean, noisy, mode="nb")
    assert load("pesq", mode="nb").compute(**one)["pesq"] == load("pesq").compute(**one, mode="nb")["pesq"] == narrow
    assert load("pesq", mode="nb").compute(**one, mode="wb")["pesq"] == metrics.pesq(clean, noisy)
    extended = metrics.stoi(clean, noisy, extended=True)
    assert load("stoi", extended=True).compute(**one)["stoi"] == extended
    by_pystoi = metrics.stoi(clean, noisy, resampler="pystoi")
    assert load("stoi").compute(**one, resampler="pystoi")["stoi"] == by_pystoi
    at_8_khz = metrics.segmental_snr(clean, noisy, 8_000)
    assert load("segmental_snr").compute(**one, sampling_rate=8_000)["segmental_snr"] == at_8_khz


def test_two_processes_give_the_same_scores(load, clips):
    alone = load("composite").compute(**clips)
    assert load("composite").compute(**clips, num_processes=2) == alone


def test_undefined_clips_are_counted_left_out_of_the_mean_and_warned_of_once(load, clips):
    silence = [np.zeros_like(x) for x in clips["references"][:2]]
    pairs = {
        "predictions": [clips["predictions"][0], *silence, clips["predictions"][2][:100]],
        "references": [*clips["references"][:2], silence[1], clips["references"][2][:100]],
    }
    pairs["predictions"][1] = silence[1]
    with pytest.warns(metrics.UndefinedScoreWarning) as caught:
        actual = load("pesq").compute(**pairs)
    (warning,) = caught
    assert "3 of 4 clips" in str(warning.message) and "silent (2" in str(warning.message)
    assert warning.filename == __file__
    assert actual["pesq_undefined"] == 3
    assert [math.isnan(score) for score in actual["pesq_per_clip"]] == [False, True, True, True]
    assert actual["pesq"] == actual["pesq_per_clip"][0]


def test_without_any_defined_clip_the_mean_is_nan(load):
    with pytest.warns(metrics.UndefinedScoreWarning):
        actual = load("composite").compute(predictions=[np.zeros(8_000)], references=[np.zeros(8_000)])
    assert all(math.isnan(actual[name]) and actual[f"{name}_undefined"] == 1 for name in ("csig", "cbak", "covl"))


def test_modules_work_together_and_batch_by_batch(load, clips):
    together = evaluate.combine([load("si_sdr"), load("segmental_snr"), load("stoi", extended=True)])
    at_once = together.compute(**clips, sampling_rate=16_000)
    assert at_once["si_sdr"] == load("si_sdr").compute(**clips)["si_sdr"]
    for clean, noisy in zip(clips["references"], clips["predictions"], strict=True):
        together.add_batch(predictions=[noisy], references=[clean])
    assert together.compute() == at_once
    for clean, noisy in zip(clips["references"], clips["predictions"], strict=True):
        together.add(prediction=noisy.tolist(), reference=clean.tolist())
    assert together.compute() == at_once
    both = evaluate.combine({"wide": load("pesq"), "narrow": load("pesq", mode="nb")}).compute(**clips)
    assert both["wide_pesq"] != both["narrow_pesq"]


def test_more_clips_than_are_written_at_once_keep_their_order(load):
    generator = np.random.default_rng(0)
    clean = [generator.standard_normal(50 + index) for index in range(40)]
    noisy = [x + 10 ** (-index / 20) * np.roll(x, 1) for index, x in enumerate(clean)]
    actual = load("si_sdr").compute(predictions=noisy, references=clean)["si_sdr_per_clip"]
    assert actual == pytest.approx([metrics.si_sdr(x, y) for x, y in zip(clean, noisy, strict=True)], abs=1e-3)


def test_what_cannot_be_scored_is_refused_with_its_reason(load, clips):
    clean, noisy = clips["references"], clips["predictions"]
    with pytest.raises(ValueError, match=r"Clip 1: .*\(24000,\).*\(23999,\)"):
        load("si_sdr").compute(predictions=[noisy[0], noisy[1][1:]], references=clean[:2])
    with pytest.raises(ValueError, match="3 clips and 2 references"):
        load("si_sdr").compute(predictions=noisy, references=clean[:2])
    with pytest.raises(ValueError, match=r"Pesq has no options \['bands'\].*'mode'"):
        load("pesq", bands="wide")
    with pytest.raises(ValueError, match=r"SiSdr has no options \['mode'\]"):
        load("si_sdr").compute(**clips, mode="nb")
    with pytest.raises(ValueError, match="sampling_rate=44100.*resample"):
        load("pesq").compute(**clips, sampling_rate=44_100)
    with pytest.raises(ValueError, match="'mos' is not a metric.*'composite'"):
        load("mos")


def test_emotion_recognition_by_hand(load):
    actual = load("emotion_recognition").compute(
        references=["angry", "angry", "angry", "sad", "sad", "happy"],
        predictions=["angry", "angry", "sad", "sad", "happy", "happy"],
    )
    assert actual["classes"] == ["angry", "happy", "sad"]
    assert actual["confusion"] == [[2, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert actual["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 2 / 4) / 3)
    assert actual["micro_f1"] == pytest.approx(4 / 6)
    assert actual["uar"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert actual["per_class_f1"] == pytest.approx({"angry": 4 / 5, "happy": 2 / 3, "sad": 1 / 2})


def test_emotion_recognition_takes_numbers_and_an_order_of_the_classes(load):
    references, predictions = np.random.default_rng(0).integers(4, size=(2, 50))
    actual = load("emotion_recognition", classes=[3, 2, 1, 0]).compute(references=references, predictions=predictions)
    assert actual["confusion"] == confusion_matrix(references, predictions, labels=[3, 2, 1, 0]).tolist()
    assert actual["classes"] == [3, 2, 1, 0]


def test_concordance_correlation_by_hand(load):
    actual = load("concordance_correlation").compute(predictions=[2.0, 3.0, 4.0, 5.0], references=[1, 2, 3, 4])
    assert actual == {"concordance_correlation": pytest.approx(2.5 / 3.5)}
    with pytest.warns(metrics.UndefinedScoreWarning, match="fewer than two"):
        assert math.isnan(
            load("concordance_correlation").compute(predictions=[1.0], references=[1.0])["concordance_correlation"]
        )


def test_every_module_is_known():
    """They are no Python packages, which would hide the functions of the same names."""
    assert {FOLDER / name / f"{name}.py" for name in MODULES} == set(FOLDER.glob("*/*.py"))

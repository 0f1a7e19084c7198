# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""External references: probes of emotions, and files of other systems."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from datasets import Audio, ClassLabel, Dataset

from modeling_sparse_merit import SparseMeritFeatureExtractor, SparseMeritModel
from modeling_sparse_merit.data.datasets import DatasetError
from modeling_sparse_merit.evaluation import probes
from modeling_sparse_merit.evaluation.references import build_reference

NAMES = ["angry", "sad", "happy", "neutral"]


def voice(pitch: float, level: float, seconds: float = 0.6) -> np.ndarray:
    """Twelve harmonics of a steady pitch in Hz, in syllables."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    tones = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 13))
    return (level * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def write_dataset(path: Path, recordings: list[np.ndarray], names: list[str] | None = None, **columns: list) -> str:
    audio = []
    for index, recording in enumerate(recordings):
        buffer = io.BytesIO()
        soundfile.write(buffer, recording, 16_000, format="WAV", subtype="FLOAT")
        audio.append({"bytes": buffer.getvalue(), "path": names[index] if names else f"{index}.wav"})
    table = Dataset.from_dict({"audio": audio, **columns})
    if "emotion" in columns:
        table = table.cast_column("emotion", ClassLabel(names=NAMES))
    table.cast_column("audio", Audio(sampling_rate=16_000, decode=False)).to_parquet(str(path))
    return str(path)


# References by name --------------------------------------------------------------------------------------------------


def test_an_error_names_the_references_and_their_options():
    with pytest.raises(
        ValueError,
        match="no reference 'cmgan'; .* are egemaps_svm, encoder_probe, egemaps_ridge, processed, noisereduce",
    ):
        build_reference("cmgan", {}, NAMES)
    with pytest.raises(ValueError, match=r"unknown options \['path'\], and the options \['folder', 'test_set'\] are"):
        build_reference("processed", {"path": "x"}, NAMES)


def test_without_opensmile_the_error_names_extra_and_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(
        ImportError, match=r'`opensmile`: pip install "modeling-sparse-merit\[benchmark\]".*Research Lic'
    ):
        build_reference("egemaps_svm", {"speech": "none", "noise": "none"}, NAMES)


# eGeMAPS and SVM -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict:
    """High and loud is angry, low and soft is sad, between is neutral; one clip has no label, one another."""
    folder = tmp_path_factory.mktemp("corpus")
    recordings, emotions, splits = [], [], []
    for split, shifts in (("train", (0.94, 0.98, 1.02, 1.06)), ("dev", (0.96, 1.04)), ("test", (1.0,))):
        for pitch, level, emotion in ((320, 0.2, "angry"), (110, 0.02, "sad"), (190, 0.08, "neutral")):
            recordings += [voice(pitch * shift, level) for shift in shifts]
            emotions += [NAMES.index(emotion)] * len(shifts)
            splits += [split] * len(shifts)
    recordings += [voice(150, 0.1), voice(250, 0.1)]
    emotions, splits = [*emotions, None, NAMES.index("happy")], [*splits, "train", "train"]
    noise = 0.1 * np.random.default_rng(0).standard_normal((4, 16_000)).astype(np.float32)
    return {
        "speech": [write_dataset(folder / "speech.parquet", recordings, emotion=emotions, split=splits)],
        "noise": write_dataset(folder / "noise.parquet", list(noise), split=["train", "train", "train", "dev"]),
        "cache": str(folder / "cache"),
        "workers": 1,
        "snr_db": [5, 15],
    }


@pytest.fixture(scope="module")
def egemaps_svm(corpus):
    pytest.importorskip("opensmile", reason="opensmile is not installed: extra `benchmark`")
    return build_reference("egemaps_svm", corpus, ["sad", "angry", "neutral"])


TEST_CLIPS = [voice(330, 0.2), voice(105, 0.02), voice(185, 0.08)]  # angry, sad, neutral


def test_the_svm_knows_new_clips_and_keeps_the_order_of_the_labels(egemaps_svm, corpus):
    outputs = egemaps_svm.predict(TEST_CLIPS)
    assert [int(output.probabilities.argmax()) for output in outputs] == [1, 0, 2]
    assert all(output.enhanced is None for output in outputs)
    np.testing.assert_allclose([output.probabilities.sum() for output in outputs], 1)
    two = build_reference("egemaps_svm", corpus, ["angry", "sad"])
    assert [int(output.probabilities.argmax()) for output in two.predict(TEST_CLIPS[:2])] == [0, 1]


def test_it_learns_labelled_clips_alone_clean_and_in_noise(egemaps_svm, corpus):
    described = json.loads(json.dumps(egemaps_svm.describe(), allow_nan=False))
    assert described["training"]["clips"] == 12 * 3 and described["training"]["dev_clips"] == 6 * 3
    assert described["versions"]["opensmile"] and "non-commercial" in described["licence"]
    assert described["C"] in probes.COSTS and described["gamma"] in probes.WIDTHS
    other = build_reference("egemaps_svm", {**corpus, "seed": 1}, egemaps_svm.labels).describe()
    assert other["training"]["sha256"] != described["training"]["sha256"]


def test_the_same_again_computes_no_features(egemaps_svm, corpus, monkeypatch):
    before = egemaps_svm.predict(TEST_CLIPS)
    monkeypatch.setattr(probes, "egemaps", lambda recording: pytest.fail("computed again"))
    again = build_reference("egemaps_svm", corpus, egemaps_svm.labels)
    assert again.describe() == egemaps_svm.describe()
    for first, second in zip(before, again.predict(TEST_CLIPS), strict=True):
        np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.slow  # the processes import torch
def test_several_processes_compute_the_same(egemaps_svm, corpus, tmp_path):
    parallel = build_reference("egemaps_svm", {**corpus, "workers": 2, "cache": str(tmp_path)}, egemaps_svm.labels)
    assert parallel.describe() == egemaps_svm.describe()
    for first, second in zip(egemaps_svm.predict(TEST_CLIPS), parallel.predict(TEST_CLIPS), strict=True):
        np.testing.assert_array_equal(first.probabilities, second.probabilities)


def test_a_clip_too_short_for_features_has_a_prediction(egemaps_svm):
    with pytest.warns(UserWarning, match="too short"):
        (output,) = egemaps_svm.predict([TEST_CLIPS[0][:500]])
    assert np.isfinite(output.probabilities).all()


def test_a_class_without_training_clips_is_named(egemaps_svm, corpus):
    with pytest.raises(DatasetError, match=r"\['surprise'\]"):
        build_reference("egemaps_svm", corpus, ["angry", "sad", "surprise"])


def test_egemaps_has_the_pitch_and_full_scale_does_not_wrap():
    pytest.importorskip("opensmile", reason="opensmile is not installed: extra `benchmark`")
    recording = voice(220, 0.1, seconds=1)
    functionals = probes.egemaps(recording)
    assert functionals.shape == (88,)
    assert functionals[0] == pytest.approx(36, abs=0.1)  # mean pitch in semitones from 27.5 Hz: three octaves
    loud = recording / np.abs(recording).max()
    np.testing.assert_allclose(probes.egemaps(loud), probes.egemaps(0.9999 * loud), rtol=0.02, atol=0.05)


# eGeMAPS and ridge regression ----------------------------------------------------------------------------------------

TONES = {"train": (100, 130, 160, 190, 220, 250, 280, 310), "dev": (115, 205, 295), "test": (145, 265)}  # Hz


@pytest.fixture(scope="module")
def rated(tmp_path_factory) -> dict:
    """The arousal of a clip is its pitch in octaves above 100 Hz; its valence is the opposite, and one is missing."""
    folder = tmp_path_factory.mktemp("rated")
    pitches = [(split, pitch) for split, some in TONES.items() for pitch in some]
    arousal = [float(np.log2(pitch / 100)) for _, pitch in pitches]
    valence = [None, *(-value for value in arousal[1:])]
    recordings = [voice(pitch, 0.1) for _, pitch in pitches]
    columns = {"split": [split for split, _ in pitches], "arousal": arousal, "valence": valence}
    speech = [write_dataset(folder / "speech.parquet", recordings, **columns)]
    return {"speech": speech, "task": "attributes", "cache": str(folder / "cache"), "workers": 1}


def test_ridge_regression_predicts_the_ratings_of_new_clips(rated):
    pytest.importorskip("opensmile", reason="opensmile is not installed: extra `benchmark`")
    ridge = build_reference("egemaps_ridge", {**rated, "ratings": ["arousal", "valence"]}, NAMES)
    assert ridge.tasks == ("attributes",)
    outputs = ridge.predict([voice(pitch, 0.1) for pitch in TONES["test"]])
    predicted = np.array([output.task_outputs["attributes"] for output in outputs])
    true = np.log2(np.array(TONES["test"]) / 100)  # 0.54 and 1.41
    np.testing.assert_allclose(predicted, np.stack([true, -true], axis=1), atol=0.15)
    noise = np.random.default_rng(0).standard_normal((3, 16_000)).astype(np.float32)
    unlike = np.array([output.task_outputs["attributes"] for output in ridge.predict(list(noise))])
    assert (unlike >= [0, -np.log2(3.1)]).all() and (unlike <= [np.log2(3.1), -np.log2(1.3)]).all()  # of training
    described = json.loads(json.dumps(ridge.describe(), allow_nan=False))
    assert described["training"] == {"clips": 8, "dev_clips": 3}
    assert all(choice["dev_ccc"] > 0.95 for choice in described["ratings"].values())


def test_ratings_that_the_datasets_lack_are_named(rated):
    pytest.importorskip("opensmile", reason="opensmile is not installed: extra `benchmark`")
    with pytest.raises(DatasetError, match=r"\['dominance'\], which are no columns"):
        build_reference("egemaps_ridge", {**rated, "ratings": ["arousal", "dominance"]}, NAMES)


# Probe of an encoder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_probe(corpus, tmp_path_factory):
    options = {name: corpus[name] for name in ("speech", "noise", "snr_db")}
    options |= {"encoder": str(TINY), "cache": str(tmp_path_factory.mktemp("hidden_states"))}
    return build_reference("encoder_probe", options, ["sad", "angry", "neutral"]), options


def test_the_probe_of_an_encoder_knows_new_clips_and_computes_no_features_again(encoder_probe, monkeypatch):
    probe, options = encoder_probe
    outputs = probe.predict(TEST_CLIPS)
    assert [int(output.probabilities.argmax()) for output in outputs] == [1, 0, 2]
    assert all(output.enhanced is None for output in outputs)
    np.testing.assert_allclose([output.probabilities.sum() for output in outputs], 1)
    described = json.loads(json.dumps(probe.describe(), allow_nan=False))
    assert described["training"]["clips"] == 12 * 3 and described["C"] in probes.PROBE_COSTS
    monkeypatch.setattr(probes.EncoderProbe, "_statistics", lambda self, recording: pytest.fail("computed again"))
    again = build_reference("encoder_probe", options, probe.labels)
    assert again.describe() == probe.describe()
    np.testing.assert_array_equal(again.predict(TEST_CLIPS)[0].probabilities, outputs[0].probabilities)


def test_features_of_an_encoder_are_mean_and_deviation_of_its_hidden_states(encoder_probe):
    ((_, features),) = encoder_probe[0].features(TEST_CLIPS[:1])
    extractor = SparseMeritFeatureExtractor.from_pretrained(TINY)
    model = SparseMeritModel.from_pretrained(TINY).eval()
    with torch.inference_mode():
        inputs = extractor(TEST_CLIPS[0], sampling_rate=16_000, return_tensors="pt")
        states = np.concatenate(
            [state[0] for state in model(**inputs, output_hidden_states=True).hidden_states], axis=1
        )
    np.testing.assert_allclose(features, np.concatenate([states.mean(0), states.std(0)]), rtol=1e-4, atol=1e-5)


# Files of another system ---------------------------------------------------------------------------------------------


@pytest.fixture
def processed(tmp_path):
    """`processed(names)` writes a test set with these names; the other system halved each recording."""
    (tmp_path / "outputs/deep").mkdir(parents=True)
    received = [voice(200, 0.1), voice(200, 0.1, seconds=0.5)]

    def build(names: list[str]):
        test_set = write_dataset(tmp_path / "test_set.parquet", received, names)
        return received, build_reference("processed", {"folder": tmp_path / "outputs", "test_set": test_set}, NAMES)

    for recording, name in zip(received, ("a.clean.wav", "deep/b_-5dB.wav"), strict=True):
        soundfile.write(tmp_path / "outputs" / name, recording / 2, 16_000, subtype="FLOAT")
    return build


def test_files_are_identified_by_the_input(processed):
    received, system = processed(["a.clean.flac", "deep/b_-5dB.flac"])  # written as .wav
    for recording, output in zip(received[::-1], system.predict(received[::-1]), strict=True):
        np.testing.assert_array_equal(output.enhanced, recording / 2)
        assert output.probabilities is None
    assert system.describe() == processed(["a.clean.wav", "deep/b_-5dB.wav"])[1].describe()
    with pytest.raises(ValueError, match="belong to another test set"):
        system.predict([voice(333, 0.1)])


def test_missing_files_and_other_lengths_are_named(processed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no file c\.flac"):
        processed(["a.clean.flac", "c.flac"])
    soundfile.write(tmp_path / "outputs/a.clean.wav", np.zeros(100), 16_000)
    received, system = processed(["a.clean.flac", "deep/b_-5dB.flac"])
    with pytest.raises(ValueError, match=r"a\.clean\.wav has 100 samples at 16 kHz.*has 9600"):
        system.predict(received[:1])
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        build_reference("processed", {"folder": "nowhere", "test_set": "x"}, NAMES)


def test_no_name_leads_out_of_the_folder(processed, tmp_path):
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.zeros(9_600), 16_000)
    (tmp_path / "outputs/link.wav").symlink_to(secret)
    for name in ("../secret.wav", str(secret), "deep/../../secret.wav", "..", ".", "link.wav"):
        with pytest.raises(ValueError, match="expected the name of a file inside"):
            processed([name, "deep/b_-5dB.flac"])
    with pytest.raises(FileNotFoundError):  # the ending would be changed to that of the link
        processed(["link.flac", "deep/b_-5dB.flac"])

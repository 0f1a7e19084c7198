# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the feature extractor promises: recordings in the model's scale, padded and masked, and the way back."""

import json
import logging

import numpy as np
import pytest
import soxr
import torch
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from modeling_sparse_merit import SparseMeritFeatureExtractor

RATE = 16_000


def recording(samples: int, level: float = 0.1, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    return (offset + level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_each_recording_is_scaled_over_its_own_length():
    clips = [recording(16_000, 0.2, 0.05), recording(7_000, 0.01, -0.3, seed=1)]
    features = SparseMeritFeatureExtractor()(clips, RATE, return_tensors="np")
    assert features["input_values"].shape == features["attention_mask"].shape == (2, 16_000)
    assert features["input_values"].dtype == np.float32
    for row, mask, clip in zip(features["input_values"], features["attention_mask"], clips, strict=True):
        exact = clip.astype(np.float64)
        expected = (exact - exact.sum() / len(exact)) / np.sqrt(np.mean((exact - exact.mean()) ** 2) + 1e-7)
        np.testing.assert_allclose(row[: len(clip)], expected, atol=1e-4)
        np.testing.assert_array_equal(row[len(clip) :], 0)
        np.testing.assert_array_equal(mask, np.arange(16_000) < len(clip))


def test_a_recording_is_the_same_alone_and_in_a_batch():
    clips = [recording(9_000), recording(16_000, seed=1)]
    extractor = SparseMeritFeatureExtractor()
    batch = extractor(clips, RATE, return_tensors="pt")
    alone = extractor(clips[0], RATE, return_tensors="pt")
    assert alone["input_values"].shape == (1, 9_000)
    assert alone["attention_mask"].all()
    torch.testing.assert_close(batch["input_values"][0, :9_000], alone["input_values"][0], rtol=0, atol=0)


def test_same_values_as_the_stock_extractor_for_one_clip():
    clip = recording(5_000)
    stock = Wav2Vec2FeatureExtractor()(clip, sampling_rate=RATE, return_tensors="np")["input_values"]
    ours = SparseMeritFeatureExtractor()(clip, RATE, return_tensors="np")["input_values"]
    np.testing.assert_allclose(ours, stock, atol=1e-5)


def test_corpus_statistics():
    extractor = SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.25, corpus_std=0.5)
    clip = np.full(400, 0.75, np.float32)
    features = extractor([clip, np.zeros(500, np.float32)], RATE, return_tensors="np")
    np.testing.assert_array_equal(features["input_values"][0], [1.0] * 400 + [0.0] * 100)
    np.testing.assert_array_equal(features["input_values"][1], [-0.5] * 500)


def test_the_target_gets_the_scale_of_the_noisy_recording():
    noisy = [recording(1_000, 0.3, 0.1), recording(800, 0.2, seed=1)]
    clean = [recording(1_000, 0.1, seed=2), recording(800, 0.05, seed=3)]
    features = SparseMeritFeatureExtractor()(noisy, RATE, clean_speech=clean, return_tensors="pt")
    assert features["clean_values"].shape == features["input_values"].shape
    for index in range(2):
        expected = (clean[index] - noisy[index].mean()) / np.sqrt(noisy[index].var() + 1e-7)
        row = features["clean_values"][index].numpy()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)
        np.testing.assert_array_equal(row[len(expected) :], 0)


@pytest.mark.parametrize("arguments", [{}, {"normalization": "corpus", "corpus_mean": 0.01, "corpus_std": 0.07}])
def test_denormalize_is_the_inverse(arguments):
    extractor = SparseMeritFeatureExtractor(**arguments)
    clips = [recording(1_600, 0.2, 0.05), recording(900, 0.01, seed=1), np.full(700, 0.3, np.float32)]
    values = extractor(clips, RATE, return_tensors="pt")["input_values"]
    denormalized = extractor.denormalize(values, clips)
    assert [clip.dtype for clip in denormalized] == [np.float32] * 3
    for back, clip in zip(denormalized, clips, strict=True):
        assert back.shape == clip.shape
        np.testing.assert_allclose(back, clip, atol=1e-5)


def test_denormalize_brings_clean_speech_to_the_level_it_has_in_the_recording():
    clean, noise = recording(2_000, 0.05), recording(2_000, 0.2, seed=1)
    extractor = SparseMeritFeatureExtractor()
    features = extractor(clean + noise, RATE, clean_speech=clean, return_tensors="pt")
    np.testing.assert_allclose(extractor.denormalize(features["clean_values"], clean + noise)[0], clean, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silence_does_not_explode(value):
    silence = np.full(1_000, value, np.float32)
    extractor = SparseMeritFeatureExtractor()
    values = extractor(silence, RATE, return_tensors="np")["input_values"]
    assert np.abs(values).max() < 1e-3
    # a model that hallucinates at full scale stays inaudible: sqrt(1e-7) = -70 dBFS
    assert np.abs(extractor.denormalize(np.ones((1, 1_000)), silence)[0] - value).max() < 1e-3


def test_denormalize_takes_longer_output_tensors_of_any_type_and_single_rows():
    clip = recording(1_000)
    extractor = SparseMeritFeatureExtractor()
    output = torch.zeros(1, 1_280, dtype=torch.bfloat16, requires_grad=True)
    assert extractor.denormalize(output, clip)[0].shape == (1_000,)
    assert extractor.denormalize(output[0], [clip])[0].shape == (1_000,)


def test_denormalize_refuses_what_does_not_belong_together():
    extractor = SparseMeritFeatureExtractor()
    with pytest.raises(ValueError, match="2 recordings"):
        extractor.denormalize(np.zeros((1, 1_000)), [recording(1_000), recording(1_000)])
    with pytest.raises(ValueError, match="uncut"):
        extractor.denormalize(np.zeros((1, 999)), recording(1_000))


def test_every_form_of_input_gives_the_same_values():
    extractor = SparseMeritFeatureExtractor()
    samples = np.random.default_rng(0).integers(-20_000, 20_000, 1_000).astype(np.int16)
    clip = (samples / 32768).astype(np.float32)
    expected = extractor(clip, RATE, return_tensors="np")["input_values"]
    forms = [
        samples,
        clip.astype(np.float64),
        torch.from_numpy(clip),
        torch.from_numpy(samples),
        clip.tolist(),
        [clip],
        [clip.tolist()],
        (torch.from_numpy(clip),),
        clip[None],
        (samples.astype(np.int32) << 16),
    ]
    for form in forms:
        values = extractor(form, RATE, return_tensors="np")["input_values"]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("return_tensors, expected", [("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)])
def test_return_types(return_tensors, expected):
    features = SparseMeritFeatureExtractor()([recording(500), recording(600)], RATE, return_tensors=return_tensors)
    assert set(features) == {"input_values", "attention_mask"}
    assert isinstance(features["input_values"][0], expected)


def test_padding_and_truncation_as_in_transformers():
    extractor = SparseMeritFeatureExtractor()
    clips = [recording(1_000), recording(700, seed=1)]
    whole = extractor(clips, RATE, return_tensors="np")
    multiple = extractor(clips, RATE, pad_to_multiple_of=512, return_tensors="np")
    assert multiple["input_values"].shape == (2, 1_024)
    longer = extractor(clips, RATE, padding="max_length", max_length=2_000, return_tensors="np")
    assert longer["input_values"].shape == (2, 2_000)
    assert longer["attention_mask"].sum(axis=1).tolist() == [1_000, 700]
    cut = extractor(clips, RATE, clips, max_length=800, truncation=True, return_tensors="np")
    assert cut["input_values"].shape == cut["clean_values"].shape == (2, 800)
    # the scale is that of the whole recording, so that `denormalize` finds it again
    np.testing.assert_array_equal(cut["input_values"], whole["input_values"][:, :800])
    ragged = extractor(clips, RATE, padding=False)
    assert [len(row) for row in ragged["input_values"]] == [1_000, 700]


@pytest.mark.parametrize(
    "speech, complaint",
    [
        (np.full(1_000, np.nan), "Recording 0 .*NaN"),
        ([recording(500), np.append(recording(500), np.inf)], "Recording 1 .*infinite"),
        (np.zeros(0, np.float32), "0 samples"),
        ([], "empty"),
        ([recording(500), []], "Recording 1 .* 0 samples"),
        (recording(399), "399 samples.* 400"),
        (np.zeros((2, 1_000), np.float32), r"\(2, 1000\).*average them"),
        (torch.zeros(1_000, 2), r"\(1000, 2\).*pass a list"),
        ([np.zeros((2, 1_000), np.float32)], "Recording 0 .*average them"),
        (np.zeros((1, 2, 1_000), np.float32), r"\(1, 2, 1000\)"),
        (np.zeros(1_000, np.int64), "int64"),
    ],
)
def test_bad_recordings_are_errors_that_say_which_and_why(speech, complaint):
    with pytest.raises(ValueError, match=complaint):
        SparseMeritFeatureExtractor()(speech, RATE)


def test_one_frame_is_enough():
    assert SparseMeritFeatureExtractor()(recording(400), RATE)["input_values"][0].shape == (400,)


def test_another_rate_is_an_error_that_says_how_to_resample():
    extractor = SparseMeritFeatureExtractor()
    with pytest.raises(ValueError, match=r"44100 Hz.*16000 Hz.*`soxr.resample\(recording, 44100, 16000\)`") as error:
        extractor(recording(44_100), sampling_rate=44_100)
    assert "modeling_sparse_merit" not in str(error.value)  # who loads a checkpoint by Auto classes does not have it
    resampled = soxr.resample(recording(44_100), 44_100, 16_000)
    assert extractor(resampled, sampling_rate=16_000)["input_values"][0].shape == (16_000,)


def test_a_missing_rate_is_a_warning(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        SparseMeritFeatureExtractor()(recording(1_000))
    finally:
        logger.removeHandler(caplog.handler)
    assert "sampling_rate" in caplog.text


def test_targets_must_match_their_recordings():
    extractor = SparseMeritFeatureExtractor()
    with pytest.raises(ValueError, match=r"\[900\] samples, `raw_speech` \[1000\]"):
        extractor(recording(1_000), RATE, clean_speech=recording(900))
    with pytest.raises(ValueError, match="expected the same lengths"):
        extractor([recording(1_000)] * 2, RATE, clean_speech=[recording(1_000)])
    with pytest.raises(ValueError, match="`clean_speech`"):
        extractor(recording(1_000), RATE, clean_speech=np.full(1_000, np.nan))


@pytest.mark.parametrize(
    "arguments",
    [
        {"normalization": "none"},
        {"normalization": "corpus"},
        {"normalization": "corpus", "corpus_mean": 0.0, "corpus_std": 0.0},
        {"normalization": "corpus", "corpus_mean": float("nan"), "corpus_std": 1.0},
        {"corpus_mean": 0.0, "corpus_std": 1.0},
        {"do_normalize": False},
        {"padding_side": "left"},
    ],
)
def test_impossible_settings_are_refused_early(arguments):
    with pytest.raises(ValueError, match="normaliz|padding_side"):
        SparseMeritFeatureExtractor(**arguments)


def test_settings_survive_saving(tmp_path):
    extractor = SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.125, corpus_std=0.5)
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["normalization"], saved["corpus_mean"], saved["corpus_std"]) == ("corpus", 0.125, 0.5)
    loaded = SparseMeritFeatureExtractor.from_pretrained(tmp_path)
    clip = recording(1_000)
    np.testing.assert_array_equal(loaded(clip, RATE)["input_values"], extractor(clip, RATE)["input_values"])
    other = SparseMeritFeatureExtractor.from_pretrained(
        tmp_path, normalization="recording", corpus_mean=None, corpus_std=None
    )
    assert other.normalization == "recording"


def test_a_saved_folder_brings_its_own_code(tmp_path):
    SparseMeritFeatureExtractor().save_pretrained(tmp_path / "model")
    assert {"feature_extraction_sparse_merit.py", "audio.py"} <= {file.name for file in (tmp_path / "model").iterdir()}
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(loaded).__name__ == "SparseMeritFeatureExtractor"
    assert type(loaded) is not SparseMeritFeatureExtractor
    assert loaded(recording(1_000), RATE, return_tensors="pt")["input_values"].shape == (1, 1_000)

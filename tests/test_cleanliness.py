# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Clean recordings of a dataset: by the difference of loud and quiet parts, or by a classifier."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor

from modeling_sparse_merit import Cnn14Config, Cnn14ForAudioClassification, load_audio
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.inference.classifiers import load_classifier
from modeling_sparse_merit.inference.cleanliness import build

RATE = 16_000
RANGES = {"clean.wav": 40.0, "fair.wav": 20.0, "noisy.wav": 6.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def recordings(tmp_path) -> str:
    """Three recordings, one half of which is quieter than the other by a known number of dB."""
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    lines = ["file_name,split"]
    for name, decibels in RANGES.items():
        soundfile.write(tmp_path / name, np.concatenate([tone, tone * 10 ** (-decibels / 20)]), RATE, "FLOAT")
        lines.append(f"{name},train")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    prepare.write_dataset(corpus_named("folder").build(tmp_path), tmp_path / "recordings")
    return str(tmp_path / "recordings")


@pytest.fixture
def classifier(tmp_path) -> str:
    torch.manual_seed(0)
    config = Cnn14Config(channels=[4, 4], id2label={0: "noise", 1: "tidy"}, label2id={"noise": 0, "tidy": 1})
    Cnn14ForAudioClassification(config).save_pretrained(tmp_path / "classifier")
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier")


def scores(rows) -> dict[str, float]:
    return {row["source_file"]: row["clean_score"] for row in rows}


def test_the_score_is_the_difference_of_loud_and_quiet_parts(recordings):
    assert scores(build(recordings)) == pytest.approx(RANGES, abs=0.1)


def test_the_command_leaves_out_recordings_below_the_threshold_and_says_how_many(recordings, tmp_path):
    app(["prepare", "clean", recordings, str(tmp_path / "clean"), "--threshold", "10"], standalone_mode=False)
    kept = read_dataset(tmp_path / "clean")
    assert sorted(kept["source_file"]) == ["clean.wav", "fair.wav"]
    assert (
        "dynamic range in dB" in kept.info.description
        and "1 recordings below 10 were left out" in kept.info.description
    )


def test_a_classifier_gives_the_probability_of_its_label(recordings, classifier):
    model = Cnn14ForAudioClassification.from_pretrained(classifier).eval()
    expected = {
        row["source_file"]: model(torch.from_numpy(load_audio(row["audio"]))[None]).logits.softmax(-1)[0, 1].item()
        for row in read_dataset(recordings)
    }
    assert scores(build(recordings, classifier, label="tidy")) == pytest.approx(expected, abs=1e-5)


def test_a_label_that_the_classifier_lacks_is_an_error_with_those_it_has(recordings, classifier):
    with pytest.raises(DatasetError, match=r"has the labels \['noise', 'tidy'\], not 'clean'"):
        build(recordings, classifier)


def test_a_threshold_that_no_recording_reaches_is_an_error_with_the_best_score(recordings):
    with pytest.raises(DatasetError, match=r"no recording has a `clean_score` of 50 or more, 40(\.0\d*)? at most"):
        build(recordings, threshold=50)


def test_code_of_a_checkpoint_never_runs(classifier):
    code = next(Path(classifier).glob("modeling_*.py"))
    code.write_text("raise SystemExit('this ran')")
    model, _ = load_classifier(classifier)
    assert type(model) is Cnn14ForAudioClassification

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training of an audio enhancer and of a classifier of sounds: clean, in noise, and behind an enhancer."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)
from typer.testing import CliRunner

from modeling_sparse_merit import AudioEnhancerModel, Cnn14ForAudioClassification, write_audio
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.data.high_pass import high_pass
from modeling_sparse_merit.training import classifier, enhancer
from modeling_sparse_merit.training.arguments import documented_fields
from modeling_sparse_merit.training.cascade import build_enhancement
from modeling_sparse_merit.training.classifier import ClassifierSettings, ClassifierTrainer
from modeling_sparse_merit.training.enhancer import EnhancerSettings
from modeling_sparse_merit.training.sounds import load_mixtures

PATIENTS = {"101": "train", "102": "train", "103": "dev"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Datasets of sounds with two classes in the layout of ICBHI, rumble and tones, and of hiss as noise."""
    root = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    (root / "corpus").mkdir()
    (root / "hiss").mkdir()
    time = np.arange(16_000) / 16_000
    for patient in PATIENTS:
        rumble = np.convolve(generator.standard_normal(16_000), np.hanning(40) / 40, "same")
        wheeze = 0.1 * np.sin(2 * np.pi * 500 * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))
        for has_wheezes, sound in enumerate((rumble, wheeze)):
            name = f"{patient}_1b{has_wheezes}_Al_sc_Meditron"
            write_audio(root / "corpus" / f"{name}.wav", sound.astype(np.float32), 16_000)
            (root / "corpus" / f"{name}.txt").write_text(f"0 0.5 0 {has_wheezes}\n0.5 1 0 {has_wheezes}\n")
    lines = ["file_name,split"]
    for split in ("train", "dev"):
        hiss = 0.1 * generator.standard_normal(16_000).clip(-3, 3)
        write_audio(root / "hiss" / f"{split}.wav", hiss.astype(np.float32), 16_000)
        lines.append(f"{split}.wav,{split}")
    (root / "hiss" / "metadata.csv").write_text("\n".join(lines))
    icbhi, held_out = corpus("icbhi"), {"dev": ("103",), "test": ()}
    prepare.write_dataset(icbhi.build(root / "corpus", **held_out), root / "cycles", embed=True)
    prepare.write_dataset(icbhi.build(root / "corpus", recordings=True, **held_out), root / "recordings")
    prepare.write_dataset(corpus("noise").build(root / "hiss"), root / "noise")
    return root


def train(training, folder: Path, output_dir: Path, **changes) -> list[dict]:
    """A short run; returns its log."""
    settings = {
        "output_dir": str(output_dir),
        "noise": [str(folder / "noise")],
        "per_device_train_batch_size": 4,
        "epochs": 2,
        "learning_rate": 0.01,
        "warmup_ratio": 0.0,
        "lr_scheduler_type": "constant",
    }
    if training is enhancer:
        settings |= {"data": [str(folder / "recordings")], "config": {"channels": 8, "depth": 1}, "max_seconds": 0.5}
    else:
        settings |= {"data": [str(folder / "cycles")], "labels": ["normal", "wheeze"]}
        settings["config"] = {
            "channels": [4, 8],
            "hidden_size": 8,
            "seconds": 0.5,
            "mixup_alpha": 0.0,
            "time_masks": 0,
            "conv_dropout": 0.0,
            "head_dropout": 0.0,
        }
        settings |= {"snr_db": [25, 30], "eval_snr_db": [25, 30]}
    path = output_dir.with_suffix(".json")
    path.write_text(json.dumps(settings | changes))
    training.main([str(path)])
    return [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained_enhancer(folder, tmp_path_factory) -> Path:
    """The folder of a run of an enhancer."""
    output_dir = tmp_path_factory.mktemp("enhancer") / "run"
    train(enhancer, folder, output_dir, epochs=6, mixtures=4, config={"channels": 16, "depth": 1, "snr_weight": 0.1})
    return output_dir


@pytest.mark.parametrize("settings", [EnhancerSettings, ClassifierSettings])
def test_every_setting_is_documented(settings):
    assert set(documented_fields(settings)) == {field.name for field in fields(settings)}


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (EnhancerSettings, {"noise": ["x"]}, "`data` is .*; expected at least one dataset"),
        (EnhancerSettings, {"data": ["x"]}, "`noise` is .*; expected at least one noise dataset"),
        (EnhancerSettings, {"data": ["x"], "noise": ["x"], "config": {"widht": 1}}, "AudioEnhancerConfig lacks"),
        (EnhancerSettings, {"data": ["x"], "noise": ["x"], "high_pass": [0, 60]}, "expected two numbers above 0"),
        (ClassifierSettings, {"data": ["x"], "cleaned_by": "y"}, "because there is no `noise` to remove"),
        (ClassifierSettings, {"data": ["x"], "config": {"widht": 1}}, "Cnn14Config lacks"),
        (
            ClassifierSettings,
            {"data": ["x"], "sampling": "oversampled", "class_weights": "inverse_frequency"},
            "none, since `sampling` balances the classes already",
        ),
    ],
)
def test_settings_that_cannot_be_say_so(settings, given, message):
    with pytest.raises(ValueError, match=message):
        settings(**given)


def test_an_enhancer_learns_and_its_best_checkpoint_can_be_loaded(folder, trained_enhancer):
    best = trained_enhancer / "best"
    results = json.loads((best / "dev_results.json").read_text())
    assert results["dev"]["si_sdr_gain"] > 3 and results["dev"]["score"] == results["dev"]["si_sdr_gain"]
    model, feature_extractor = AudioEnhancerModel.from_pretrained(best), AutoFeatureExtractor.from_pretrained(best)
    inputs = feature_extractor([np.ones(100), np.ones(50)], sampling_rate=16_000, padding=True, return_tensors="pt")
    assert inputs["attention_mask"].sum(-1).tolist() == [100, 50]
    assert model.eval()(**inputs).enhanced_values.shape == (2, 100)
    recorded = yaml.safe_load((best / "training.yaml").read_text())
    assert (recorded["data"], recorded["noise"], recorded["mixtures"]) == (["recordings"], ["noise"], 4)
    data = yaml.safe_load((best / "training_data.yaml").read_text())
    assert [entry["name"] for entry in data["corpora"]] == ["recordings", "noise"]
    assert data["corpora"][0]["license"].startswith("research use") and str(folder) not in str(recorded)


def test_mixtures_differ_between_epochs_and_the_dev_set_stays(folder):
    settings = EnhancerSettings(data=[str(folder / "recordings")], noise=[str(folder / "noise")])
    for split, is_fixed in (("train", False), ("dev", True)):
        clips = load_mixtures(settings, split, max_seconds=0.5)
        first = clips[0]["noisy"]
        assert np.array_equal(first, clips[0]["noisy"])
        clips.set_epoch(1)
        assert np.array_equal(first, clips[0]["noisy"]) == is_fixed


def test_rumble_is_filtered_out_before_mixing_below_a_frequency_that_is_drawn_again(folder):
    time = np.arange(16_000) / 16_000
    rumble, tone = np.sin(2 * np.pi * 10 * time), 0.1 * np.sin(2 * np.pi * 500 * time)
    np.testing.assert_allclose(high_pass(rumble + tone, 60, 16_000)[4000:-4000], tone[4000:-4000], atol=0.01)
    assert high_pass(tone[:3], 60, 16_000).shape == (3,)
    datasets = {"data": [str(folder / "recordings")], "noise": [str(folder / "noise")]}
    clips = load_mixtures(EnhancerSettings(**datasets, high_pass=[20, 900]), "train", max_seconds=0.5)
    level = [float(np.std(clips[index]["clean"])) for index in (1, 1, 5)]  # a tone twice, and the same in a new draw
    assert level[0] == level[1] != level[2]


def test_training_uses_the_mixtures_of_each_epoch(folder, tmp_path, monkeypatch):
    seen = []
    compute = enhancer.EnhancerTrainer.compute_loss
    monkeypatch.setattr(
        enhancer.EnhancerTrainer,
        "compute_loss",
        lambda self, model, inputs, **named: (
            seen.append(inputs["input_values"].clone()) or compute(self, model, inputs, **named)
        ),
    )
    train(enhancer, folder, tmp_path / "run", per_device_train_batch_size=1)
    assert len(seen) == 8 and len({values.numpy().tobytes() for values in seen}) == 8


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_result(folder, tmp_path, monkeypatch):
    train(enhancer, folder, tmp_path / "whole", epochs=3)
    evaluate = enhancer.EnhancerTrainer.evaluate

    def stop_after_two(self, *arguments, **named):
        metrics = evaluate(self, *arguments, **named)
        if self.state.epoch == 3:
            raise KeyboardInterrupt
        return metrics

    monkeypatch.setattr(enhancer.EnhancerTrainer, "evaluate", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(enhancer, folder, tmp_path / "run", epochs=3)
    monkeypatch.setattr(enhancer.EnhancerTrainer, "evaluate", evaluate)
    with pytest.raises(FileExistsError, match="belongs to an earlier run"):
        train(enhancer, folder, tmp_path / "run", epochs=3, resume=False)
    train(enhancer, folder, tmp_path / "run", epochs=3)
    whole, resumed = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "run"))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)


@pytest.mark.parametrize("arm", ["clean", "injected", "enhanced"])
def test_a_classifier_learns_in_each_arm(arm, folder, trained_enhancer, tmp_path):
    changes = {
        "clean": {"noise": []},
        "injected": {},
        "enhanced": {"cleaned_by": str(trained_enhancer / "best")},
    }[arm]
    changes |= {"epochs": 8, "per_device_train_batch_size": 2, "sampling": "oversampled", "choose_by": "icbhi_score"}
    train(classifier, folder, tmp_path / "run", **changes)
    best = tmp_path / "run" / "best"
    results = json.loads((best / "dev_results.json").read_text())["dev"]
    assert results["score"] == results["icbhi_score"] >= 0.75
    assert results["icbhi_score"] == pytest.approx((results["sensitivity"] + results["specificity"]) / 2)
    model = Cnn14ForAudioClassification.from_pretrained(best)
    assert model.config.id2label == {0: "normal", 1: "wheeze"}


def test_an_undefined_score_selects_no_checkpoint_and_is_no_error():
    trainer = object.__new__(ClassifierTrainer)
    trainer.labels, trainer.choose_by = ["normal", "wheeze"], "icbhi_score"
    scores = trainer.summarize([{"loss": 1.0, "label": 0, "predicted": 0}])
    assert scores["score"] == 0.0 and np.isnan(scores["icbhi_score"]) and scores["specificity"] == 1.0


def test_an_enhancer_in_a_cascade_keeps_lengths_and_does_not_depend_on_the_batch(trained_enhancer):
    enhance = build_enhancement(str(trained_enhancer / "best"), torch.device("cpu"))
    generator = np.random.default_rng(0)
    clips = [generator.standard_normal(length).astype(np.float32) for length in (700, 1600)]
    together = enhance(clips)
    for clip, enhanced in zip(clips, together, strict=True):
        assert enhanced.shape == clip.shape
        np.testing.assert_allclose(enhance([clip])[0], enhanced, atol=1e-5)
    assert len(enhance.fingerprint) > 64


def test_any_audio_classifier_of_transformers_takes_the_place_of_cnn14(folder, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "model")
    train(classifier, folder, tmp_path / "run", model=str(tmp_path / "model"), config={}, epochs=1)
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert config["model_type"] == "wav2vec2" and config["id2label"] == {"0": "normal", "1": "wheeze"}


def test_a_class_without_training_clips_is_allowed_unless_classes_are_weighted(folder, tmp_path):
    train(classifier, folder, tmp_path / "run", labels=["normal", "wheeze", "both"], epochs=1)
    with pytest.raises(DatasetError, match=r"No training clip has the label \['both'\]"):
        weights = {"labels": ["normal", "wheeze", "both"], "class_weights": "inverse_frequency"}
        train(classifier, folder, tmp_path / "weighted", **weights)


def test_missing_columns_and_labels_are_named(folder, tmp_path):
    with pytest.raises(DatasetError, match="no column 'sound'"):
        train(classifier, folder, tmp_path / "run", label_column="sound")
    with pytest.raises(DatasetError, match="no clip of the split 'train' has one of the labels"):
        train(classifier, folder, tmp_path / "run", labels=["stridor", "rub"])


def test_the_command_trains_both(folder, tmp_path):
    for name, data in {"enhancer": "recordings", "classifier": "cycles"}.items():
        settings = {"output_dir": str(tmp_path / name), "data": [str(folder / data)], "noise": [str(folder / "noise")]}
        settings["config"] = {"channels": 4} if name == "enhancer" else {"channels": [4, 4], "hidden_size": 4}
        settings |= {} if name == "enhancer" else {"labels": ["normal", "wheeze"]}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(settings))
        done = CliRunner().invoke(app, ["train", name, str(tmp_path / f"{name}.yaml"), "--epochs", "1"])
        assert done.exit_code == 0, done.output
        assert (tmp_path / name / "best" / "model.safetensors").exists()


def test_prepared_cycles_are_stored_in_the_dataset(folder):
    assert read_dataset(folder / "cycles")[0]["audio"]["bytes"]

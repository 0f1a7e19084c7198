# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Tasks in files of their own: training on frozen experts, export, loading, and what stays as it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, make_speech
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.inference.distress import distress_curve, task_with_labels
from modeling_sparse_merit.inference.results import settings_of
from modeling_sparse_merit.models.sparse_merit.clip_tasks import clip_task
from modeling_sparse_merit.models.sparse_merit.task_files import FORMAT, add_task, save_task
from modeling_sparse_merit.training import build

LABELS = ["angry", "fear", "sad"]
DEFINITION = {"kind": "classification", "labels": LABELS, "hidden_size": 16, "pooling_heads": 1}


@pytest.fixture(scope="module")
def task_file(tmp_path_factory) -> Path:
    """A file of the task `three`, with random weights, for the checkpoint `tiny`."""
    torch.manual_seed(0)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        TINY, tasks=["three"], clip_tasks={"three": DEFINITION}
    )
    path = tmp_path_factory.mktemp("task") / "three.safetensors"
    save_task(model, "three", path)
    return path


def test_the_file_is_small_and_says_what_it_holds(task_file):
    assert task_file.stat().st_size < 1_000_000
    weights = load_file(task_file)
    assert {values.dtype for values in weights.values()} == {torch.float16}
    assert weights["head.classifier.weight"].shape == (3, 16)
    assert weights["head.pooling.score.weight"].shape[0] == 1


def test_other_results_stay_bit_by_bit(task_file):
    recording = make_speech(3.0)
    before = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")
    after = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu", further_tasks=[task_file])
    expected, results = (pipe(recording, sampling_rate=16_000, return_segments=True) for pipe in (before, after))
    assert results["emotion"] == expected["emotion"] and (results["audio"] == expected["audio"]).all()
    assert {entry["label"] for entry in results["three"]} == set(LABELS)
    assert sum(entry["score"] for entry in results["three"]) == pytest.approx(1)
    (segment,) = results["segments"]
    assert segment["task_outputs"]["three"] == results["three"]  # the recording has one segment
    assert settings_of(before).hash != settings_of(after).hash


def test_a_model_with_the_task_is_saved_as_a_whole(task_file, tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    assert add_task(model, task_file) == "three"
    model.save_pretrained(tmp_path)
    loaded = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path)
    inputs = torch.from_numpy(make_speech(1.0))[None]
    with torch.inference_mode():
        assert torch.equal(loaded(inputs).task_outputs["three"], model.eval()(inputs).task_outputs["three"])


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_low_precision_takes_the_task_too(task_file, dtype):
    options = {"device": "cpu", "further_tasks": [task_file]}
    exact = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, **options)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, dtype=dtype, **options)
    scores, expected = (
        {entry["label"]: entry["score"] for entry in each(make_speech(2.0), sampling_rate=16_000)["three"]}
        for each in (pipe, exact)
    )
    assert scores == pytest.approx(expected, abs=0.05)


def test_a_file_for_other_experts_is_refused(task_file, tiny_config):
    other = SparseMeritForSpeechEnhancementAndEmotion(tiny_config)
    with pytest.raises(ValueError, match="was trained on other experts than those of"):
        add_task(other, task_file)
    without = SparseMeritForSpeechEnhancementAndEmotion(
        SparseMeritConfig(**{**tiny_config.to_dict(), "integration": "weighted_sum"})
    )
    with pytest.raises(ValueError, match="needs experts"):
        add_task(without, task_file)


def test_a_task_is_added_once(task_file):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    add_task(model, task_file)
    with pytest.raises(ValueError, match="'three', which the model has already"):
        add_task(model, task_file)


def test_other_and_damaged_files_are_named(task_file, tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    with pytest.raises(FileNotFoundError, match=r"nothing.safetensors does not exist"):
        add_task(model, tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="is no file of `sparse-merit export --task`"):
        add_task(model, TINY / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match="is no file of `sparse-merit export --task`"):
        add_task(model, tmp_path / "text.safetensors")
    weights = load_file(task_file)
    content = json.dumps({"name": "three", "definition": DEFINITION, "experts": ""})
    weights["head.dense.weight"][0] = torch.nan
    save_file(weights, tmp_path / "nan.safetensors", {FORMAT: content})
    with pytest.raises(ValueError, match=r"nan.safetensors is damaged"):
        add_task(model, tmp_path / "nan.safetensors")
    assert model.config.tasks == ["enhancement", "emotion"] and set(model.heads) == {"enhancement", "emotion"}


def test_tasks_in_the_folder_of_a_checkpoint_have_names(task_file, tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    (tmp_path / "tiny" / "tasks").mkdir()
    shutil.copy(task_file, tmp_path / "tiny" / "tasks")
    options = {"device": "cpu", "further_tasks": ["three"]}
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "tiny", **options)
    assert pipe.model.config.tasks[-1] == "three"
    for name in ("four", "../three", "tasks/three"):
        with pytest.raises(FileNotFoundError, match="has no task"):
            SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "tiny", further_tasks=[name])


def test_frozen_experts_train_head_and_router_alone():
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        TINY, tasks=["emotion", "three"], clip_tasks={"three": DEFINITION}
    )
    build.set_trainable(model, build.Stage(0, 1, encoder_frozen=True), False, only_tasks=["three"])
    trainable = {name for name, values in model.named_parameters() if values.requires_grad}
    assert trainable and all("heads.three." in name or "routers.three." in name for name in trainable)


def test_sizes_of_a_head_are_checked():
    for sizes in ({"hidden_size": 0}, {"pooling_heads": 1.5}):
        with pytest.raises(ValueError, match="whole numbers of at least 1"):
            clip_task("three", {**DEFINITION, **sizes})


# Commands ------------------------------------------------------------------------------------------------------------


def test_the_command_recognises_further_emotions_and_distress(task_file, tmp_path):
    recording = tmp_path / "call.wav"
    soundfile.write(recording, np.concatenate([make_speech(3.0, seed=seed) for seed in range(3)]), 16_000)
    output = tmp_path / "results"
    options = ["--model", str(TINY), "--emotions", str(task_file), "--distress", "angry,fear", "--vad", "level"]
    command = ["enhance", str(recording), "-o", str(output), *options, "--segments", "csv", "--plot"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    record = json.loads((output / "results.jsonl").read_text())
    assert {entry["label"] for entry in record["task_outputs"]["three"]} == set(LABELS)
    segments = record["segments"]
    assert [segment["distress"] for segment in segments] == distress_curve(segments, "three", ["angry", "fear"])
    header, *rows = (output / "call.segments.csv").read_text().splitlines()
    assert header.endswith(",distress") and len(rows) == len(segments)
    assert (output / "call.enhanced.png").stat().st_size > 10_000


def test_an_export_takes_the_tasks_along_and_info_names_them(task_file, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(TINY, source)
    (source / "tasks").mkdir()
    shutil.copy(task_file, source / "tasks")
    for half in ([], ["--half"]):
        result = CliRunner().invoke(app, ["export", str(target), "-m", str(source), "--overwrite", *half])
        assert result.exit_code == 0, result.output
        pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(target, device="cpu", further_tasks=["three"])
        assert pipe.model.config.tasks[-1] == "three"
    described = CliRunner().invoke(app, ["info", "--model", str(source)]).output
    assert "three: angry, fear, sad (--emotions three)" in described


@pytest.mark.parametrize(
    "options, message",
    [
        (["--distress", "fear"], "emotion has angry, sad, happy, neutral"),
        (["--emotions", "seven"], "has no task 'seven'"),
        (["--emotions", "nothing.safetensors"], "nothing.safetensors does not exist"),
    ],
)
def test_unknown_emotions_are_named(options, message, tmp_path):
    recording = TINY.parents[1] / "demo" / "noisy_speech.flac"
    result = CliRunner().invoke(app, ["enhance", str(recording), "-o", str(tmp_path), "-m", str(TINY), *options])
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_a_task_is_exported(tmp_path, task_file):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    add_task(model, task_file)
    whole, file = tmp_path / "whole", tmp_path / "again.safetensors"
    model.save_pretrained(whole)
    SparseMeritFeatureExtractor.from_pretrained(TINY).save_pretrained(whole)
    result = CliRunner().invoke(app, ["export", str(file), "--model", str(whole), "--task", "three"])
    assert result.exit_code == 0, result.output
    assert load_file(file).keys() == load_file(task_file).keys()
    for arguments in (["--task", "two"], ["--task", "three", "--onnx"]):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "c.safetensors"), "-m", str(whole), *arguments])
        assert result.exit_code == 2
    assert not (tmp_path / "c.safetensors").exists()


# Distress ------------------------------------------------------------------------------------------------------------


def test_distress_by_hand():
    segments = [
        {"start": 0.0, "end": 2.0, "scores": {"angry": 0.1, "sad": 0.1, "happy": 0.8}},
        {"start": 5.0, "end": 15.0, "scores": {"angry": 0.6, "sad": 0.2, "happy": 0.2}},
    ]
    first, second = distress_curve(segments, "emotion", ["angry", "sad"])
    assert first == pytest.approx(0.2)
    assert second == pytest.approx(0.2 + (1 - np.exp(-1)) * 0.6, abs=1e-6)
    assert distress_curve([], "emotion", ["angry"]) == []


def test_labels_of_distress_belong_to_one_task():
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    assert task_with_labels(model.tasks, model.config, ["angry", "sad"]) == "emotion"
    with pytest.raises(ValueError, match="--distress is angry,calm; expected labels of one task of the model"):
        task_with_labels(model.tasks, model.config, ["angry", "calm"])

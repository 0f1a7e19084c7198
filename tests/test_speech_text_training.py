# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training of speech and text: each stage, its result, resuming, cached embeddings, adapters."""

import json
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_SIZES
from safetensors.torch import load_file
from test_modeling_speech_text import TEXT_CONFIGS, make_tokenizer
from transformers import AutoModel
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechTextForEmotion,
    SpeechTextProcessor,
    write_audio,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import DatasetError
from modeling_sparse_merit.hub.model_card import render_card
from modeling_sparse_merit.training import speech_text
from modeling_sparse_merit.training.arguments import documented_fields
from modeling_sparse_merit.training.records import speech_text_data
from modeling_sparse_merit.training.speech_text import SpeechTextSettings
from modeling_sparse_merit.training.targets import configured_tasks

TEXTS = {"angry": "i am so sad", "happy": "i am so glad", "neutral": "hello"}
ATTRIBUTES = {"kind": "regression", "outputs": ["valence", "arousal"], "minimum": 1, "maximum": 5}
TASKS = {"tasks": ["emotion", "attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, speech_clip) -> Path:
    """A dataset of 24 clips whose text gives the emotion away, a text encoder and a speech checkpoint."""
    root = tmp_path_factory.mktemp("speech_text")
    (root / "clips").mkdir()
    header = "file_name,emotion,text,split,valence,arousal"
    rows = []
    for index in range(24):
        emotion = list(TEXTS)[index % 3]
        write_audio(root / "clips" / f"{index}.wav", speech_clip(0.4, seed=index), 16_000)
        ratings = f"{1 + index % 3},{'' if index == 4 else 2 + index % 2}"
        rows.append(f"{index}.wav,{emotion},{TEXTS[emotion]},{'dev' if index > 17 else 'train'},{ratings}")
    (root / "clips" / "metadata.csv").write_text("\n".join([header, *rows]))
    prepare.write_dataset(corpus_named("folder").build(root / "clips"), root / "data")
    torch.manual_seed(0)
    AutoModel.from_config(TEXT_CONFIGS["bert"]).save_pretrained(root / "text")
    make_tokenizer().save_pretrained(root / "text")
    config = SparseMeritConfig(
        **TINY_SIZES, tasks=["emotion"], id2label=dict(enumerate(TEXTS)), integration="last_layer"
    )
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(root / "speech")
    SparseMeritFeatureExtractor().save_pretrained(root / "speech")
    return root


def train(folder: Path, output_dir: Path, **changes) -> list[dict]:
    """A run of two epochs; returns its log."""
    settings = {
        "output_dir": str(output_dir),
        "stage": "fusion",
        "speech_model": str(folder / "speech"),
        "text_model": str(folder / "text"),
        "labels": list(TEXTS),
        "data": [str(folder / "data")],
        "config": {**TASKS, "head_hidden_size": 16, "head_dropout": 0.0},
        "per_device_train_batch_size": 6,
        "epochs": 2,
        "learning_rate": 0.01,
        **changes,
    }
    path = output_dir.with_suffix(".json")
    path.write_text(json.dumps(settings))
    speech_text.main([str(path)])
    return [json.loads(line) for line in (output_dir / "log.jsonl").read_text().splitlines()]


def test_every_setting_is_documented():
    assert list(documented_fields(SpeechTextSettings)) == [field.name for field in fields(SpeechTextSettings)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stage": "text"}, "`text_model` is None; expected a model, which the stage text needs"),
        ({"stage": "text", "text_model": "x", "speech_model": "y"}, "`speech_model` is 'y'; expected null"),
        ({"stage": "fusion", "lora_rank": 4, "text_model": "x", "speech_model": "y"}, "fusion trains no encoder"),
        (
            {"text_model": "x", "speech_model": "y", "train_sampling_strategy": "group_by_length"},
            "'group_by_length'; expected random, except for texts",
        ),
        (
            {"stage": "text", "text_model": "x", "sampling": "oversampled", "class_weights": "inverse_frequency"},
            "none",
        ),
    ],
)
def test_settings_that_cannot_be_say_so(given, message):
    with pytest.raises(ValueError, match=message):
        SpeechTextSettings(**{"data": ["x"], **given})


def test_text_is_learned_and_the_result_can_be_loaded(folder, tmp_path):
    log = train(folder, tmp_path / "run", stage="text", speech_model=None, epochs=8)
    assert log[-1].keys() > {"epoch", "step"} and any("dev/attributes/ccc_valence" in line for line in log)
    best = tmp_path / "run" / "best"
    model, processor = SpeechTextForEmotion.from_pretrained(best), SpeechTextProcessor.from_pretrained(best)
    inputs = processor(text=list(TEXTS.values()), return_tensors="pt")
    predicted = model.eval()(**inputs).logits.argmax(-1).tolist()
    assert [model.config.id2label[index] for index in predicted] == list(TEXTS)
    results = json.loads((best / "dev_results.json").read_text())
    assert results["dev"]["macro_f1"] == 1.0
    metrics = [results["dev"]["macro_f1"], results["dev"]["attributes/ccc"]]
    assert results["dev"]["score"] == pytest.approx(np.mean(metrics), abs=1e-6)


def test_fusion_keeps_the_encoders_and_reads_embeddings_from_the_cache(folder, tmp_path, monkeypatch):
    cache = {"embedding_cache": str(tmp_path / "cache")}
    first = train(folder, tmp_path / "first", **cache)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 24 + 3  # recordings, and different texts
    weights = load_file(tmp_path / "first" / "best" / "model.safetensors")
    for name, weight in load_file(folder / "text" / "model.safetensors").items():
        if not name.startswith("pooler"):
            assert torch.equal(weights[f"text.{name}"], weight), name

    def refuse(*arguments):
        raise AssertionError("an encoder was run")

    monkeypatch.setattr(SpeechTextForEmotion, "embed_speech", refuse)
    monkeypatch.setattr(SpeechTextForEmotion, "embed_text", refuse)
    check_records(tmp_path / "first" / "best")
    again = train(folder, tmp_path / "again", **cache)
    scores = [[line["dev/score"] for line in log if "dev/score" in line] for log in (first, again)]
    assert scores[0] == scores[1]


def check_records(best: Path) -> None:
    """Settings and data are recorded without paths of this machine; one of 24 clips has no rating of its arousal."""
    settings = yaml.safe_load((best / "training.yaml").read_text())
    parts = {name: settings[name] for name in ("stage", "speech_model", "text_model", "data")}
    assert Path(settings["speech_model"]).name == "speech" and not {"output_dir", "embedding_cache"} & set(settings)
    assert parts == {"stage": "fusion", "speech_model": "speech", "text_model": "text", "data": ["data"]}
    data = yaml.safe_load((best / "training_data.yaml").read_text())
    encoders = {name: {"name": name, "license": "not stated"} for name in ("speech", "text")}
    (corpus,) = data["corpora"]
    assert data["encoders"] == encoders and corpus["clips"] == 24 and corpus["use"] == "speech and text"
    assert corpus["rated_clips"] == {"attributes": {"valence": 24, "arousal": 23}}
    assert "| arousal | 1 to 5 | not measured | data (23 clips) |" in render_card(best)


def test_encoders_keep_their_names_and_licences_in_later_stages(folder, tmp_path):
    stage = shutil.copytree(folder / "text", tmp_path / "best")
    text = {"name": "someone/encoder", "license": "mit", "source": "https://huggingface.co/someone/encoder"}
    (stage / "training_data.yaml").write_text(yaml.safe_dump({"encoders": {"text": text}}))
    settings = {"text_model": str(stage), "speech_model": "tiny", "data": [str(folder / "data")]}
    encoders = speech_text_data(SpeechTextSettings(**settings), {})["encoders"]
    assert encoders["text"] == text
    assert encoders["speech"] == {"name": "sparse-merit-tiny", "license": "cc-by-nc-sa-4.0"}


def test_a_stopped_run_resumes_to_the_same_result(folder, tmp_path, monkeypatch):
    options = {"stage": "text", "speech_model": None, "epochs": 3, "sampling": "oversampled"}
    train(folder, tmp_path / "whole", **options)
    stopped = speech_text.SpeechTextTrainer.evaluate

    def stop_after_two(self, *arguments, **named):
        metrics = stopped(self, *arguments, **named)
        if self.state.epoch == 3:
            raise KeyboardInterrupt
        return metrics

    monkeypatch.setattr(speech_text.SpeechTextTrainer, "evaluate", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "run", **options)
    monkeypatch.setattr(speech_text.SpeechTextTrainer, "evaluate", stopped)
    with pytest.raises(FileExistsError, match="checkpoint-6 belongs to an earlier run"):
        train(folder, tmp_path / "run", **options, resume=False)
    for step, state in (("7", None), ("9", '{"epoch": 2.')):  # stopped before and while the state was written
        (incomplete := tmp_path / "run" / f"checkpoint-{step}").mkdir()
        if state is not None:
            (incomplete / "trainer_state.json").write_text(state)
    train(folder, tmp_path / "run", **options)
    whole, resumed = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "run"))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)


def test_a_sigterm_in_the_middle_of_an_epoch_saves_and_the_run_resumes_to_the_same_result(
    folder, tmp_path, monkeypatch
):
    options = {"stage": "text", "speech_model": None, "epochs": 2, "per_device_train_batch_size": 2, "save_steps": 2}
    train(folder, tmp_path / "whole", **options)
    steps = []

    def terminated_at_the_third_step(self, *arguments, **named):
        steps.append(self.state.global_step)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments, **named)

    step = speech_text.SpeechTextTrainer.training_step
    monkeypatch.setattr(speech_text.SpeechTextTrainer, "training_step", terminated_at_the_third_step)
    with pytest.raises(SystemExit) as raised:
        train(folder, tmp_path / "run", **options)
    assert raised.value.code == 143
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert not (tmp_path / "run" / "best").exists()
    monkeypatch.setattr(speech_text.SpeechTextTrainer, "training_step", step)
    with pytest.raises(ValueError, match="learning_rate was 0.01, is 0.5"):
        train(folder, tmp_path / "run", **options, learning_rate=0.5)
    train(folder, tmp_path / "run", **options)
    whole, resumed = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_checkpoint(folder, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss of step \d+ is (nan|inf). The newest checkpoint is none"):
        train(folder, tmp_path / "run", learning_rate=1e30, max_grad_norm=1e30)


def test_adapters_are_merged_into_the_result(folder, tmp_path):
    train(folder, tmp_path / "run", stage="joint", lora_rank=2)
    weights = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert not [name for name in weights if "lora" in name or "base_layer" in name]
    before = load_file(folder / "text" / "model.safetensors")
    changed = [name for name, weight in before.items() if not torch.equal(weights.get(f"text.{name}", weight), weight)]
    assert changed and all(name.endswith("weight") for name in changed)
    SpeechTextForEmotion.from_pretrained(tmp_path / "run" / "best")


def test_speech_alone_is_trained_with_its_encoder(folder, tmp_path):
    train(folder, tmp_path / "run", stage="speech", text_model=None, max_seconds=0.3)
    model = SpeechTextForEmotion.from_pretrained(tmp_path / "run" / "best")
    assert model.config.text_config is None and not model.config.freeze_speech


def test_texts_of_similar_length_are_in_one_batch(folder):
    settings = SpeechTextSettings(
        stage="text",
        text_model=str(folder / "text"),
        data=[str(folder / "data")],
        labels=list(TEXTS),
        config={"tasks": ["emotion"]},
        train_sampling_strategy="group_by_length",
    )
    model, _ = speech_text.build(settings)
    clips = speech_text.load_clips(settings, "train", configured_tasks(settings, model.tasks), model)
    sampler = speech_text.build_sampler(clips, settings)
    assert sampler.order == "group_by_length" and sampler.lengths == [len(text) for text in TEXTS.values()] * 6


def test_clips_without_any_target_are_an_error(folder, tmp_path):
    with pytest.raises(DatasetError, match="no clip of the split 'train' has a target"):
        train(folder, tmp_path / "run", labels=["calm", "tense"], config={"tasks": ["emotion"]})


def test_the_command_trains_speech_and_text(folder, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "stage": "text", "text_model": str(folder / "text"), "epochs": 1}
    settings |= {"data": [str(folder / "data")], "labels": list(TEXTS), "config": {"tasks": ["emotion"]}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    done = CliRunner().invoke(app, ["train", "speech_text", str(tmp_path / "run.yaml"), "--learning_rate", "0.01"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    refused = CliRunner().invoke(app, ["train", "speech_text", str(tmp_path / "run.yaml"), "--stage", "video"])
    assert refused.exit_code == 2 and "'text', 'speech', 'fusion', 'joint'" in refused.stderr

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training: it learns, it repeats, a killed run goes on as if nothing had happened, and settings are checked."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import ClassLabel
from hub_server import TOKEN, HubServer
from safetensors.torch import load_file
from transformers import TrainingArguments, WhisperConfig, WhisperModel

from benchmarks import baselines
from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.convert.published import convert
from modeling_sparse_merit.data import labels, prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.evaluation.enhancers import ENHANCERS
from modeling_sparse_merit.hub.datasets import push_dataset
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.models.sparse_merit.whisper import whisper_positions
from modeling_sparse_merit.training import build, checkpoints, dataset
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.arguments import documented_fields, parse_fields
from modeling_sparse_merit.training.cascade import CleanedLoader, EnhancementModel, build_enhancement
from modeling_sparse_merit.training.conversation import ConversationSettings
from modeling_sparse_merit.training.records import training_data
from modeling_sparse_merit.training.resuming import refuse_changes
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings
from modeling_sparse_merit.training.spectral_encoder import initialize_spectral_feature_encoder
from modeling_sparse_merit.training.speech_text import SpeechTextSettings

folder_corpus, noise_corpus = corpus_named("folder"), corpus_named("noise")

ROOT = Path(__file__).parents[1]
LABELS = ["angry", "sad"]
SMALL_MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [32, 32],
    "conv_kernel": [400, 1],
    "conv_stride": [320, 1],
    "feat_extract_activation": "relu",
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "expert_hidden_size": 32,
    "emotion_hidden_size": 32,
    "enhancement_hidden_size": 32,
}


@pytest.fixture(scope="session", name="tables")
def small_tables(tmp_path_factory, speech_clip) -> dict[str, str]:
    """A private corpus of 12 clips (and one without a class) and one of noise, as tables."""
    root = tmp_path_factory.mktemp("corpora")
    rows = []
    for index in range(13):
        emotion = "fear" if index == 12 else LABELS[index % 2]
        clip = speech_clip(0.6 + 0.05 * index, seed=index) * (1.0 if emotion == "angry" else 0.2)
        write_audio(root / f"clip{index}.wav", clip, 16_000)
        rows.append((f"clip{index}.wav", emotion, f"speaker{index % 4}", "dev" if index % 4 == 3 else "train"))
    write_metadata(root / "metadata.csv", ("file_name", "emotion", "speaker", "split"), rows)
    prepare.write_dataset(folder_corpus.build(root), root / "speech")
    (root / "noises").mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        hiss = np.convolve(generator.standard_normal(16_000), np.ones(2 + index) / 10, "same")
        write_audio(root / "noises" / f"{index}.wav", (0.1 * hiss).astype(np.float32), 16_000)
    noises = [(f"{index}.wav", split) for index, split in enumerate(("train", "train", "dev"))]
    write_metadata(root / "noises" / "metadata.csv", ("file_name", "split"), noises)
    prepare.write_dataset(noise_corpus.build(root / "noises"), root / "noise")
    return {"speech": str(root / "speech"), "noise": str(root / "noise")}


def write_metadata(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def make_settings(tables: dict[str, str], **changes) -> TrainingSettings:
    return TrainingSettings(
        **{
            "speech": [tables["speech"]],
            "noise": [tables["noise"]],
            "labels": LABELS,
            "config": SMALL_MODEL,
            "per_device_train_batch_size": 4,
            "dataloader_num_workers": 0,
            "snr_db": [0.0, 10.0],
            **changes,
        }
    )


def write_config(path: Path, tables: dict[str, str], **changes) -> Path:
    settings = asdict(make_settings(tables, **changes)) | {
        "train_feature_encoder": True,
        "spectral_feature_encoder": True,
    }
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings))), encoding="utf-8")
    return path


def train_command(config: Path, output_dir: Path) -> list[str]:
    return [sys.executable, str(ROOT / "train_accelerate.py"), str(config), "--output_dir", str(output_dir)]


def run_training(config: Path, output_dir: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        train_command(config, output_dir), env=one_thread(), capture_output=True, text=True, check=False
    )


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}


def test_a_small_model_learns_its_clips_by_heart(tables):
    """Loss and gradient norm fall by 90 % in a few seconds."""
    torch.manual_seed(0)
    settings = make_settings(tables, snr_db=[40.0, 40.0], learning_rate=1e-2, warmup_ratio=0.05)
    still = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "final_dropout", "feat_proj_dropout")}
    settings.config = {**SMALL_MODEL, **still, "load_balancing_weight": 0.0}
    clips = dataset.load_clips(settings, "train")
    model = build.build_model(settings)
    initialize_spectral_feature_encoder(model.model.encoder.feature_extractor.conv_layers[0].conv)
    batch = dataset.Collator(build.build_feature_extractor(settings))([clips[i] for i in range(4)])
    optimizer = build.build_optimizer(model.train(), settings)
    schedule = build.build_schedule(optimizer, settings, steps=300)
    losses, norms = [], []
    for _ in range(300):
        outputs = model(**batch)
        outputs.loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(outputs.loss.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    print(losses[0], losses[-1], norms[:3], norms[-3:], {k: v.item() for k, v in outputs.losses.items()})
    assert losses[-1] < 0.1 * losses[0]
    assert np.mean(norms[-5:]) < 0.1 * np.mean(norms[:5])


def test_a_run_ends_with_a_model_that_works(tables, tmp_path, speech_clip):
    config = write_config(
        tmp_path / "config.yaml", tables, epochs=2, frozen_epochs=1, average_decay=0.5, dataloader_num_workers=1
    )
    result = run_training(config, tmp_path / "run")
    assert result.returncode == 0, result.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "train/total" in entry] == [1, 2, 3]
    dev = [entry for entry in log if "dev/score" in entry][-1]
    for name in ("macro_f1", "uar", "si_sdr", "si_sdr_gain", "segmental_snr", "loss_emotion", "loss_enhancement"):
        assert np.isfinite(dev[f"dev/{name}"])
    for task in ("enhancement", "emotion"):
        use = [dev[f"dev/expert_use/{task}/{expert}"] for expert in range(3)]
        assert sum(use) == pytest.approx(1, abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "run" / "best")
    prediction = pipe(speech_clip(1.0), sampling_rate=16_000)
    assert {entry["label"] for entry in prediction["emotion"]} == set(LABELS)
    assert prediction["audio"].shape == (16_000,)
    check_announcement(result.stderr, tmp_path / "run" / "best")
    assert yaml.safe_load((tmp_path / "run" / "best" / "training.yaml").read_text())["speech"] == ["speech"]
    weights = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["class_weights"]
    assert weights == pytest.approx([9 / (2 * 6), 9 / (2 * 3)])  # of 9 labelled training clips 6 are angry, 3 are sad


def check_announcement(log: str, best: Path) -> None:
    """The last line names the best epoch, its scores and its folder, and nothing names every file of a checkpoint."""
    assert "Model weights saved in" not in log
    results = json.loads((best / "dev_results.json").read_text())
    last = log.strip().splitlines()[-1]
    assert f"Best epoch: {results['epoch']} of 3 (dev: score " in last and last.endswith(f"Model: {best}")
    assert f"macro_f1 {results['dev']['macro_f1']:.3f}" in last


def test_what_is_known_of_the_training_data_is_recorded(tables):
    settings = make_settings(tables, model="tiny", config={})
    data = training_data(settings, {})
    assert data["license"] == "cc-by-nc-sa-4.0" and "Fine-tuned from sparse-merit-tiny" in data["notes"]
    speech, noise = data["corpora"]
    assert speech == {"name": "speech", "use": "speech", "license": "not stated", "clips": 13, "speakers": 4}
    assert noise == {"name": "noise", "use": "noise", "license": "not stated", "clips": 3}
    again = training_data(make_settings(tables), {})
    assert [set(corpus) for corpus in again["corpora"]] == [set(speech), set(noise)]


def test_a_run_is_not_resumed_with_other_settings(tables, tmp_path):
    settings = make_settings(tables, output_dir=str(tmp_path))
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    changed = make_settings(tables, output_dir=str(tmp_path), epochs=30, learning_rate=0.5, labels=["sad", "angry"])
    refuse_changes(changed, None)  # there is no checkpoint yet
    with pytest.raises(ValueError, match="learning_rate was None, is 0.5.*another output_dir") as raised:
        refuse_changes(changed, tmp_path / "checkpoint-1")
    assert "labels was ['angry', 'sad'], is" in str(raised.value) and "epochs" not in str(raised.value)


@pytest.mark.parametrize(("clips", "batch_size"), [(10, 4), (80, 5), (511, 31), (512, 32), (100_000, 32)])
def test_few_clips_make_small_batches(clips, batch_size):
    assert TrainingSettings().batch_size(clips) == batch_size
    assert TrainingSettings(per_device_train_batch_size=7).batch_size(clips) == 7


def test_adapters_have_a_learning_rate_of_their_own():
    assert TrainingSettings().peak_learning_rate == 5e-5
    assert TrainingSettings(model="x", lora_rank=4).peak_learning_rate == 5e-4
    assert TrainingSettings(model="x", lora_rank=4, learning_rate=0.01).peak_learning_rate == 0.01


def test_mixtures_and_order_depend_on_seed_and_epoch_alone(tables):
    settings = make_settings(tables)
    feature_extractor = build.build_feature_extractor(settings)
    loaders = []
    for workers in (0, 2):
        settings.dataloader_num_workers = workers
        clips = dataset.load_clips(settings, "train")
        clips.set_epoch(3)
        loader = dataset.build_loader(clips, feature_extractor, settings, shuffle=True)
        loader.sampler.set_epoch(3)
        loaders.append(list(loader))
    for first, second in zip(*loaders, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    clips.set_epoch(4)
    assert not np.array_equal(clips[0]["noisy"], dataset.load_clips(settings, "train")[0]["noisy"])
    dev = dataset.load_clips(settings, "dev")
    dev.set_epoch(4)
    assert np.array_equal(dev[0]["noisy"], dataset.load_clips(settings, "dev")[0]["noisy"])


def test_runs_of_several_seeds_with_one_data_seed_get_the_same_batches(tables):
    def batches(**seeds):
        settings = make_settings(tables, **seeds)
        clips = dataset.load_clips(settings, "train")
        loader = dataset.build_loader(clips, build.build_feature_extractor(settings), settings, shuffle=True)
        return [batch["input_values"] for batch in loader]

    expected = batches(seed=4)
    assert all(map(torch.equal, batches(seed=5, data_seed=4), expected))
    assert not all(map(torch.equal, batches(seed=5), expected))


# Datasets on the Hub -------------------------------------------------------------------------------------------------

WITHOUT_TORCHCODEC = (
    "import sys; sys.modules['torchcodec'] = None; from modeling_sparse_merit.training.run import main; main()"
)


STREAMED = {"streaming": True, "speech": ["someone/speech"], "noise": ["someone/noise"], "shuffle_buffer": 4}


@pytest.fixture(scope="module")
def hub(tables, tmp_path_factory):
    """A Hub with the datasets of speech and noise, which this process's client takes for the real one."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as running, pytest.MonkeyPatch.context() as patch:
        running.serve_this_process(patch, home)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
        patch.setenv("HF_TOKEN", TOKEN)
        for name, path in tables.items():
            push_dataset(path, f"someone/{name}", private=True, confirmed_licence="CC0 1.0")
        yield running


def examples_of(settings: TrainingSettings, epoch: int) -> list[dict]:
    """The inputs of one epoch of training, clip by clip."""
    loader = dataset.build_loader(dataset.load_clips(settings, "train"), None, settings, shuffle=True)
    loader.collate_fn = list
    loader.dataset.set_epoch(epoch)
    loader.sampler.set_epoch(epoch)
    return [example for batch in loader for example in batch]


@pytest.mark.slow
def test_a_run_streams_its_speech_from_the_hub(hub, tables, tmp_path):
    config = write_config(tmp_path / "config.yaml", tables, epochs=1, dataloader_num_workers=2, **STREAMED)
    theirs = one_thread() | hub.environment(tmp_path / "theirs") | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHCODEC, str(config), "--output_dir", str(tmp_path / "run")],
        env=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    weights = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["class_weights"]
    assert weights == pytest.approx([9 / (2 * 6), 9 / (2 * 3)])  # of 9 labelled training clips 6 are angry, 3 are sad
    progress = json.loads((tmp_path / "run" / "checkpoint-1" / "progress.json").read_text())
    assert progress["step"] == 3  # 10 clips in batches of 4
    downloaded = {path.name for path in (tmp_path / "theirs").rglob("*.arrow")}
    assert not any("speech" in name and "train" in name for name in downloaded), downloaded


def test_a_stream_gives_the_same_for_any_number_of_workers_and_on_resuming(hub, tables):
    settings = make_settings(tables, **STREAMED)
    alone = examples_of(settings, epoch=3)
    settings.dataloader_num_workers = 2
    helped = examples_of(settings, epoch=3)
    assert [example["index"] for example in alone] == list(range(10))
    for first, second in zip(alone, helped, strict=True):
        assert first["targets"] == second["targets"]
        assert np.array_equal(first["noisy"], second["noisy"]) and np.array_equal(first["clean"], second["clean"])
    another = examples_of(make_settings(tables, **STREAMED), epoch=4)
    lengths = [[len(example["clean"]) for example in epoch] for epoch in (alone, another)]
    assert lengths[0] != lengths[1] and sorted(lengths[0]) == sorted(lengths[1])  # the same clips in another order


def test_a_stream_has_every_clip_of_every_table_once_with_its_class(hub, tables):
    own = ClassLabel(names=["bored", "sad", "angry"])  # numbers of its own, and no dev split
    table = read_dataset(tables["speech"], "train")
    other = table.select(range(3)).remove_columns("emotion").add_column("emotion", [2, 0, 1], feature=own)
    push_dataset(other, "someone/other", confirmed_licence="CC0 1.0")
    settings = make_settings(tables, **STREAMED | {"speech": ["someone/speech", "someone/other"]})
    rows = dataset.load_clips(settings, "train").rows
    actual = [(audio["path"], targets["emotion"]) for _, audio, targets in rows]
    expected = zip(table["audio"], labels.class_indices(table, LABELS), strict=True)
    expected = [*expected, *zip(other["audio"], (0, -100, 1), strict=True)]
    assert sorted(actual) == sorted((Path(audio["path"]).name, label) for audio, label in expected)
    assert len(dataset.load_clips(settings, "dev")) == len(dataset.load_clips(make_settings(tables), "dev"))


def test_a_table_on_the_hub_is_downloaded_where_nothing_has_its_path(hub, tables):
    downloaded = dataset.load_clips(make_settings(tables, **STREAMED | {"streaming": False}), "train")
    local = dataset.load_clips(make_settings(tables), "train")
    assert downloaded.labels == local.labels
    assert all(np.array_equal(downloaded[i]["noisy"], local[i]["noisy"]) for i in range(3))


@pytest.mark.parametrize("speech", ["tables/speech", "someone/nothing", "someone/noise"])
def test_what_cannot_be_streamed_is_named(hub, tables, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables" / "speech").mkdir(parents=True)
    with pytest.raises(DatasetError, match=speech):
        dataset.load_clips(make_settings(tables, **STREAMED | {"speech": [speech]}), "train")


@pytest.mark.parametrize("noise", [0.0, 4e-5])  # digital silence, and dither at -88 dBFS
def test_a_pause_is_no_training_clip(tables, tmp_path, speech_clip, noise):
    pause = noise * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    write_audio(tmp_path / "clip.wav", np.concatenate([speech_clip(1.0), pause]), 16_000)
    write_metadata(tmp_path / "metadata.csv", ("file_name", "emotion", "split"), [("clip.wav", "angry", "train")])
    prepare.write_dataset(folder_corpus.build(tmp_path), tmp_path / "table")
    settings = make_settings(tables, speech=[str(tmp_path / "table")], max_seconds=1.0, level_db=[-20.0, -20.0])
    clips = dataset.load_clips(settings, "train")
    starts = set()
    for epoch in range(20):
        clips.set_epoch(epoch)
        example = clips[0]
        starts.add(example["start"])
        assert example["start"] < 16_000 and len(example["clean"]) == 16_000
        assert np.abs(example["clean"]).max() > 0.01
    assert len(starts) > 1 and 0 in starts  # some were drawn within the speech, others fell in the pause


def test_enhancement_alone_trains_on_speech_without_labels(tables, tmp_path, speech_clip):
    """The enhancement model of a cascade needs no emotions."""
    for index in range(4):
        write_audio(tmp_path / f"{index}.wav", speech_clip(0.6, seed=index), 16_000)
    rows = [(f"{index}.wav", "dev" if index == 3 else "train") for index in range(4)]
    write_metadata(tmp_path / "metadata.csv", ("file_name", "split"), rows)
    prepare.write_dataset(folder_corpus.build(tmp_path), tmp_path / "table")
    model = {**SMALL_MODEL, "tasks": ["enhancement"]}
    changes = {"speech": [str(tmp_path / "table")], "config": model, "epochs": 1, "output_dir": str(tmp_path / "run")}
    training_run.main([str(write_config(tmp_path / "config.yaml", tables, **changes))])
    results = json.loads((tmp_path / "run" / "best" / "dev_results.json").read_text())["dev"]
    assert "macro_f1" not in results and np.isfinite(results["si_sdr_gain"])


def test_a_task_that_is_not_taught_is_not_scored_either(tables, tmp_path):
    changes = {"tasks": ["emotion"], "epochs": 1, "output_dir": str(tmp_path / "run")}
    training_run.main([str(write_config(tmp_path / "config.yaml", tables, **changes))])
    results = json.loads((tmp_path / "run" / "best" / "dev_results.json").read_text())["dev"]
    assert "macro_f1" in results and not any("si_sdr" in name or "enhancement" in name for name in results)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["dev/score"] == pytest.approx(results["macro_f1"], abs=1e-4)


def test_each_stage_waits_for_itself_and_its_early_end_is_remembered(tables, tmp_path, monkeypatch, caplog):
    """The first validation is the best of all: with a patience of 1, each stage ends as soon as it may."""
    scores = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr(training_run, "validate", lambda *_: {"macro_f1": next(scores)})
    changes = {"frozen_epochs": 5, "epochs": 5, "patience": 1, "output_dir": str(tmp_path / "run")}
    config = str(write_config(tmp_path / "config.yaml", tables, **changes))
    training_run.main([config])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "dev/score" in entry] == [1, 2, 6]
    training_run.main([config])  # a finished run has nothing left to do
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == len(log)
    with pytest.raises(FileExistsError, match="another output_dir"):
        training_run.main([config, "--resume", "false"])


@pytest.mark.slow
def test_two_processes_share_the_clips_of_an_epoch(tables, tmp_path):
    config = write_config(tmp_path / "config.yaml", tables, epochs=2, per_device_train_batch_size=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, *train_command(config, tmp_path / "run")[1:]]
    result = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "train/total" in entry] == [3, 6]  # 10 clips, 2 a batch, 2 processes
    assert np.isfinite([entry["dev/score"] for entry in log if "dev/score" in entry]).all()
    assert len(list((tmp_path / "run" / "checkpoint-2").glob("random_states_*.pkl"))) == 2


def test_only_the_named_emotions_are_classes(tables):
    table = read_dataset(tables["speech"])
    names = table.features["emotion"].names
    indices = labels.class_indices(table, LABELS)
    for emotion, index in zip(table["emotion"], indices, strict=True):
        assert index == {"angry": 0, "sad": 1, "fear": -100}[names[emotion]]
    with pytest.raises(DatasetError, match="happy"):
        labels.class_weights(indices, [*LABELS, "happy"])


def test_long_clips_are_cropped_in_training_only(tables):
    settings = make_settings(tables, max_seconds=0.5)
    train, dev = dataset.load_clips(settings, "train"), dataset.load_clips(settings, "dev")
    assert {len(train[i]["noisy"]) for i in range(len(train))} == {8000}
    assert min(len(dev[i]["noisy"]) for i in range(len(dev))) > 8000


def test_stages_train_what_they_should(tables):
    settings = make_settings(tables, frozen_epochs=3, epochs=5, encoder_learning_rate_factor=0.5, learning_rate=1e-4)
    model = build.build_model(settings)
    frozen, joint = build.stages(settings)
    assert (frozen.first_epoch, frozen.epochs, joint.first_epoch, joint.epochs) == (0, 3, 3, 5)
    build.set_trainable(model, frozen, train_feature_encoder=False)
    assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.heads.parameters())
    build.set_trainable(model, joint, train_feature_encoder=False)
    trained = {name for name, parameter in model.model.encoder.named_parameters() if parameter.requires_grad}
    assert trained and not any(name.startswith("feature_extractor.") for name in trained)
    groups = build.build_optimizer(model, settings).param_groups
    assert {group["lr"] for group in groups} == {1e-4, 5e-5}
    build.set_trainable(model, joint, train_feature_encoder=True)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_spectral_feature_encoder_resolves_frequencies():
    convolution = torch.nn.Conv1d(1, 64, 400, stride=320, bias=False)
    initialize_spectral_feature_encoder(convolution)
    time = torch.arange(1600) / 16_000
    loudest = []
    for frequency in (200.0, 1000.0, 4000.0):
        responses = (
            convolution(torch.sin(2 * torch.pi * frequency * time)[None, None]).relu()[0].mean(-1)
        )  # (filters,)
        loudest.append(responses.view(16, 4).sum(-1).argmax().item())
    assert loudest == sorted(set(loudest)) and loudest[0] <= 2 and 9 <= loudest[2] <= 13
    with pytest.raises(ValueError, match="4 \\* bands"):
        initialize_spectral_feature_encoder(torch.nn.Conv1d(1, 30, 400))


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    assert checkpoints.newest_checkpoint(tmp_path) is None
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-11.tmp"):
        (tmp_path / name).mkdir()
    assert checkpoints.newest_checkpoint(tmp_path).name == "checkpoint-10"


def test_settings_come_from_the_file_and_the_command_line_wins(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 7\nlabels: [a, b]\nconfig: {num_experts: 5}\nlearning_rate: 0.001\n", encoding="utf-8")
    settings = parse_settings([str(path), "--epochs", "9", "--speech", "x", "y", "--resume", "false"])
    assert (settings.epochs, settings.labels, settings.config) == (9, ["a", "b"], {"num_experts": 5})
    assert (settings.learning_rate, settings.speech, settings.resume) == (0.001, ["x", "y"], False)
    assert parse_settings(["--config", "{num_experts: 4}"]).config == {"num_experts": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7\n", "`epoch` is unknown; did you mean `epochs`"),
        ("batch_size: 7\n", "config.yaml: `batch_size` is now called `per_device_train_batch_size`"),
        ("schedule: linear\n", "`lr_scheduler_type`"),
        ("keep_checkpoints: 1\n", "`save_total_limit`"),
        ("workers: 1\n", "`dataloader_num_workers`"),
        ("seed: [\n", "config.yaml is not valid YAML"),
        ("speech: tables/speech\n", "`speech` is 'tables/speech'; expected a list of names"),
        ("config: 3\n", "`config` is 3; expected a mapping"),
        ("tasks: []\n", "`tasks` is \\[\\]; expected a list of names, or null"),
        ("snr_db: [5, -5]\n", "snr_db"),
        ("per_device_train_batch_size: 0\n", "per_device_train_batch_size"),
        ("average_decay: 1.0\n", "average_decay"),
        ("model: a\nwavlm: b\n", "wavlm"),
        ("lr_scheduler_type: sideways\n", "lr_scheduler_type"),
        ("config: {num_expert: 4}\n", "`num_expert` is unknown; did you mean `num_experts`"),
        ("labels: [a, a]\n", "labels"),
        ("rir_probability: 0.5\n", "rirs"),
        ("learning_rate: -1.0\n", "learning_rate"),
        ("task_balancing: gradnorm\n", "task_balancing"),
        ("task_balancing: pcgrad\nmixed_precision: fp16\n", "fp16"),
        ("class_weights: even\n", "class_weights"),
        ("class_weight_beta: 1.0\n", "class_weight_beta"),
        ("sampling: fair\n", "sampling"),
        ("sampling: class_balanced\n", "twice"),
        ("sampling: weighted\n", "sampling_weights"),
        ("sampling: weighted\nsampling_weights: {angrry: 2}\n", "angrry"),
        ("sampling: weighted\nsampling_weights: {angry: -2}\n", "sampling_weights"),
        ("sampling: class_balanced\nclass_weights: none\nstreaming: true\n", "streamed"),
        ("speech: [a]\nunlabelled: [b]\n", "unlabelled"),
        ("speech: [a]\nunlabelled: [a]\nstreaming: true\n", "streamed"),
        ("encoder: a\nmodel: b\n", "encoder"),
        ("pitch_semitones: [2]\n", "pitch_semitones"),
        ("pitch_probability: 2\n", "pitch_probability"),
        ("transmissions: [fax]\n", "transmissions"),
        ("transmission_probability: 0.5\n", "no `transmissions`"),
        ("transmissions: [gsm]\ntransmission_probability: 2\n", "transmission_probability"),
        ("clipping_probability: -1\n", "clipping_probability"),
        ("clean_probability: 2\n", "clean_probability"),
        ("extends: config.yaml\n", "extends itself"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        parse_settings([str(path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_size", "4"], "`batch_size` is now called `per_device_train_batch_size`"),
        (["--epochz=3"], "`epochz` is unknown; did you mean `epochs`"),
        (["--epochs", "3", "other.yaml"], r"\['other.yaml'\] set no field; expected \[CONFIG.yaml\]"),
        (["--max_seconds", "0"], r"^`max_seconds` is 0.0; expected a finite number above 0\.$"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(arguments)


def test_every_field_is_explained_on_the_command_line(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Folder of the logs, the checkpoints and the result, `best`. (default: runs/sparse-merit)" in shown
    assert "Optimizer steps after which the run ends; an unfinished epoch counts as finished. 0 is no limit." in shown
    assert list(documented_fields(TrainingSettings)) == [entry.name for entry in fields(TrainingSettings)]


def test_settings_were_renamed_to_names_of_transformers():
    known = {entry.name for entry in fields(TrainingArguments)}
    assert set(TrainingSettings.RENAMED.values()) <= known
    assert not set(TrainingSettings.RENAMED) & {entry.name for entry in fields(TrainingSettings)}


def test_fine_tuning_starts_from_a_checkpoint_with_other_labels(tables, tiny_checkpoint):
    settings = make_settings(tables, model=str(tiny_checkpoint), config={})
    model = build.build_model(settings)
    original = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    assert model.config.num_labels == 2 and model.config.class_weights is None
    expected = original.model.integration.experts[0].input_dense.weight
    assert torch.equal(model.model.integration.experts[0].input_dense.weight, expected)


# One file that extends another --------------------------------------------------------------------------------------


def test_a_file_extends_another_entry_by_entry(tmp_path):
    (tmp_path / "base.yaml").write_text("epochs: 7\nseed: 1\nconfig: {num_experts: 5, router: dense}\n", "utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "middle.yaml").write_text("extends: ../base.yaml\nconfig: {router: sparse}\n", "utf-8")
    (tmp_path / "deep" / "last.yaml").write_text("extends: middle.yaml\nepochs: 9\nlabels: [a, b]\n", "utf-8")
    settings = parse_settings([str(tmp_path / "deep" / "last.yaml"), "--seed", "3"])
    assert (settings.epochs, settings.seed, settings.labels) == (9, 3, ["a", "b"])
    assert settings.config == {"num_experts": 5, "router": "sparse"}
    (tmp_path / "base.yaml").write_text("extends: deep/last.yaml\n", "utf-8")
    with pytest.raises(ValueError, match="extends itself"):
        parse_settings([str(tmp_path / "deep" / "last.yaml")])
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="base.yaml"):
        parse_settings([str(tmp_path / "deep" / "last.yaml")])


# What an epoch is made of --------------------------------------------------------------------------------------------


def test_class_weights_by_hand():
    indices = [0, 0, 0, 1, -100, 0, -100]
    assert labels.class_weights(indices, LABELS) == pytest.approx([5 / (2 * 4), 5 / (2 * 1)])
    rare, frequent = 0.5 / (1 - 0.5), 0.5 / (1 - 0.5**4)  # (1 - beta) / (1 - beta ** n) for 1 and 4 clips
    expected = [2 * frequent / (rare + frequent), 2 * rare / (rare + frequent)]
    assert labels.class_weights(indices, LABELS, "effective_number", beta=0.5) == pytest.approx(expected)
    assert labels.class_weights(indices, LABELS, "none") is None


def test_classes_come_alike_where_they_are_balanced(tables):
    """Of ten training clips six are angry, three are sad, and one has no class."""
    clips = dataset.load_clips(make_settings(tables), "train")
    assert dataset.clip_frequencies(clips, make_settings(tables)) is None
    settings = make_settings(tables, sampling="class_balanced", class_weights="none")
    expected = [{0: 9 / (2 * 6), 1: 9 / (2 * 3), -100: 1.0}[label] for label in clips.labels]
    assert dataset.clip_frequencies(clips, settings) == pytest.approx(expected)


def test_clips_come_as_their_table_and_their_label_weigh(tables, tmp_path):
    shutil.copytree(tables["speech"], tmp_path / "other")
    weights = {str(tmp_path / "other"): 3.0, "sad": 2.0, "unlabelled": 0.0}
    changes = {"speech": [tables["speech"], str(tmp_path / "other")], "sampling_weights": weights}
    settings = make_settings(tables, sampling="weighted", **changes)
    clips = dataset.load_clips(settings, "train")
    weight = {0: 1.0, 1: 2.0, -100: 0.0}
    expected = np.array([(1 + 2 * (row >= 10)) * weight[label] for row, label in enumerate(clips.labels)])
    assert dataset.clip_frequencies(clips, settings) == pytest.approx(expected * 20 / expected.sum())
    settings.tasks = ["emotion"]  # which leaves out what has no class
    assert len(dataset.load_clips(settings, "train").sources) == 18


def test_labels_of_unlabelled_datasets_are_not_used(tables, tmp_path):
    weak = str(shutil.copytree(tables["speech"], tmp_path / "weak"))
    alone = {split: dataset.load_clips(make_settings(tables), split) for split in ("train", "dev")}
    settings = make_settings(tables, speech=[tables["speech"], weak], unlabelled=[weak])
    for split, labelled in alone.items():
        clips = dataset.load_clips(settings, split)
        assert clips.labels == labelled.labels + [-100] * len(labelled)
        assert clips[len(labelled)]["targets"] == {"emotion": -100}
    settings.tasks = ["emotion"]  # for which they have nothing to teach
    assert len(dataset.load_clips(settings, "train")) == sum(label != -100 for label in alone["train"].labels)


def test_an_epoch_draws_clips_as_often_as_it_should_and_repeats_as_other_mixtures(tables):
    settings = make_settings(tables, sampling="class_balanced", class_weights="none")
    clips = dataset.load_clips(settings, "train")
    sampler = dataset.build_loader(clips, build.build_feature_extractor(settings), settings, shuffle=True).sampler
    frequencies = dataset.clip_frequencies(clips, settings)
    counts = np.zeros(len(clips))
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert drawn == list(sampler) and len(drawn) == len(set(drawn)) == len(sampler) == len(clips)
        count = np.bincount(np.array(drawn) % len(clips), minlength=len(clips))
        assert (np.floor(frequencies) <= count).all() and (count <= np.ceil(frequencies)).all()
        counts += count
    assert counts / 200 == pytest.approx(frequencies, abs=0.12)
    first, again = clips[3], clips[3 + len(clips)]
    assert first["targets"] == again["targets"] and not np.array_equal(first["noisy"], again["noisy"])
    lengths = [sampler.lengths[clip % len(clips)] for clip in drawn]
    assert lengths[:4] == sorted(lengths[:4], reverse=True)  # a batch is of like lengths


def test_pitch_is_shifted_as_far_as_it_is_asked_for(tables):
    tone = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    shift = dataset.pitch_shift(make_settings(tables, pitch_semitones=[12, 12], pitch_probability=1.0))
    spectrum = np.abs(np.fft.rfft(shift(tone, sample_rate=16_000)))
    assert np.argmax(spectrum) == pytest.approx(400, abs=3)  # an octave up, in bins of 1 Hz
    assert dataset.pitch_shift(make_settings(tables)) is None


def test_pitch_is_drawn_again_each_epoch_and_alike_when_repeated(tables):
    plain = dataset.load_clips(make_settings(tables), "train")
    changes = {"pitch_semitones": [-3, 3], "pitch_probability": 0.5}
    one, other = (dataset.load_clips(make_settings(tables, **changes), "train") for _ in range(2))
    changed = [not np.array_equal(one[i]["clean"], plain[i]["clean"]) for i in range(10)]
    assert 0 < sum(changed) < 10
    for i in range(10):
        assert np.array_equal(one[i]["noisy"], other[i]["noisy"]) and len(one[i]["clean"]) == len(plain[i]["clean"])
    shifted = changed.index(True)
    one.set_epoch(1)
    assert not np.array_equal(one[shifted]["clean"], other[shifted]["clean"])
    dev = dataset.load_clips(make_settings(tables, **changes), "dev")
    assert np.array_equal(dev[0]["clean"], dataset.load_clips(make_settings(tables), "dev")[0]["clean"])


def test_training_clips_are_transmitted_clipped_or_clean_as_often_as_it_is_asked_for(tables):
    changes = {"transmissions": ["gsm", "mu_law"], "transmission_probability": 1.0}
    plain, transmitted = (dataset.load_clips(make_settings(tables, **other), "train") for other in ({}, changes))
    assert {transmitted.recipe.draw(i).transmission for i in range(20)} == {"gsm", "mu_law"}
    assert len(transmitted[0]["noisy"]) == len(transmitted[0]["clean"]) == len(plain[0]["clean"])
    power = np.abs(np.fft.rfft(transmitted[0]["clean"])) ** 2
    assert power[len(power) * 9 // 16 :].sum() < 1e-4 * power.sum()  # nothing above 4.5 kHz but the edges
    clipped = dataset.load_clips(make_settings(tables, clipping_probability=1.0), "train")
    assert np.array_equal(clipped[0]["clean"], plain[0]["clean"])
    assert np.abs(clipped[0]["noisy"]).max() < np.abs(plain[0]["noisy"]).max()
    clean = dataset.load_clips(make_settings(tables, clean_probability=1.0), "train")
    assert np.array_equal(clean[0]["noisy"], clean[0]["clean"])
    everything = {**changes, "clipping_probability": 1.0, "clean_probability": 1.0}
    dev = dataset.load_clips(make_settings(tables, **everything), "dev")
    assert np.array_equal(dev[0]["noisy"], dataset.load_clips(make_settings(tables), "dev")[0]["noisy"])


# What a run starts from, and what its speech passes through ----------------------------------------------------------


def test_an_encoder_is_taken_over_and_nothing_else(tables, tiny_checkpoint):
    original = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    settings = make_settings(tables, encoder=str(tiny_checkpoint), config={"num_experts": 4, "hidden_dropout": 0.3})
    torch.manual_seed(5)
    model = build.build_model(settings)
    expected = original.model.encoder.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.model.encoder.state_dict().items())
    assert model.config.conv_dim == original.config.conv_dim and model.config.num_experts == 4
    assert model.config.hidden_dropout == 0.3 and model.config.expert_hidden_size == 4096
    known, fresh = original.state_dict(), model.state_dict()
    for name in ("model.integration.routers.emotion.weight", "heads.emotion.dense.weight"):
        assert known[name].shape != fresh[name].shape or not torch.equal(known[name], fresh[name])
    assert build.build_feature_extractor(settings).normalization == "recording"
    with pytest.raises(ValueError, match="Remove the fields that describe the encoder"):
        build.build_model(make_settings(tables, encoder=str(tiny_checkpoint), config={"hidden_size": 64}))


def test_an_encoder_keeps_its_feature_encoder(tables, tmp_path):
    sizes = {"conv_dim": [20], "conv_kernel": [800], "conv_stride": [320]}
    original = build.build_model(make_settings(tables, config={**SMALL_MODEL, "feature_encoder": "log_mel", **sizes}))
    original.save_pretrained(tmp_path)
    model = build.build_model(make_settings(tables, encoder=str(tmp_path), config={}))
    values = torch.randn(1, 8000)
    one, other = (each.model.encoder.eval()(values)[0][-1] for each in (original, model))
    assert torch.equal(one, other)


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_an_encoder_with_or_without_masking_gets_what_it_needs(tables, tiny_checkpoint, tmp_path, probability):
    without = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, mask_time_prob=0.0)
    without.save_pretrained(tmp_path)
    build.build_feature_extractor(make_settings(tables)).save_pretrained(tmp_path)
    for source in (str(tiny_checkpoint), str(tmp_path)):
        for kind in ("encoder", "model"):
            config = {"apply_spec_augment": True, "mask_time_prob": probability}
            model = build.build_model(make_settings(tables, **{kind: source, "config": config}))
            assert hasattr(model.model.encoder, "masked_spec_embed") is (probability > 0)
            assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_masking_hides_whole_frames_in_place_and_in_training_only(tables, tiny_checkpoint):
    config = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 3, "feat_proj_dropout": 0.0}
    encoder = build.build_model(make_settings(tables, encoder=str(tiny_checkpoint), config=config)).model.encoder
    received = []  # what the positional convolution gets: the frames in their places
    encoder.encoder.pos_conv_embed.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0].detach()))
    values, mask = torch.randn(2, 16_000), torch.ones(2, 16_000, dtype=torch.long)
    mask[1, 12_000:] = 0
    for training in (False, False, True):
        np.random.seed(0)
        outputs, frame_mask = encoder.train(training)(values, mask)
    plain, repeated, masked = received
    assert torch.equal(plain, repeated)
    hidden = (masked == encoder.masked_spec_embed).all(-1)  # (B, T)
    assert 5 < hidden[0].sum() < 30 and not (hidden & ~frame_mask).any()
    torch.testing.assert_close(masked[~hidden], plain[~hidden])
    assert all(output.shape[:2] == hidden.shape for output in outputs)


def test_an_enhancement_model_cleans_the_input_as_the_pipeline_does(tables, tiny_checkpoint):
    settings = make_settings(tables, cleaned_by=str(tiny_checkpoint))
    clips, feature_extractor = dataset.load_clips(settings, "dev"), build.build_feature_extractor(settings)
    loader = Accelerator(cpu=True).prepare(dataset.build_loader(clips, feature_extractor, settings, shuffle=False))
    device = torch.device("cpu")
    cleaned = CleanedLoader(loader, build_enhancement(settings.cleaned_by, device), feature_extractor, device)
    [batch] = cleaned
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint)
    for row, index in enumerate(loader.batch_sampler.sampler):
        example = clips[index]
        expected = feature_extractor(pipe(example["noisy"], sampling_rate=16_000)["audio"], sampling_rate=16_000)
        received = batch["input_values"][row, : len(example["noisy"])]
        np.testing.assert_allclose(received, expected["input_values"][0], atol=1e-4)
        assert not np.allclose(received, feature_extractor(example["noisy"], sampling_rate=16_000)["input_values"][0])
        assert batch["labels"][row] == example["targets"]["emotion"]
    assert not batch["input_values"].requires_grad and len(cleaned) == 1


def test_another_package_cleans_the_input():
    pytest.importorskip("noisereduce", reason="noisereduce is not installed: extra `benchmark`")
    recordings = [np.random.default_rng(seed).normal(0, 0.1, 8_000 + seed).astype(np.float32) for seed in (0, 1)]
    cleaned = build_enhancement("noisereduce", torch.device("cpu"))(recordings)
    for recording, enhanced in zip(recordings, cleaned, strict=True):
        np.testing.assert_array_equal(enhanced, ENHANCERS["noisereduce"]().enhance(recording))


def test_the_model_in_front_of_a_cascade_has_to_enhance(tables, tiny_checkpoint, tmp_path):
    SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, tasks=["emotion"]).save_pretrained(
        tmp_path
    )
    build.build_feature_extractor(make_settings(tables)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cleaned_by"):
        EnhancementModel(str(tmp_path), torch.device("cpu"))


# Balancing of tasks; the formulas are tested in test_balancing.py ----------------------------------------------------


@pytest.mark.parametrize("balancing", ["uncertainty", pytest.param("pcgrad", marks=pytest.mark.slow)])
def test_a_balanced_run_goes_on_from_its_checkpoint_as_if_never_stopped(tables, tmp_path, balancing):
    changes = {"task_balancing": balancing, "gradient_accumulation_steps": 2, "mixed_precision": "bf16"}
    config = write_config(tmp_path / "config.yaml", tables, epochs=1, frozen_epochs=2, eval_every=3, **changes)
    training_run.main([str(config), "--output_dir", str(tmp_path / "whole"), "--save_total_limit", "3"])
    for epoch in (1, 2):  # within a stage and between two of them
        resumed = tmp_path / f"resumed{epoch}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{epoch}", resumed / f"checkpoint-{epoch}")
        training_run.main([str(config), "--output_dir", str(resumed)])
        for file in sorted((tmp_path / "whole" / "checkpoint-3").glob("*.safetensors")):
            weights = load_file(resumed / "checkpoint-3" / file.name)
            for name, weight in load_file(file).items():
                assert torch.equal(weights[name], weight), (epoch, file, name)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    logged = "train/log_variance/emotion" if balancing == "uncertainty" else "train/gradient_cosine"
    assert all(entry[logged] != 0 for entry in log if "train/total" in entry and entry["epoch"] > 2)
    assert (tmp_path / "whole" / "checkpoint-3" / checkpoints.BALANCING_FILE).exists() is (balancing == "uncertainty")


# The baselines -------------------------------------------------------------------------------------------------------

BASELINES = ROOT / "benchmarks" / "baselines"
EVALUATIONS = ("evaluation", "ablations")


def test_the_baselines_share_data_sizes_and_budget():
    shared = asdict(parse_settings([str(BASELINES / "base.yaml")]))
    cascade = {"tasks", "frozen_epochs", "cleaned_by", "snr_db", "eval_snr_db"}
    lora = {"model", "encoder", "calibration_batches", "lora_rank", "frozen_epochs", "epochs", "eval_every"}
    lora |= {"feature_cache", "feature_cache_rounds", "feature_cache_dtype"}
    for system in baselines.SEEDS:
        settings = asdict(parse_settings([str(BASELINES / f"{system}.yaml")]))
        differing = {name for name in settings if settings[name] != shared[name]}
        in_cascade = system in ("enhancement", "emotion_clean", "emotion_enhanced")
        allowed = cascade if in_cascade else lora if system.endswith("_lora") else set()
        assert differing <= {"config", "task_balancing"} | allowed, system
        changed = {name for name, value in settings["config"].items() if shared["config"].get(name) != value}
        assert changed <= {"tasks", "integration", "router", "router_gradient", "num_experts"}, system
    assert {path.stem for path in BASELINES.glob("*.yaml")} == {*baselines.SEEDS, "base", *EVALUATIONS}


def test_a_run_with_former_names_of_settings_was_trained_with_the_same_settings(tmp_path):
    arguments = [str(BASELINES / "sparse_merit.yaml"), "--seed", "1"]
    former = {name: old for old, name in TrainingSettings.RENAMED.items()}
    settings = {former.get(name, name): value for name, value in asdict(parse_settings(arguments)).items()}
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert "batch_size" in settings and baselines.changed_settings(tmp_path, arguments) == {}
    changed = baselines.changed_settings(tmp_path, [*arguments, "--per_device_train_batch_size", "3"])
    assert changed == {"per_device_train_batch_size": (16, 3)}


def test_the_evaluations_of_the_baselines_name_every_run_and_have_one_protocol():
    evaluated = [yaml.safe_load((BASELINES / f"{name}.yaml").read_text(encoding="utf-8")) for name in EVALUATIONS]
    systems = [each.pop("systems") for each in evaluated]
    outputs = {each.pop("output") for each in evaluated}
    assert evaluated[0] == evaluated[1] and len(outputs) == 2
    named = set(re.findall(r"runs/baselines/(\w+/\d)/best", json.dumps(systems)))
    assert named == {f"{system}/{seed}" for system, seeds in baselines.SEEDS.items() for seed in range(seeds)}


@pytest.fixture(scope="module")
def start(tables, tmp_path_factory) -> str:
    """A checkpoint with a very small encoder, to start the systems of the comparison from."""
    folder = str(tmp_path_factory.mktemp("start"))
    settings = make_settings(tables)
    build.build_model(settings).save_pretrained(folder)
    build.build_feature_extractor(settings).save_pretrained(folder)
    return folder


ALIKE = {
    "emotion_clean",
    "multitask",
    "sparse_merit_none",
    "sparse_merit_switch",
    "weighted_sum_experts",
    "experts_1",
    "experts_2",
    "experts_5",
    "experts_8",
    "dense_merit_lora",
    "multitask_lora",
}
SYSTEMS = [pytest.param(system, marks=[pytest.mark.slow] * (system in ALIKE)) for system in baselines.SEEDS]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_of_the_baselines_trains(tables, start, tmp_path, system):
    arguments = ["--speech", tables["speech"], "--noise", tables["noise"], "--labels", *LABELS]
    if system.endswith("_lora"):
        arguments += ["--model", start]
    else:
        arguments += ["--encoder", start, "--feature_cache", str(tmp_path / "features")]
    quick = [
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "4",
        "--dataloader_num_workers",
        "0",
    ]
    feature_encoder = ["--cleaned_by", start] if system == "emotion_enhanced" else []
    run = ["--output_dir", str(tmp_path), "--seed", "1"]
    training_run.main([str(BASELINES / f"{system}.yaml"), *arguments, *quick, *feature_encoder, *run])
    results = json.loads((tmp_path / "best" / "dev_results.json").read_text())["dev"]
    config = SparseMeritConfig.from_pretrained(tmp_path / "best")
    assert ("macro_f1" in results) is ("emotion" in config.tasks)
    assert ("si_sdr" in results) is ("enhancement" in config.tasks)
    assert all(np.isfinite(value) for value in results.values())


@pytest.mark.slow
def test_missing_baselines_are_trained_and_failures_are_named(tables, start, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(baselines, "SEEDS", {"emotion_enhanced": 1, "multitask": 2})
    monkeypatch.chdir(tmp_path)  # where there is no enhancement model yet
    for name, value in one_thread().items():
        monkeypatch.setenv(name, value)
    arguments = ["--speech", tables["speech"], "--noise", tables["noise"], "--labels", *LABELS, "--encoder", start]
    arguments += [
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "4",
        "--dataloader_num_workers",
        "0",
    ]
    assert baselines.main(arguments) == 1
    told = capfd.readouterr()
    assert "2 of 3 runs are done" in told.out and "FAILED emotion_enhanced/0" in told.err, told.err
    assert baselines.main([*arguments, "--per_device_train_batch_size", "3"]) == 1
    told = capfd.readouterr()
    assert "0 of 3 runs are done" in told.out and "'per_device_train_batch_size': (4, 3)" in told.err
    shutil.copytree(start, "runs/baselines/enhancement/0/best")
    assert baselines.main(arguments) == 0
    told = capfd.readouterr()
    assert told.out.count("Training ") == 1 and "3 of 3 runs are done" in told.out


def test_a_run_on_a_whisper_calibrates_once_keeps_features_and_takes_adapters(tables, tmp_path, monkeypatch):
    torch.manual_seed(0)
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    encoder = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    whisper = WhisperModel(WhisperConfig(**encoder, **decoder, **tokens))
    whisper.encoder.embed_positions.weight.data = whisper_positions(32)
    whisper.save_pretrained(tmp_path / "whisper")
    convert(tmp_path / "whisper", tmp_path / "converted", LABELS, num_layers=2)
    calls = []
    calibrate = training_run.calibrate_fusion
    monkeypatch.setattr(training_run, "calibrate_fusion", lambda *given: (calls.append(given[3]), calibrate(*given)))
    settings = {
        "encoder": str(tmp_path / "converted"),
        "calibration_batches": 2,
        "feature_cache": str(tmp_path / "features"),
        "epochs": 0,
        "config": {"expert_hidden_size": 16, "emotion_hidden_size": 16, "enhancement_hidden_size": 16},
    }
    for epochs in (1, 2):
        config = write_config(tmp_path / f"{epochs}.yaml", tables, frozen_epochs=epochs, **settings)
        training_run.main([str(config), "--output_dir", str(tmp_path / "run")])
    assert calls == [2]
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 1, 2, 2]
    best = tmp_path / "run" / "best"
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(best)
    assert pipe.feature_extractor.normalization == "corpus" and pipe.model.config.encoder_window_seconds == 8
    kept, source = (
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(path) for path in (best, settings["encoder"])
    )
    for one, other in zip(kept.model.encoder.parameters(), source.model.encoder.parameters(), strict=True):
        assert torch.equal(one, other)

    adapted = write_config(tmp_path / "adapted.yaml", tables, model=str(best), lora_rank=2, epochs=1, config={})
    training_run.main([str(adapted), "--output_dir", str(tmp_path / "adapted"), "--train_feature_encoder", "false"])
    weights = load_file(tmp_path / "adapted" / "best" / "adapter_model.safetensors")
    moved = [name for name, weight in weights.items() if "lora_B" in name and weight.abs().sum() > 0]
    assert len(moved) == 2 * 6  # each layer: query, key, value, output, and both feed-forward layers

    changes = {"model": settings["encoder"], "lora_rank": 2, "epochs": 1, "config": {}, "calibration_batches": 2}
    changes |= {"lora_train_modules": ["experts", "routers", "emotion", "enhancement"], "learning_rate": 1e-9}
    calibrated = write_config(tmp_path / "calibrated.yaml", tables, **changes)
    training_run.main([str(calibrated), "--output_dir", str(tmp_path / "new"), "--train_feature_encoder", "false"])
    loaded = SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path / "new" / "best").model
    norms = [module for module in loaded.model.integration.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms and not any(torch.allclose(norm.weight, torch.ones(32), atol=0.01) for norm in norms)


SETTINGS_FILES = [
    path
    for path in sorted((ROOT / "benchmarks").rglob("*.yaml"))
    if re.search(r"^(output_dir|extends):", path.read_text(encoding="utf-8"), re.MULTILINE)
    and path.parent.name != "respiratory"  # settings of other models, see test_respiratory_benchmark.py
]


@pytest.mark.parametrize("path", SETTINGS_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_settings_of_the_repository_are_valid(path):
    if "wild" in path.parts and path.parent.name != "speech":
        needs_text = yaml.safe_load(path.read_text(encoding="utf-8")).get("stage") != "speech"
        arguments = ["--text_model", "x"] if needs_text else []
        assert parse_fields(SpeechTextSettings, [str(path), *arguments], "").data
    elif "conversation" in path.parts:
        assert parse_fields(ConversationSettings, [str(path), "--data", "x"], "").data
    else:
        assert parse_settings([str(path)]).speech

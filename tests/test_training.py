# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training: it learns, it repeats, a killed run goes on as if nothing had happened, and settings are checked."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel
from hub_server import TOKEN, HubServer
from safetensors.torch import load_file

import train_accelerate
from dataset_scripts import folder as folder_script
from dataset_scripts import noise as noise_script
from dataset_scripts.publish import push_table
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.audio import write_audio
from modeling_sparse_merit.tables import TableError, load_table
from modeling_sparse_merit.training import build, checkpoints, data
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings
from modeling_sparse_merit.training.spectral import initialize_spectral_front_end

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
    folder_script.main([str(root), str(root / "speech")])
    (root / "noises").mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        hiss = np.convolve(generator.standard_normal(16_000), np.ones(2 + index) / 10, "same")
        write_audio(root / "noises" / f"{index}.wav", (0.1 * hiss).astype(np.float32), 16_000)
    noises = [(f"{index}.wav", split) for index, split in enumerate(("train", "train", "dev"))]
    write_metadata(root / "noises" / "metadata.csv", ("file_name", "split"), noises)
    noise_script.main([str(root / "noises"), str(root / "noise")])
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
            "batch_size": 4,
            "workers": 0,
            "snr_db": [0.0, 10.0],
            **changes,
        }
    )


def write_config(path: Path, tables: dict[str, str], **changes) -> Path:
    settings = vars(make_settings(tables, **changes)) | {"train_front_end": True, "spectral_front_end": True}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
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
    clips = data.load_clips(settings, "train")
    model = build.build_model(settings)
    initialize_spectral_front_end(model.model.encoder.feature_extractor.conv_layers[0].conv)
    batch = data.Collator(build.build_feature_extractor(settings))([clips[i] for i in range(4)])
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
    config = write_config(tmp_path / "config.yaml", tables, epochs=2, frozen_epochs=1, average_decay=0.5, workers=1)
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
    answer = pipe(speech_clip(1.0), sampling_rate=16_000)
    assert {entry["label"] for entry in answer["emotion"]} == set(LABELS)
    assert answer["audio"].shape == (16_000,)
    weights = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["class_weights"]
    assert weights == pytest.approx([9 / (2 * 6), 9 / (2 * 3)])  # of 9 labelled training clips 6 are angry, 3 are sad


@pytest.mark.parametrize("frozen_epochs", [0, 2])  # with 2, it is killed between the stages
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tables, tmp_path, frozen_epochs):
    epochs = 4 - frozen_epochs
    config = write_config(
        tmp_path / "config.yaml", tables, epochs=epochs, frozen_epochs=frozen_epochs, average_decay=0.5
    )
    config.write_text(config.read_text() + "gradient_accumulation_steps: 2\n", encoding="utf-8")
    whole = run_training(config, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    process = subprocess.Popen(train_command(config, tmp_path / "killed"), env=one_thread(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it did not come to its end before
    resumed = run_training(config, tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    for file in ("checkpoint-4/model.safetensors", "checkpoint-4/average.safetensors", "best/model.safetensors"):
        expected, weights = load_file(tmp_path / "whole" / file), load_file(tmp_path / "killed" / file)
        for name, weight in expected.items():
            assert torch.equal(weights[name], weight), (file, name)


def test_mixtures_and_order_depend_on_seed_and_epoch_alone(tables):
    settings = make_settings(tables)
    feature_extractor = build.build_feature_extractor(settings)
    loaders = []
    for workers in (0, 2):
        settings.workers = workers
        clips = data.load_clips(settings, "train")
        clips.set_epoch(3)
        loader = data.build_loader(clips, feature_extractor, settings, shuffle=True)
        loader.sampler.set_epoch(3)
        loaders.append(list(loader))
    for first, second in zip(*loaders, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    clips.set_epoch(4)
    assert not np.array_equal(clips[0]["noisy"], data.load_clips(settings, "train")[0]["noisy"])
    dev = data.load_clips(settings, "dev")
    dev.set_epoch(4)
    assert np.array_equal(dev[0]["noisy"], data.load_clips(settings, "dev")[0]["noisy"])


# Tables on the Hub ---------------------------------------------------------------------------------------------------

WITHOUT_TORCHCODEC = "import sys; sys.modules['torchcodec'] = None; import train_accelerate; train_accelerate.main()"


STREAMED = {"streaming": True, "speech": ["someone/speech"], "noise": ["someone/noise"], "shuffle_buffer": 4}


@pytest.fixture(scope="module")
def hub(tables, tmp_path_factory):
    """A Hub with the tables of speech and noise, which this process's client takes for the real one."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as running, pytest.MonkeyPatch.context() as patch:
        running.serve_this_process(patch, home)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
        patch.setenv("HF_TOKEN", TOKEN)
        for name, path in tables.items():
            push_table(path, f"someone/{name}", private=True, confirmed_licence="CC0 1.0")
        yield running


def examples_of(settings: TrainingSettings, epoch: int) -> list[dict]:
    """What one epoch of training gets to hear, clip by clip."""
    loader = data.build_loader(data.load_clips(settings, "train"), None, settings, shuffle=True)
    loader.collate_fn = list
    loader.dataset.set_epoch(epoch)
    loader.sampler.set_epoch(epoch)
    return [example for batch in loader for example in batch]


def test_a_run_streams_its_speech_from_the_hub(hub, tables, tmp_path):
    config = write_config(tmp_path / "config.yaml", tables, epochs=1, workers=2, **STREAMED)
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
    settings.workers = 2
    helped = examples_of(settings, epoch=3)
    assert [example["index"] for example in alone] == list(range(10))
    for first, second in zip(alone, helped, strict=True):
        assert first["label"] == second["label"]
        assert np.array_equal(first["noisy"], second["noisy"]) and np.array_equal(first["clean"], second["clean"])
    another = examples_of(make_settings(tables, **STREAMED), epoch=4)
    lengths = [[len(example["clean"]) for example in epoch] for epoch in (alone, another)]
    assert lengths[0] != lengths[1] and sorted(lengths[0]) == sorted(lengths[1])  # the same clips in another order


def test_a_stream_has_every_clip_of_every_table_once_with_its_class(hub, tables):
    own = ClassLabel(names=["bored", "sad", "angry"])  # numbers of its own, and no dev split
    table = load_table(tables["speech"], "train")
    other = table.select(range(3)).remove_columns("emotion").add_column("emotion", [2, 0, 1], feature=own)
    push_table(other, "someone/other", confirmed_licence="CC0 1.0")
    settings = make_settings(tables, **STREAMED | {"speech": ["someone/speech", "someone/other"]})
    found = [(audio["path"], label) for _, audio, label in data.load_clips(settings, "train").rows]
    expected = zip(table["audio"], data.class_indices(table, LABELS), strict=True)
    expected = [*expected, *zip(other["audio"], (0, -100, 1), strict=True)]
    assert sorted(found) == sorted((Path(audio["path"]).name, label) for audio, label in expected)
    assert len(data.load_clips(settings, "dev")) == len(data.load_clips(make_settings(tables), "dev"))


def test_a_table_on_the_hub_is_downloaded_where_nothing_has_its_path(hub, tables):
    downloaded = data.load_clips(make_settings(tables, **STREAMED | {"streaming": False}), "train")
    local = data.load_clips(make_settings(tables), "train")
    assert downloaded.labels == local.labels
    assert all(np.array_equal(downloaded[i]["noisy"], local[i]["noisy"]) for i in range(3))


@pytest.mark.parametrize("speech", ["tables/speech", "someone/nothing", "someone/noise"])
def test_what_cannot_be_streamed_is_named(hub, tables, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables" / "speech").mkdir(parents=True)
    with pytest.raises(TableError, match=speech):
        data.load_clips(make_settings(tables, **STREAMED | {"speech": [speech]}), "train")


def test_a_silent_stretch_of_good_speech_is_passed_over(tables, tmp_path, speech_clip):
    clip = np.concatenate([speech_clip(1.0), np.zeros(48_000, np.float32)])
    write_audio(tmp_path / "clip.wav", clip, 16_000)
    write_metadata(tmp_path / "metadata.csv", ("file_name", "emotion", "split"), [("clip.wav", "angry", "train")])
    folder_script.main([str(tmp_path), str(tmp_path / "table")])
    clips = data.load_clips(make_settings(tables, speech=[str(tmp_path / "table")], max_seconds=1.0), "train")
    for epoch in range(20):
        clips.set_epoch(epoch)
        assert np.abs(clips[0]["clean"]).max() > 0.01


def test_enhancement_alone_trains_on_speech_without_labels(tables, tmp_path, speech_clip):
    """The front end of a cascade needs no emotions."""
    for index in range(4):
        write_audio(tmp_path / f"{index}.wav", speech_clip(0.6, seed=index), 16_000)
    rows = [(f"{index}.wav", "dev" if index == 3 else "train") for index in range(4)]
    write_metadata(tmp_path / "metadata.csv", ("file_name", "split"), rows)
    folder_script.main([str(tmp_path), str(tmp_path / "table")])
    model = {**SMALL_MODEL, "tasks": ["enhancement"]}
    changes = {"speech": [str(tmp_path / "table")], "config": model, "epochs": 1, "output_dir": str(tmp_path / "run")}
    train_accelerate.main([str(write_config(tmp_path / "config.yaml", tables, **changes))])
    results = json.loads((tmp_path / "run" / "best" / "dev_results.json").read_text())["dev"]
    assert "macro_f1" not in results and np.isfinite(results["si_sdr_gain"])


def test_each_stage_waits_for_itself_and_its_early_end_is_remembered(tables, tmp_path, monkeypatch, caplog):
    """The first validation is the best of all: with a patience of 1, each stage ends as soon as it may."""
    scores = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr(train_accelerate, "validate", lambda *_: {"macro_f1": next(scores)})
    changes = {"frozen_epochs": 5, "epochs": 5, "patience": 1, "output_dir": str(tmp_path / "run")}
    config = str(write_config(tmp_path / "config.yaml", tables, **changes))
    train_accelerate.main([config])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "dev/score" in entry] == [1, 2, 6]
    train_accelerate.main([config])  # a finished run has nothing left to do
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == len(log)
    with pytest.raises(FileExistsError, match="another output_dir"):
        train_accelerate.main([config, "--resume", "false"])


@pytest.mark.slow
def test_two_processes_share_the_clips_of_an_epoch(tables, tmp_path):
    config = write_config(tmp_path / "config.yaml", tables, epochs=2, batch_size=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, *train_command(config, tmp_path / "run")[1:]]
    result = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "train/total" in entry] == [3, 6]  # 10 clips, 2 a batch, 2 processes
    assert np.isfinite([entry["dev/score"] for entry in log if "dev/score" in entry]).all()
    assert len(list((tmp_path / "run" / "checkpoint-2").glob("random_states_*.pkl"))) == 2


def test_only_the_named_emotions_are_classes(tables):
    table = load_table(tables["speech"])
    names = table.features["emotion"].names
    indices = data.class_indices(table, LABELS)
    for emotion, index in zip(table["emotion"], indices, strict=True):
        assert index == {"angry": 0, "sad": 1, "fear": -100}[names[emotion]]
    with pytest.raises(TableError, match="happy"):
        data.class_weights(indices, [*LABELS, "happy"])


def test_long_clips_are_cropped_in_training_only(tables):
    settings = make_settings(tables, max_seconds=0.5)
    train, dev = data.load_clips(settings, "train"), data.load_clips(settings, "dev")
    assert {len(train[i]["noisy"]) for i in range(len(train))} == {8000}
    assert min(len(dev[i]["noisy"]) for i in range(len(dev))) > 8000


def test_stages_train_what_they_should(tables):
    settings = make_settings(tables, frozen_epochs=3, epochs=5, encoder_learning_rate_factor=0.5, learning_rate=1e-4)
    model = build.build_model(settings)
    frozen, joint = build.stages(settings)
    assert (frozen.first_epoch, frozen.epochs, joint.first_epoch, joint.epochs) == (0, 3, 3, 5)
    build.set_trainable(model, frozen, train_front_end=False)
    assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.heads.parameters())
    build.set_trainable(model, joint, train_front_end=False)
    trained = {name for name, parameter in model.model.encoder.named_parameters() if parameter.requires_grad}
    assert trained and not any(name.startswith("feature_extractor.") for name in trained)
    groups = build.build_optimizer(model, settings).param_groups
    assert {group["lr"] for group in groups} == {1e-4, 5e-5}
    build.set_trainable(model, joint, train_front_end=True)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_spectral_front_end_hears_frequencies():
    convolution = torch.nn.Conv1d(1, 64, 400, stride=320, bias=False)
    initialize_spectral_front_end(convolution)
    time = torch.arange(1600) / 16_000
    loudest = []
    for frequency in (200.0, 1000.0, 4000.0):
        responses = (
            convolution(torch.sin(2 * torch.pi * frequency * time)[None, None]).relu()[0].mean(-1)
        )  # (filters,)
        loudest.append(responses.view(16, 4).sum(-1).argmax().item())
    assert loudest == sorted(set(loudest)) and loudest[0] <= 2 and 9 <= loudest[2] <= 13
    with pytest.raises(ValueError, match="4 \\* bands"):
        initialize_spectral_front_end(torch.nn.Conv1d(1, 30, 400))


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
        ("epoch: 7\n", "epoch"),
        ("snr_db: [5, -5]\n", "snr_db"),
        ("batch_size: 0\n", "batch_size"),
        ("average_decay: 1.0\n", "average_decay"),
        ("model: a\nwavlm: b\n", "wavlm"),
        ("schedule: sideways\n", "schedule"),
        ("config: {num_expert: 4}\n", "num_expert"),
        ("labels: [a, a]\n", "labels"),
        ("room_probability: 0.5\n", "rooms"),
        ("learning_rate: -1.0\n", "learning_rate"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        parse_settings([str(path)])


def test_fine_tuning_starts_from_a_checkpoint_with_other_labels(tables, tiny_checkpoint):
    settings = make_settings(tables, model=str(tiny_checkpoint), config={})
    model = build.build_model(settings)
    original = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    assert model.config.num_labels == 2 and model.config.class_weights is None
    expected = original.model.integration.experts[0].input_dense.weight
    assert torch.equal(model.model.integration.experts[0].input_dense.weight, expected)

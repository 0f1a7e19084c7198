# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What makes training fast leaves what is learned as it was: frozen encoders, kept features, bf16, no waiting."""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from test_training import LABELS, SMALL_MODEL
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.training import build, dataset
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.ema import MovingAverage
from modeling_sparse_merit.training.feature_cache import CachedLoader
from modeling_sparse_merit.training.settings import TrainingSettings
from modeling_sparse_merit.training.spectral_encoder import initialize_spectral_feature_encoder

STILL = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "final_dropout", "feat_proj_dropout")}
FROZEN, JOINT = build.Stage(0, 1, encoder_frozen=True), build.Stage(0, 1, encoder_frozen=False)


@pytest.fixture(scope="module", name="tables")
def small_tables(tmp_path_factory, speech_clip) -> dict[str, str]:
    """Nine clips of speech, six of them to learn from, and two noises for each split."""
    root = tmp_path_factory.mktemp("corpora")
    for kind in ("speech", "noise"):
        (root / kind).mkdir()
        lines = ["file_name,emotion,split" if kind == "speech" else "file_name,split"]
        for index in range(9 if kind == "speech" else 4):
            clip = speech_clip(0.5 + 0.1 * index, seed=index) if kind == "speech" else hiss(index)
            write_audio(root / kind / f"{index}.wav", clip, 16_000)
            emotion = f"{LABELS[index % 2]}," if kind == "speech" else ""
            lines.append(f"{index}.wav,{emotion}{'dev' if index % 3 == 2 else 'train'}")
        (root / kind / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        script = "folder" if kind == "speech" else "noise"
        prepared = CliRunner().invoke(app, ["prepare", script, str(root / kind), str(root / f"{kind}_table")])
        assert prepared.exit_code == 0, prepared.output
    return {kind: str(root / f"{kind}_table") for kind in ("speech", "noise")}


def hiss(seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(16_000)).astype(np.float32)


def make_settings(tables: dict[str, str], **changes) -> TrainingSettings:
    speech, noise = [tables["speech"]], [tables["noise"]]
    shared = {
        "labels": LABELS,
        "config": SMALL_MODEL,
        "per_device_train_batch_size": 3,
        "dataloader_num_workers": 0,
        "snr_db": [0.0, 10.0],
    }
    return TrainingSettings(**{"speech": speech, "noise": noise, **shared, **changes})


def write_config(path: Path, tables: dict[str, str], **changes) -> str:
    settings = asdict(make_settings(tables, **changes))
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings))), encoding="utf-8")
    return str(path)


def batch_of(tables: dict[str, str]) -> dict[str, torch.Tensor]:
    settings = make_settings(tables)
    clips = dataset.load_clips(settings, "train")
    return dataset.Collator(build.build_feature_extractor(settings))([clips[index] for index in range(4)])


# A frozen encoder ----------------------------------------------------------------------------------------------------


def kept_by_the_encoder(model, batch: dict[str, torch.Tensor]) -> int:
    """Tensors that one forward pass of the encoder, in training, keeps for a backward pass."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = []
    watched = torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept)
    plain.model.encoder.register_forward_pre_hook(lambda *_: watched.__enter__())
    plain.model.encoder.register_forward_hook(lambda *_: watched.__exit__())
    model(**batch).loss.backward()
    return len(kept)


# WavLM-Base and Base+, whose convolutions are WavLM's own: in training these ask for a gradient of their input.
GROUP = SMALL_MODEL | {"feat_extract_norm": "group", "do_stable_layer_norm": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_feature_encoder": True},
        {"train_feature_encoder": True, "config": GROUP},
        {"model": "", "config": {}, "lora_rank": 2},
    ],
)
def test_a_frozen_encoder_keeps_nothing_and_gets_no_gradient(tables, tiny_checkpoint, changes):
    changes = changes | ({"model": str(tiny_checkpoint)} if "model" in changes else {})
    settings, batch, kept = make_settings(tables, **changes), batch_of(tables), {}
    for stage in (FROZEN, JOINT):
        model = build.build_model(settings)
        build.set_trainable(model, stage, settings.train_feature_encoder)
        build.set_training_mode(model, stage.encoder_frozen)
        kept[stage] = kept_by_the_encoder(model, batch)
        reached = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
        assert any("heads." in name for name in reached) and any("experts." in name for name in reached)
        assert any("model.encoder." in name for name in reached) is not stage.encoder_frozen
    assert kept[FROZEN] == 0 < kept[JOINT]


def test_a_frozen_feature_encoder_keeps_nothing_with_adapters(tables, tmp_path):
    """Its activations are the largest of all."""
    build.build_model(make_settings(tables, config=GROUP)).save_pretrained(tmp_path)
    model = build.build_model(make_settings(tables, model=str(tmp_path), config={}, lora_rank=2))
    build.set_training_mode(model, encoder_frozen=False)
    assert not model.get_base_model().model.encoder.feature_extractor(torch.randn(1, 4000)).requires_grad


def test_features_of_a_frozen_encoder_are_those_of_use_unless_it_masks(tables):
    values = torch.randn(2, 16_000)
    for masked in (False, True):
        masking = {"apply_spec_augment": masked, "mask_time_prob": 0.3, "mask_time_length": 3}
        model = build.build_model(make_settings(tables, config=SMALL_MODEL | masking))
        in_use = model.eval().model.encoder(values)[0]
        build.set_training_mode(model, encoder_frozen=True)
        training = model.model.encoder(values)[0]
        assert all(map(torch.equal, training, in_use)) is not masked
        assert model.heads.training and model.model.integration.training
        build.set_training_mode(model, encoder_frozen=False)
        assert all(module.training for module in model.modules())


# Features that are kept ----------------------------------------------------------------------------------------------


def cached_loader(
    tables, folder: Path, model=None, split: str = "train", rounds: int = 1, dtype=None, **changes
) -> CachedLoader:
    settings = make_settings(tables, **changes)
    AcceleratorState._reset_state(reset_partial_state=True)  # each loader has a precision of its own
    accelerator = Accelerator(cpu=True, mixed_precision=settings.mixed_precision)
    feature_extractor = build.build_feature_extractor(settings)
    loader = dataset.build_loader(
        dataset.load_clips(settings, split), feature_extractor, settings, shuffle=split == "train"
    )
    model = build.build_model(settings) if model is None else model
    return CachedLoader(
        accelerator.prepare(loader), model.eval(), feature_extractor, folder, accelerator, rounds, dtype
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_computed_once_and_are_those_of_the_encoder(tables, tmp_path, workers):
    model = build.build_model(make_settings(tables))
    loader = cached_loader(tables, tmp_path, model, dataloader_num_workers=workers)
    runs = []
    model.model.encoder.register_forward_hook(lambda *_: runs.append(True))
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            computed = len(runs)
            kept = model(**batch)
            assert len(runs) == computed  # the model need not run its encoder
            del batch["encoder_outputs"]
            torch.testing.assert_close(kept.logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
            runs.pop()
        assert len(runs) == 2, "two batches of the first epoch, and none of any other"
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6 and not list(tmp_path.rglob(".*.partial*"))


def test_each_epoch_has_its_own_order_of_the_same_mixtures_and_the_next_stage_has_its_own(tables, tmp_path):
    loader, epochs = cached_loader(tables, tmp_path), []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append([row.sum().item() for batch in loader for row in batch["input_values"].abs()])
    assert sorted(epochs[0]) == pytest.approx(sorted(epochs[1])) and epochs[0] != epochs[1]
    clips = loader.dataset
    clips.set_epoch(1)
    again = clips[0]["noisy"]
    clips.set_epoch(2)
    assert not np.array_equal(clips[0]["noisy"], again) and "features" not in clips[0]


def test_mixtures_repeat_after_the_rounds(tables, tmp_path):
    loader, epochs = cached_loader(tables, tmp_path, rounds=2), []
    for epoch in range(4):
        loader.set_epoch(epoch)
        epochs.append(sorted(row.sum().item() for batch in loader for row in batch["input_values"].abs()))
    assert epochs[0] == pytest.approx(epochs[2]) and epochs[1] == pytest.approx(epochs[3])
    assert epochs[0] != pytest.approx(epochs[1])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 12  # two mixtures of each of six clips


def test_features_are_kept_in_fewer_bits_and_used_in_those_of_the_training(tables, tmp_path):
    model = build.build_model(make_settings(tables))
    exact, kept = (
        next(iter(cached_loader(tables, tmp_path / name, model, dtype=dtype)))
        for name, dtype in (("exact", None), ("kept", torch.float16))
    )
    (file, *_) = (tmp_path / "kept").rglob("*.safetensors")
    assert load_file(file)["features"].dtype == torch.float16
    for rounded, output in zip(kept["encoder_outputs"][0], exact["encoder_outputs"][0], strict=True):
        assert rounded.dtype == torch.float32 and torch.equal(rounded, output.half().float())


def test_features_beyond_the_range_of_what_they_are_kept_in_are_refused(tables, tmp_path):
    model = build.build_model(make_settings(tables))
    with torch.no_grad():
        model.model.encoder.encoder.layers[0].feed_forward.output_dense.bias[0] = 70_000.0
    loader = cached_loader(tables, tmp_path, model, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"reach (7|69)\d+.*, beyond the range of torch.float16.*bfloat16"):
        next(iter(loader))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_features_of_another_encoder_or_precision_are_not_taken(tables, tmp_path):
    model = build.build_model(make_settings(tables))
    folders = [cached_loader(tables, tmp_path, model).folder.path for _ in range(2)]
    assert folders[0] == folders[1]
    reduced = cached_loader(tables, tmp_path, model, mixed_precision="bf16")
    folders.append(reduced.folder.path)
    assert {output.dtype for output in next(iter(reduced))["encoder_outputs"][0]} == {torch.bfloat16}
    with torch.no_grad():
        model.model.encoder.encoder.layers[0].final_layer_norm.weight[0] += 0.01
    folders.append(cached_loader(tables, tmp_path, model).folder.path)
    # computed in one precision and kept in the other is neither
    folders.append(cached_loader(tables, tmp_path, model, dtype=torch.bfloat16).folder.path)
    folders.append(cached_loader(tables, tmp_path, model, dtype=torch.bfloat16, mixed_precision="bf16").folder.path)
    assert len(set(folders)) == 5


def test_a_run_with_kept_features_goes_on_as_if_never_stopped(tables, tmp_path):
    config = {**SMALL_MODEL, **STILL, "final_dropout": 0.5}
    changes = {"frozen_epochs": 3, "epochs": 1, "average_decay": 0.5, "config": config, "max_seconds": 0.7}
    path = write_config(tmp_path / "config.yaml", tables, feature_cache=str(tmp_path / "features"), **changes)
    training_run.main([path, "--output_dir", str(tmp_path / "whole"), "--save_total_limit", "4"])
    features = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert len(features) == 9  # of six training and three dev clips
    for start, kept in ((1, False), (2, True)):
        if not kept:
            shutil.rmtree(tmp_path / "features")
        resumed = tmp_path / f"resumed{start}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{start}", resumed / f"checkpoint-{start}")
        training_run.main([path, "--output_dir", str(resumed)])
        expected = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
        for name, weight in load_file(resumed / "checkpoint-4" / "model.safetensors").items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0 if kept else 1e-5)
    assert sorted((tmp_path / "features").rglob("*.safetensors")) == features


@pytest.mark.parametrize("cascade", [False, True])
def test_kept_features_teach_what_the_encoder_itself_would(tables, tiny_checkpoint, tmp_path, cascade):
    changes = {"frozen_epochs": 1, "epochs": 0, "config": SMALL_MODEL, "learning_rate": 0.01}
    if cascade:
        changes |= {"cleaned_by": str(tiny_checkpoint), "tasks": ["emotion"]}
    plain = write_config(tmp_path / "plain.yaml", tables, **changes)
    cached = write_config(tmp_path / "cached.yaml", tables, feature_cache=str(tmp_path / "features"), **changes)
    other = write_config(tmp_path / "other.yaml", tables, **changes, snr_db=[-20, -20])
    for name, path in (("plain", plain), ("writing", cached), ("reading", cached), ("other", other)):
        training_run.main([path, "--output_dir", str(tmp_path / name)])
        if name == "writing":
            features = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.safetensors")}
    assert features == {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*.safetensors")}
    learned = {
        name: load_file(tmp_path / name / "best" / "model.safetensors")
        for name in ("plain", "writing", "reading", "other")
    }
    for name, weight in learned["plain"].items():
        torch.testing.assert_close(learned["writing"][name], weight, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(learned["reading"][name], weight, atol=1e-4, rtol=1e-3)
    changed = [(weight - learned["other"][name]).abs().max() for name, weight in learned["plain"].items()]
    assert max(changed) > 1e-3  # what other mixtures teach


@pytest.mark.parametrize("changes", [{"frozen_epochs": 0}, {"streaming": True}, {"cleaned_by": "a"}])
def test_features_are_not_kept_where_they_would_differ(tables, changes):
    with pytest.raises(ValueError, match="feature_cache.*expected"):
        make_settings(tables, **{"feature_cache": "features", "frozen_epochs": 1, **changes})


def test_features_are_not_kept_of_an_encoder_that_masks(tables, tmp_path):
    config = SMALL_MODEL | {"apply_spec_augment": True, "mask_time_prob": 0.1}
    with pytest.raises(ValueError, match="apply_spec_augment"):
        cached_loader(tables, tmp_path, config=config)


@pytest.mark.slow
def test_two_processes_share_the_features(tables, tmp_path):
    changes = {
        "frozen_epochs": 2,
        "epochs": 0,
        "per_device_train_batch_size": 1,
        "feature_cache": str(tmp_path / "features"),
    }
    path = write_config(tmp_path / "config.yaml", tables, **changes)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        *launcher,
        str(Path(__file__).parents[1] / "train_accelerate.py"),
        path,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, env=alone, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 9
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "train/total" in entry] == [3, 6]


# Low precision -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(tables):
    """The same clips by heart, at the same pace."""
    batch, losses = batch_of(tables), {}
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        settings = make_settings(tables, learning_rate=3e-3, config=SMALL_MODEL | STILL)
        model = build.build_model(settings).train()
        initialize_spectral_feature_encoder(model.model.encoder.feature_extractor.conv_layers[0].conv)
        optimizer = build.build_optimizer(model, settings)
        losses[precision] = []
        for _ in range(60):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                outputs = model(**batch)
            assert all(loss.dtype == torch.float32 for loss in outputs.losses.values())
            outputs.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses[precision].append(outputs.loss.item())
    full, low = (np.reshape(losses[precision], (6, 10)).mean(1) for precision in ("no", "bf16"))  # of ten steps each
    assert low == pytest.approx(full, rel=0.1) and low[-1] < 0.3 * low[0]


# No waiting for the device -------------------------------------------------------------------------------------------


class Waiting(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values that are asked for, sizes that depend on values, copies
    from the host; by the source file and the operation. AdamW counts its steps on the host, and does not count."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        from_host = name == "lift_fresh" and args[0].ndim > 0  # a number is filled in where it is needed
        if by_mask or from_host or name in ("_local_scalar_dense", "nonzero", "masked_select"):
            files = [Path(frame.filename) for frame in traceback.extract_stack()]
            if "adam.py" not in {file.name for file in files}:
                self.calls[next(file.name for file in reversed(files) if is_own(file)), name] += 1
        return function(*args, **(kwargs or {}))


def is_own(file: Path) -> bool:
    return "modeling_sparse_merit" in file.parts


class WatchedBatches(list):
    """Batches, the first of which may ask for anything; what is done with the others is watched."""

    dataset = SimpleNamespace(set_epoch=lambda epoch: None, damaged=torch.zeros(1))

    def __init__(self, batches: list[dict[str, torch.Tensor]], watch: Waiting):
        super().__init__(batches)
        self.watch = watch

    def set_epoch(self, epoch: int) -> None:
        """All epochs are alike."""

    def __iter__(self):
        first, *others = super().__iter__()
        yield first
        for batch in others:
            with self.watch:
                yield batch


@pytest.mark.parametrize(
    ("integration", "frozen", "mask", "balancing"),
    [
        ("weighted_sum", True, "log1p", "fixed"),
        ("weighted_sum", False, "magnitude", "uncertainty"),
        ("experts", True, "magnitude", "fixed"),
        ("experts", False, "log1p", "pcgrad"),
    ],
)
def test_a_step_asks_the_device_for_nothing(tables, tmp_path, integration, frozen, mask, balancing):
    sizes = {"integration": integration, "enhancement_mask": mask, "focal_gamma": 2.0}
    epochs = {"frozen_epochs": 1, "epochs": 0} if frozen else {"epochs": 1}
    changes = {"average_decay": 0.5, "output_dir": str(tmp_path), "task_balancing": balancing}
    settings = make_settings(tables, config=SMALL_MODEL | sizes, **changes, **epochs)
    model, accelerator = build.build_model(settings), training_run.start(settings)
    model.config.class_weights = [1.0, 2.0]
    run = training_run.Run(settings, accelerator, model, build.build_feature_extractor(settings))
    build.set_trainable(model, *build.stages(settings), train_feature_encoder=True)
    build.set_training_mode(model, frozen)
    optimizer = build.build_optimizer(model, settings)
    prepared = accelerator.prepare(model, optimizer, build.build_schedule(optimizer, settings, steps=3))
    run.balancing.prepare()
    waiting = Waiting()
    means = run.train_epoch(*prepared, WatchedBatches([batch_of(tables)] * 3, waiting))
    assert means["train/gradient_norm"] > 0 and run.average.n_averaged == 3
    # On a CPU alone experts look up their frames; on a GPU grouped products leave that out too.
    looked_up = {("experts.py", "nonzero"), ("experts.py", "index")}
    assert set(waiting.calls) == (looked_up if integration == "experts" else set()), waiting.calls


def test_the_average_of_the_weights_is_that_of_torch():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    actual = MovingAverage(model, 0.7)
    for step in range(4):
        with torch.no_grad():
            [parameter.add_(torch.randn_like(parameter)) for parameter in model.parameters()]
        model(torch.randn(5, 3))  # moves the buffers
        expected.update_parameters(model)
        if step == 2:  # in a run that goes on from a checkpoint
            resumed = MovingAverage(model, 0.7)
            resumed.load_state_dict(actual.state_dict())
            actual = resumed
        actual.update_parameters(model)
    for name, value in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], value), name

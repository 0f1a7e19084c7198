# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of somebody else: files that lie, would fill the memory, or hold code. Each is refused by name."""

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from modeling_sparse_merit import (
    AudioEnhancerConfig,
    Cnn14Config,
    MisterEConfig,
    SparseMeritConfig,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import DatasetError
from modeling_sparse_merit.models.sparse_merit.calibration import read_calibration_file
from modeling_sparse_merit.models.sparse_merit.task_files import add_task
from modeling_sparse_merit.training.settings import parse_settings

CLASSIFIER = "heads.emotion.classifier.weight"
RAW = (TINY / "model.safetensors").read_bytes()
(HEADER_SIZE,) = struct.unpack("<Q", RAW[:8])


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of a checkpoint, without what belongs to its weights alone."""
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    (folder / "calibration.json").unlink()
    return folder


def with_header(**fields) -> bytes:
    """The weights with other fields of the first tensor."""
    header = json.loads(RAW[8 : 8 + HEADER_SIZE])
    header[next(name for name in header if name != "__metadata__")].update(fields)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + RAW[8 + HEADER_SIZE :]


def with_weights(folder: Path, change) -> bytes:
    weights = load_file(TINY / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return (folder / "model.safetensors").read_bytes()


FILES = {
    "cut short": (RAW[: len(RAW) // 2], "cannot be used"),
    "empty": (b"", "cannot be used"),
    "a header of exabytes": (struct.pack("<Q", 1 << 62) + RAW[8:], "cannot be used .*header too large"),
    "a tensor of terabytes": (with_header(shape=[10**12]), "cannot be used"),
    "an offset before the start": (with_header(data_offsets=[-5, 10]), "cannot be used"),
    "an offset beyond the end": (with_header(data_offsets=[0, 10**9]), "cannot be used"),
    "a header that is no JSON": (struct.pack("<Q", 4) + b"\xff\xfe{}" + RAW, "cannot be used"),
    "a pickle in its place": (pickle.dumps({"a": 1}), "cannot be used"),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_that_lie_about_themselves(folder, name):
    content, message = FILES[name]
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")


CHANGES = {
    "NaN": (lambda weights: weights[CLASSIFIER].fill_(torch.nan), f"NaN or Inf in {CLASSIFIER}"),
    "a missing tensor": (lambda weights: weights.pop(CLASSIFIER), f"lacks 1 weights, such as {CLASSIFIER}"),
    "another size": (lambda weights: weights.update({CLASSIFIER: torch.zeros(4, 9)}), "sizes are not those"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_would_give_wrong_results(folder, name):
    change, message = CHANGES[name]
    with_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "calibration.json", "preprocessor_config.json"])
def test_a_pickle_is_never_read(folder, tmp_path, name):
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    torch.save({CLASSIFIER: Payload(tmp_path / "executed")}, folder / name)
    try:
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")
    except (OSError, ValueError):
        pass
    else:
        assert name == "model.bin"  # which nothing asks for
    assert not (tmp_path / "executed").exists()


SIZES = {
    "hidden_size": 10**9,
    "num_hidden_layers": 100_000,
    "num_attention_heads": 10**7,
    "num_experts": 10**7,
    "expert_hidden_size": 10**10,
    "emotion_hidden_size": 10**10,
    "emotion_pooling_heads": 10**8,
    "enhancement_hidden_size": 10**9,
    "enhancement_num_layers": 10**6,
    "intermediate_size": 10**10,
    "num_conv_pos_embeddings": 10**9,
    "deep_filter_taps": 10**8 + 1,
    "n_fft": 10**10,
    "num_labels": 10**9,
}


@pytest.mark.parametrize("field", SIZES)
def test_sizes_that_would_fill_the_memory_are_refused_by_name_before_anything_is_made(folder, field):
    config = json.loads((folder / "config.json").read_text())
    if field == "num_labels":
        del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps({**config, field: SIZES[field]}))
    result = CliRunner().invoke(app, ["info", "--model", str(folder)])
    assert result.exit_code == 2 and f"`{field}`" in result.stderr and str(SIZES[field]) in result.stderr
    with pytest.raises(Exception, match=f"`{field}` is {SIZES[field]}"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    "make, fields",
    [
        (AudioEnhancerConfig, {"channels": 10**9}),
        (AudioEnhancerConfig, {"depth": 10**6}),
        (AudioEnhancerConfig, {"n_fft": 4 * 10**9}),
        (Cnn14Config, {"channels": [10**9]}),
        (Cnn14Config, {"channels": [1] * 1_000}),
        (Cnn14Config, {"hidden_size": 10**9}),
        (Cnn14Config, {"num_labels": 10**9}),
        (Cnn14Config, {"seconds": float("inf")}),
        (Cnn14Config, {"time_masks": 10**12}),
        (MisterEConfig, {"context_hidden_size": 10**9}),
        (MisterEConfig, {"cross_modal_layers": 10**6}),
        (MisterEConfig, {"context_kernels": [1] * 1_000}),
        (MisterEConfig, {"num_labels": 10**9}),
    ],
)
def test_other_models_refuse_such_sizes(make, fields):
    (field,) = fields
    with pytest.raises(Exception, match=f"`{field}` is"):
        make(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_norm_eps": float("inf")},
        {"layer_norm_eps": -1.0},
        {"initializer_range": float("nan")},
        {"hidden_size": "512"},
        {"hidden_size": float("nan")},
        {"num_attention_heads": 0},
        {"conv_stride": [0]},
        {"encoder_window_seconds": 1e-9},
        {"tasks": ["emotion", "emotion"]},
        {"clip_tasks": {"../task": {"kind": "classification", "labels": ["a", "b"]}}},
    ],
)
def test_absurd_values_are_refused_by_field(fields):
    (field,) = fields
    config = json.loads((TINY / "config.json").read_text())
    if field == "clip_tasks":
        config["tasks"] = [*config["tasks"], *fields[field]]
    with pytest.raises(Exception, match=f"`{field}`|'{field}'"):
        SparseMeritConfig.from_dict({**config, **fields})


def test_a_task_of_terabytes_or_of_another_model_changes_nothing(folder, tmp_path):
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(folder, device="cpu")
    before = dict(pipe.model.named_parameters())
    for number, content in enumerate((b"", RAW[:100], struct.pack("<Q", 1 << 62), RAW, pickle.dumps({"a": 1}))):
        (path := tmp_path / f"{number}.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            add_task(pipe.model, path)
    assert dict(pipe.model.named_parameters()).keys() == before.keys()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"temperature": NaN}',
        '{"temperature": -1, "thresholds": {}, "model": {"sha256": ""}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match="calibration.json"):
        read_calibration_file(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    "line",
    [
        "seed: !!python/object/apply:os.system ['touch executed']",
        "seed: !!python/name:os.system",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nlabels: *c",
        "extends: config.yaml",
        "speech: [" + "[" * 5_000 + "]" * 5_000 + "]",
    ],
)
def test_settings_hold_values_alone(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(line)
    with pytest.raises((ValueError, DatasetError)):
        parse_settings(["config.yaml"])
    assert not (tmp_path / "executed").exists()
    assert "os.system" not in sys.modules

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Weights in fp16 are stored in half the space and compute in fp32, however they are loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioClassification, pipeline
from typer.testing import CliRunner

from modeling_sparse_merit import (
    EmotionPipeline,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.hub.push import check_checkpoint
from modeling_sparse_merit.training.build import build_model
from modeling_sparse_merit.training.settings import TrainingSettings

LABELS = ["angry", "sad", "happy", "neutral"]
LOADERS = {
    "model": SparseMeritForSpeechEnhancementAndEmotion.from_pretrained,
    "dtype auto": lambda path: SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(path, dtype="auto"),
    "AutoModel": lambda path: AutoModel.from_pretrained(path, trust_remote_code=True),
    "AutoModelForAudioClassification": lambda path: AutoModelForAudioClassification.from_pretrained(
        path, trust_remote_code=True
    ),
    "pipeline": lambda path: pipeline(model=path, trust_remote_code=True, device="cpu").model,
    "audio-classification": lambda path: (
        pipeline("audio-classification", model=path, trust_remote_code=True, device="cpu").model
    ),
    "own pipeline": lambda path: SpeechEnhancementAndEmotionPipeline.from_pretrained(path, device="cpu").model,
    "own emotion pipeline": lambda path: EmotionPipeline.from_pretrained(path, device="cpu").model,
    "evaluation": lambda path: CheckpointSystem(path, device="cpu").model,
    "training": lambda path: build_model(TrainingSettings(model=path, labels=LABELS)),
}


def export(folder: Path, *options: str):
    return CliRunner().invoke(app, ["export", str(folder), "--half", *map(str, options)])


@pytest.fixture(scope="module", params=["float32", "float16"])
def stored(tiny_checkpoint, tmp_path_factory, request) -> str:
    """A checkpoint in fp16, whose configuration says one dtype or the other."""
    folder = tmp_path_factory.mktemp("half") / "half"
    result = export(folder, "--model", tiny_checkpoint)
    assert result.exit_code == 0, result.output
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    (folder / "config.json").write_text(json.dumps({**config, "dtype": request.param}))
    return str(folder)


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    return torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, values):
    """What the model gives in fp32 when its parameters are rounded."""
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint).eval()
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
        return model(values)


@pytest.mark.parametrize("loader", LOADERS)
def test_every_way_to_load_gives_the_rounded_weights_in_fp32(loader, stored, values, expected):
    model = LOADERS[loader](stored).eval()
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    with torch.inference_mode():
        outputs = model(values)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.enhanced_values, expected.enhanced_values)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_low_precision_is_that_of_the_same_weights_in_fp32(dtype, stored, values, tmp_path):
    SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(stored).save_pretrained(tmp_path)
    models = [
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(path, dtype=dtype) for path in (tmp_path, stored)
    ]
    with torch.inference_mode():
        assert torch.equal(*(model.eval()(values).logits for model in models))


def test_fp16_is_there_for_who_asks(stored):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(stored, dtype=torch.float16)
    assert model.dtype == torch.float16


def test_the_file_is_half_as_large_and_buffers_are_exact(stored, tiny_checkpoint):
    half, exact = load_file(Path(stored) / "model.safetensors"), load_file(tiny_checkpoint / "model.safetensors")
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    for name in exact:
        is_buffer = name in dict(model.named_buffers())
        assert torch.equal(half[name], exact[name] if is_buffer else exact[name].half())
    assert (Path(stored) / "model.safetensors").stat().st_size < 0.6 * (
        tiny_checkpoint / "model.safetensors"
    ).stat().st_size


def test_an_export_of_it_has_the_same_bytes_and_is_fit_to_be_pushed(stored, tmp_path):
    result = CliRunner().invoke(app, ["export", str(tmp_path / "again"), "--model", stored])
    assert result.exit_code == 0, result.output
    files = [folder / "model.safetensors" for folder in (Path(stored), tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    check_checkpoint(tmp_path / "again")


def test_a_weight_beyond_the_range_is_an_error_that_names_it(tiny_checkpoint, tmp_path):
    source = Path(shutil.copytree(tiny_checkpoint, tmp_path / "large"))
    weights = load_file(source / "model.safetensors")
    weights["heads.emotion.classifier.bias"][1] = -70_000.0
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    result = export(tmp_path / "half", "--model", source)
    assert result.exit_code == 2
    assert "heads.emotion.classifier.bias has values up to 70000, but the largest value of fp16 is 65504" in " ".join(
        result.stderr.split()
    )
    assert not list((tmp_path / "half").iterdir())


def test_results_of_the_weights_before_are_not_taken_along(tiny_checkpoint, tmp_path):
    exported = CliRunner().invoke(app, ["export", str(tmp_path / "whole"), "--model", str(tiny_checkpoint)])
    assert exported.exit_code == 0, exported.output
    result = export(tmp_path / "half", "--model", tmp_path / "whole")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "half" / "README.md").read_text()
    assert "describes other weights" in " ".join(result.stderr.split()) and "no `evaluation.json`" in card
    check_checkpoint(tmp_path / "half")


def test_an_onnx_graph_is_not_stored_in_half(tmp_path):
    result = export(tmp_path / "half", "--onnx")
    assert result.exit_code == 2 and "--half applies to checkpoints only" in " ".join(result.stderr.split())

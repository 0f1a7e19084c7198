# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The checkpoints inside the package: small, whole, measured as they are, and none of their experts idle."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.hub.embedded import render_license
from modeling_sparse_merit.hub.model_card import render_card

ROOT = Path(__file__).parents[1]
LARGEST = {"base": 42_000_000, "tiny": 7_100_000, "enhance_free": 8_000_000}  # bytes
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=sorted(path.name for path in TINY.parent.iterdir()))
def checkpoint(request) -> Path:
    return TINY.with_name(request.param)


@pytest.fixture
def records(checkpoint) -> Path:
    return ROOT / "benchmarks" / "results" / checkpoint.name


def evaluation_of(records: Path) -> dict:
    return json.loads((records / "evaluation.json").read_text(encoding="utf-8"))


def test_the_weights_are_small_and_finite(checkpoint):
    weights = checkpoint / "model.safetensors"
    assert weights.stat().st_size <= LARGEST[checkpoint.name]
    assert all(weight.isfinite().all() for weight in load_file(weights).values())


def test_the_results_were_measured_with_these_weights_and_every_expert_has_work(checkpoint, records):
    evaluation = evaluation_of(records)
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert evaluation["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    use = [list(condition["expert_use"].values()) for condition in evaluation["conditions"]]
    shares = np.mean(use, axis=0)  # (tasks, experts): every condition has the same clips
    assert shares.shape[1] == evaluation["model"]["num_experts"]
    assert (shares.max(axis=0) >= 0.05).all()


def test_the_number_of_parameters_is_the_same_wherever_it_is_stated(checkpoint, records):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(checkpoint)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert any(True for _ in model.buffers()) and model.num_parameters() == number  # buffers do not count
    shown = CliRunner().invoke(app, ["info", "--model", checkpoint.name]).stdout
    assert re.search(rf"Parameters +{number:,}: ", shown, re.MULTILINE)
    assert f"| size | {number:,} parameters |" in (checkpoint / "README.md").read_text(encoding="utf-8")
    assert f"{number / 1e6:.2f} million" in README
    assert CheckpointSystem(checkpoint.name).describe()["parameters"] == number
    assert evaluation_of(records)["model"]["parameters"] == number


def test_readme_says_what_is_prohibited():
    assert "Article 5(1)(f) of [Regulation (EU) 2024/1689]" in README and "workplace and education" in README


def test_the_guide_to_the_hub_says_what_trainer_needs():
    guide = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    assert "`pip install torch transformers soundfile soxr accelerate`" in guide


def test_the_card_is_the_one_that_the_files_give(checkpoint, records):
    assert (checkpoint / "README.md").read_text(encoding="utf-8") == render_card(checkpoint, records)
    assert (checkpoint / "LICENSE-weights").read_text(encoding="utf-8") == render_license(records)

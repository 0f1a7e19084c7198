# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint inside the package: small, whole, measured as it is, and none of its experts idle."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from conftest import TINY
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.hub.embedded import render_license
from modeling_sparse_merit.hub.model_card import render_card

ROOT = Path(__file__).parents[1]
WEIGHTS = TINY / "model.safetensors"
RECORDS = ROOT / "benchmarks" / "results" / "tiny"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_weights_are_small_and_finite():
    assert WEIGHTS.stat().st_size < 20_000_000
    assert all(weight.isfinite().all() for weight in load_file(WEIGHTS).values())


def test_the_results_were_measured_with_these_weights_and_every_expert_has_work():
    evaluation = json.loads((RECORDS / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["model"]["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    use = [list(condition["expert_use"].values()) for condition in evaluation["conditions"]]
    shares = np.mean(use, axis=0)  # (tasks, experts): every condition has the same clips
    assert shares.shape == (2, evaluation["model"]["num_experts"])
    assert (shares.max(axis=0) >= 0.05).all()


def test_the_number_of_parameters_is_the_same_wherever_it_is_stated():
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert any(True for _ in model.buffers()) and model.num_parameters() == number  # buffers do not count
    shown = CliRunner().invoke(app, ["info", "--model", "tiny"]).stdout
    assert re.search(rf"Parameters +{number:,} *$", shown, re.MULTILINE)
    assert f"| size | {number:,} parameters |" in (TINY / "README.md").read_text(encoding="utf-8")
    assert f"({number / 1e6:.2f} million parameters" in README
    assert CheckpointSystem("tiny").describe()["parameters"] == number
    evaluation = json.loads((RECORDS / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["model"]["parameters"] == number


def test_readme_says_what_is_prohibited_and_what_trainer_needs():
    assert "Article 5(1)(f) of [Regulation (EU) 2024/1689]" in README and "workplace and education" in README
    assert "`pip install torch transformers soundfile soxr accelerate`" in README


def test_the_card_is_the_one_that_the_files_give():
    assert (TINY / "README.md").read_text(encoding="utf-8") == render_card(TINY, RECORDS)
    assert (TINY / "LICENSE-weights").read_text(encoding="utf-8") == render_license(RECORDS)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pre-training on descriptors: they reach the model aligned with its frames, are learned, and leave no trace in it."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_training import make_settings, small_tables, write_config  # noqa: F401

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.models.sparse_merit.encoder import receptive_field
from modeling_sparse_merit.training import build, dataset
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.descriptors import descriptor_frames


@pytest.fixture(scope="module", name="described")
def described_tables(tables, tmp_path_factory) -> dict[str, str]:
    pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed: extra `pretraining`")
    folder = tmp_path_factory.mktemp("described") / "speech"
    options = ["--speeds", "1.0", "1.1", "--processes", "1"]
    app(["prepare", "descriptors", tables["speech"], str(folder), *options], standalone_mode=False)
    return {**tables, "speech": str(folder)}


@pytest.mark.parametrize(
    ("kernels", "strides", "samples"),
    [((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 400), ((400,), (320,), 400), ((5, 3), (2, 4), 9)],
)
def test_what_an_encoder_frame_sees(kernels, strides, samples):
    config = SparseMeritConfig(
        conv_kernel=kernels, conv_stride=strides, conv_dim=(8,) * len(kernels), feature_encoder="convolution"
    )
    assert receptive_field(config) == samples


def test_targets_follow_the_crop(described):
    settings = make_settings(described, max_seconds=0.3, descriptor_weight=1.0)
    clips = dataset.load_clips(settings, "train")
    clips.add_descriptors(400)
    row = len(clips) - 1
    example = clips[row]
    frames = descriptor_frames(load_rows(described), row)
    assert example["descriptors"].shape == ((4800 - 400) // 320 + 1, 23)
    # encoder frame t is centred 200 samples into it, descriptor frame k at (k + 1) * 160
    centres = example["start"] + 320 * np.arange(14) + 200
    nearest = np.abs(160 * (1 + np.arange(len(frames)))[None] - centres[:, None]).argmin(1)
    np.testing.assert_array_equal(example["descriptors"][:, -1], frames[nearest, 10] > 0)
    batch = dataset.Collator(build.build_feature_extractor(settings))([example, clips[0]])
    assert batch["descriptors"].shape[:2] == (2, (batch["input_values"].shape[1] - 400) // 320 + 1)


def load_rows(described: dict[str, str]) -> Dataset:
    return read_dataset(described["speech"], split="train")


def test_a_run_learns_descriptors_resumes_and_leaves_a_plain_model(described, tmp_path):
    changes = {"descriptor_weight": 3.0, "epochs": 3, "learning_rate": 0.003, "average_decay": 0.5, "eval_every": 3}
    config = write_config(tmp_path / "config.yaml", described, **changes)
    training_run.main([str(config), "--output_dir", str(tmp_path / "whole")])
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [entry["train/descriptors"] for entry in log if "train/descriptors" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "whole" / "best")
    assert not any("descriptor" in name for name, _ in model.named_parameters())

    stop = ["--max_steps", str(log[0]["step"])]
    training_run.main([str(config), "--output_dir", str(tmp_path / "stopped"), *stop])
    training_run.main([str(config), "--output_dir", str(tmp_path / "stopped")])
    again = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "stopped" / "best")
    for (name, weight), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, other, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize(
    "changes",
    [{"speed": [0.9, 1.1]}, {"pitch_semitones": [-2, 2]}, {"tasks": ["enhancement"]}, {"task_balancing": "pcgrad"}],
)
def test_what_would_part_speech_and_descriptors_is_refused(described, changes):
    with pytest.raises(ValueError, match="descriptor_weight"):
        make_settings(described, descriptor_weight=1.0, **changes)


def test_tables_without_descriptors_are_named(tables):
    clips = dataset.load_clips(make_settings(tables, descriptor_weight=1.0), "train")
    with pytest.raises(ValueError, match="prepare descriptors"):
        clips.add_descriptors(400)

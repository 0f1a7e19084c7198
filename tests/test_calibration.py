# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Fusion calibration: what experts and routers are given has mean 0 and deviation 1, and stays so when resumed."""

import json

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.training.calibration import calibrate_fusion
from modeling_sparse_merit.training.settings import TrainingSettings


@pytest.fixture
def batches(speech_clip):
    clips = [torch.from_numpy(speech_clip(0.5, seed=seed)) for seed in range(6)]
    mask = torch.ones(2, 8_000, dtype=torch.long)
    mask[1, 6_000:] = 0
    return [{"input_values": torch.stack(clips[i : i + 2]) * mask, "attention_mask": mask} for i in (0, 2, 4)]


@pytest.mark.parametrize("integration", ["experts", "weighted_sum", "weighted_sum_experts", "expert_weighted_sums"])
@torch.no_grad()
def test_every_dimension_is_standardised_over_the_frames_of_the_batches(tiny_config, batches, integration):
    torch.manual_seed(0)
    fields = {**tiny_config.to_dict(), "integration": integration}
    model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**fields))
    calibrate_fusion(Accelerator(cpu=True), model, iter(batches), 2)  # the third batch is not used
    frames = []
    for batch in batches[:2]:
        layer_outputs, frame_mask = model.model.encoder(batch["input_values"], batch["attention_mask"])
        frames.append(torch.stack(layer_outputs)[:, frame_mask])  # (L, frames, D)
    norms = model.model.integration.layer_norms
    norms = norms["emotion"] if integration == "weighted_sum" else norms
    for norm, layer in zip(norms, torch.cat(frames, dim=1), strict=True):
        actual = norm(layer)
        torch.testing.assert_close(actual.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
        torch.testing.assert_close(actual.std(0, correction=0), torch.ones(32), atol=1e-3, rtol=0)
        plain = F.layer_norm(layer, (32,))
        torch.testing.assert_close(norm.weight, 1 / plain.std(0, correction=0), rtol=1e-3, atol=1e-3)


def test_a_dimension_that_does_not_vary_stays_finite(tiny_config, batches):
    model = SparseMeritForSpeechEnhancementAndEmotion(tiny_config)
    silent = [{name: values * 0 if name == "input_values" else values for name, values in batches[0].items()}]
    calibrate_fusion(Accelerator(cpu=True), model, silent, 1)
    assert all(weight.isfinite().all() for weight in model.model.integration.parameters())


def test_the_setting_is_checked():
    with pytest.raises(ValueError, match="`calibration_batches` is -1; expected a whole number of at least 0"):
        TrainingSettings(calibration_batches=-1)
    assert json.loads(json.dumps(TrainingSettings().calibration_batches)) == 0

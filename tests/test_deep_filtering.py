# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The enhancement head with a deep filter: the filter by hand, level, padding, and what training starts from."""

import pytest
import torch
from conftest import TINY_SIZES
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.models.sparse_merit.deep_filtering import DeepFilterHead, build_enhancement_head
from modeling_sparse_merit.models.sparse_merit.enhancement import EnhancementHead

SIZES = {
    "enhancement_mask": "deep_filter",
    "deep_filter_bins": 9,
    "deep_filter_taps": 3,
    "enhancement_hidden_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 2,
    **{"n_fft": 32, "win_length": 32, "hop_length": 16},
}
LENGTHS = torch.tensor([1600, 990])


@pytest.fixture(name="head")
def random_head() -> DeepFilterHead:
    torch.manual_seed(0)
    return DeepFilterHead(SparseMeritConfig(**SIZES)).eval()


@pytest.fixture(name="inputs")
def random_inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 1600, generator=generator) * (torch.arange(1600) < LENGTHS[:, None])
    frames = LENGTHS // 320
    mask = torch.arange(5) < frames[:, None]
    return torch.randn(2, 5, 16, generator=generator) * mask[..., None], mask, values, LENGTHS


def test_the_configuration_names_the_head():
    assert type(build_enhancement_head(SparseMeritConfig(**SIZES))) is DeepFilterHead
    assert type(build_enhancement_head(SparseMeritConfig())) is EnhancementHead


def test_filter_adds_products_of_neighbouring_frames(head):
    generator = torch.Generator().manual_seed(2)
    spectrum = torch.randn(1, 4, 17, dtype=torch.complex64, generator=generator)
    coefficients = torch.randn(1, 4, 2 * 3 * 9, generator=generator)
    filtered = head._filter(spectrum, coefficients)
    weights = torch.complex(*coefficients.reshape(4, 2, 3, 9).unbind(1))  # (frames, taps, bins)
    expected = spectrum[0].clone()
    for frame in range(4):
        for tap, neighbour in enumerate((frame - 1, frame, frame + 1)):
            if 0 <= neighbour < 4:  # beyond the recording there is silence
                expected[frame, :9] += weights[frame, tap] * spectrum[0, neighbour, :9]
    torch.testing.assert_close(filtered[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(filtered[..., 9:], spectrum[..., 9:])


def test_output_follows_the_level_of_the_input(head, inputs):
    features, mask, values, lengths = inputs
    outputs, _ = head(features, mask, values, lengths)
    quieter, _ = head(features, mask, 1e-3 * values, lengths)
    torch.testing.assert_close(1e3 * quieter["enhanced_values"], outputs["enhanced_values"], atol=1e-5, rtol=0)


def test_loss_does_not_depend_on_the_level(head, inputs):
    features, mask, values, lengths = inputs
    losses = [head(features, mask, gain * values, lengths, gain * 0.5 * values)[1] for gain in (1.0, 0.01)]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=0)


def test_padding_changes_nothing(head, inputs):
    features, mask, values, lengths = inputs
    clean = values.flip(1) * (torch.arange(1600) < lengths[:, None])
    batched, _ = head(features, mask, values, lengths)
    alone, loss = head(features[1:, :3], mask[1:, :3], values[1:, :990], lengths[1:], clean[1:, :990])
    torch.testing.assert_close(batched["enhanced_values"][1:, :990], alone["enhanced_values"], atol=1e-5, rtol=0)
    assert (batched["enhanced_values"][1, 990:] == 0).all()
    _, padded_loss = head(features[1:], mask[1:], values[1:], lengths[1:], clean[1:])
    torch.testing.assert_close(padded_loss, loss, atol=1e-5, rtol=0)


def test_silence_stays_silence(head, inputs):
    features, mask, values, lengths = inputs
    outputs, _ = head(features, mask, torch.zeros_like(values), lengths)
    assert (outputs["enhanced_values"] == 0).all()


def test_training_starts_from_a_gain_of_nearly_one():
    config = SparseMeritConfig(**{**TINY_SIZES, **SIZES, "tasks": ["enhancement"]})
    model = SparseMeritForSpeechEnhancementAndEmotion(config)
    head = model.heads["enhancement"]
    assert (head.filter_dense.weight == 0).all() and (head.filter_dense.bias == 0).all()
    values = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        enhanced = model.eval()(values).enhanced_values
    gain = (enhanced * values).sum() / values.square().sum()
    assert 0.8 < gain < 0.95  # sigmoid(2) = 0.88


@pytest.mark.parametrize("taps", [0, 4])
def test_taps_are_an_odd_number(taps):
    with pytest.raises(StrictDataclassClassValidationError, match=f"`deep_filter_taps` is {taps}; expected"):
        SparseMeritConfig(deep_filter_taps=taps)

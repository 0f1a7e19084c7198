# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Attention: all implementations give the same output, compiled or not."""

import copy
import shutil

import pytest
import torch

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion


@pytest.fixture(name="model")
def small_model(tiny_config) -> SparseMeritForSpeechEnhancementAndEmotion:
    torch.manual_seed(0)
    model = SparseMeritForSpeechEnhancementAndEmotion(copy.deepcopy(tiny_config)).eval()
    torch.nn.init.normal_(model.model.encoder.encoder.layers[0].attention.rel_attn_embed.weight)
    return model


@pytest.fixture(name="batch")
def ragged_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(16_000) < torch.tensor([[16_000], [9_000]])).long()
    return {"input_values": torch.randn(2, 16_000, generator=generator) * mask, "attention_mask": mask}


def assert_same(model, batch, expected) -> None:
    with torch.inference_mode():
        outputs = model(**batch)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.enhanced_values, expected.enhanced_values, atol=1e-5, rtol=0)


def test_eager_and_sdpa_agree(model, batch):
    assert model.config._attn_implementation == "sdpa"
    expected = model(**batch)
    model.set_attn_implementation("eager")
    assert_same(model, batch, expected)


def test_the_position_bias_counts(model, batch):
    """Or the tests above could not fail."""
    expected = model(**batch, output_hidden_states=True).hidden_states[-1]
    torch.nn.init.zeros_(model.model.encoder.encoder.layers[0].attention.rel_attn_embed.weight)
    assert (model(**batch, output_hidden_states=True).hidden_states[-1] - expected).abs().max() > 0.01


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.slow
@needs_compiler
def test_flex_attention_agrees(model, batch):
    """At one length: on a CPU, torch 2.13 cannot compile it for several."""
    expected = model(**batch)
    model.set_attn_implementation("flex_attention")
    assert_same(model, batch, expected)


@pytest.mark.slow
@needs_compiler
def test_the_encoder_compiles_as_one_graph_for_all_lengths(model, batch):
    compiled = torch.compile(model.model.encoder, fullgraph=True, dynamic=True)
    for length in (16_000, 12_345, 9_999):
        shorter = {name: each[:, :length] for name, each in batch.items()}
        with torch.inference_mode():
            expected, _ = model.model.encoder(**shorter)
            actual, _ = compiled(**shorter)
        torch.testing.assert_close(actual[-1], expected[-1], atol=1e-5, rtol=0)


@pytest.mark.slow
@needs_compiler
def test_the_whole_model_compiles(model, batch):
    expected = model(**batch)
    model.compile(dynamic=True)
    assert_same(model, batch, expected)

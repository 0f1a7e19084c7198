# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Low precision: nearly the same outputs, from one option, and clear limits."""

import copy
import re

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY

from modeling_sparse_merit import (
    SparseMeritForSpeechEnhancementAndEmotion,
    SparseMeritModel,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli.enhance import DEMO_RECORDING, Precision
from modeling_sparse_merit.models.sparse_merit import quantization as precision_module
from modeling_sparse_merit.models.sparse_merit.configuration_sparse_merit import PRECISIONS
from modeling_sparse_merit.models.sparse_merit.quantization import (
    Bf16Linear,
    Int8Linear,
    PackedInt8Linear,
    WidenedInt8Linear,
    is_quantized,
)

PACKED = pytest.param(
    PackedInt8Linear,
    marks=pytest.mark.skipif(precision_module.choose_int8() is WidenedInt8Linear, reason="oneDNN's int8 is for x86"),
)
FILTERS = "model.encoder.feature_extractor.filters"
KINDS = [Int8Linear, PACKED, WidenedInt8Linear]


@pytest.fixture(params=["fast bf16", "fast bf16 without VNNI", "slow bf16"])
def machine(request, monkeypatch) -> str:
    """Processors with and without fast bf16 and int8 instructions; this one can compute as each of them does."""
    is_fast = request.param != "slow bf16"
    monkeypatch.setattr(precision_module, "is_bf16_fast", lambda: is_fast)
    if request.param == "fast bf16":
        monkeypatch.setattr(precision_module, "choose_int8", lambda: Int8Linear)
    elif precision_module.choose_int8() is Int8Linear:
        monkeypatch.setattr(precision_module, "choose_int8", lambda: PackedInt8Linear)
    return request.param


def linear(weight, bias) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(weight[0]), len(weight))
    layer.load_state_dict({"weight": torch.as_tensor(weight), "bias": torch.as_tensor(bias)})
    return layer


def test_int8_by_hand():
    # 126 steps of 1 / 126 and of 2 / 126: weights and frames fall on whole numbers, so nothing is lost.
    layer = Int8Linear(linear([[1.0, -63 / 126]], [10.0]), linear([[0.0, 2.0]], [0.0]))
    assert layer.weight.tolist() == [[126, -63], [0, 126]]
    output = layer(torch.tensor([[[0.5, 1.0], [0.0, -2.0]]]))  # (B, T, in)
    torch.testing.assert_close(output, torch.tensor([[[10.0, 2.0], [11.0, -4.0]]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_within_two_percent_of_the_linear_layer_at_any_scale(kind, dtype):
    torch.manual_seed(0)
    exact = torch.nn.Linear(256, 64).to(dtype)
    torch.nn.init.zeros_(exact.bias)
    frames = torch.randn(7, 256).to(dtype) * torch.logspace(-3, 3, 7)[:, None].to(dtype)  # quiet and loud frames
    layer = kind(exact)
    expected = frames.float() @ exact.weight.detach().float().T
    error = (layer(frames).float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_of_the_largest_numbers_do_not_overflow(kind, sign):
    layer = kind(linear(torch.full((8, 4096), sign), torch.zeros(8)))
    torch.testing.assert_close(layer(torch.ones(20, 4096)), torch.full((20, 8), 4096 * sign), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_takes_no_frames_and_silence(kind):
    layer = kind(linear(torch.randn(8, 16), torch.arange(8.0)))
    assert layer(torch.zeros(0, 16)).shape == (0, 8)
    torch.testing.assert_close(layer(torch.zeros(1, 2, 16)), torch.arange(8.0).expand(1, 2, 8))


def test_weights_kept_in_bf16_multiply_in_fp32():
    torch.manual_seed(0)
    exact = torch.nn.Linear(64, 600)  # more rows than are widened at once
    rounded = copy.deepcopy(exact)
    rounded.weight.data = rounded.weight.bfloat16().float()
    frames = torch.randn(2, 5, 64)
    torch.testing.assert_close(Bf16Linear(exact)(frames), rounded(frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_the_embedded_checkpoint_agrees_in_low_precision(dtype, machine):
    recording, rate = soundfile.read(DEMO_RECORDING, dtype="float32")
    expected, actual = (
        SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, dtype=each, device="cpu")(
            {"array": recording, "sampling_rate": rate}
        )
        for each in ("fp32", dtype)
    )
    assert [each["label"] for each in actual["emotion"]] == [each["label"] for each in expected["emotion"]]
    for one, other in zip(expected["emotion"], actual["emotion"], strict=True):
        assert abs(one["score"] - other["score"]) < 0.02
    difference = actual["audio"] - expected["audio"]
    assert 10 * np.log10(np.square(expected["audio"]).sum() / np.square(difference).sum()) > 30  # dB
    assert np.abs(difference).max() > 0  # it is another precision


@pytest.mark.parametrize("integration", ["weighted_sum", "weighted_sum_experts", "expert_weighted_sums"])
def test_every_integration_runs_in_int8_alone_and_in_a_ragged_batch(integration, tmp_path, tiny_config, machine):
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    config.integration = integration
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(tmp_path)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path, dtype="int8").eval()
    values, mask = torch.randn(2, 4000), (torch.arange(4000) < torch.tensor([[4000], [2500]])).long()
    with torch.inference_mode():
        together, alone = model(values * mask, mask), model(values[1:, :2500])
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=0.02, rtol=0)


def test_low_precision_comes_from_a_file_in_any_precision_and_leaves_the_rest_as_it_computes(tmp_path, machine):
    load = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained
    load(TINY, dtype=torch.bfloat16).save_pretrained(tmp_path)
    rest = torch.float32 if machine == "slow bf16" else torch.bfloat16
    for checkpoint in (TINY, tmp_path):
        for dtype, large in (("bf16", torch.bfloat16), ("int8", torch.int8)):
            weights = dict(load(checkpoint, dtype=dtype).state_dict())
            layers = [weights.pop(name) for name in list(weights) if is_large(name)]
            assert {values.dtype for values in layers} == {large}
            weights.pop(FILTERS)  # of the feature encoder, which computes in fp32 in any case
            assert {values.dtype for values in weights.values()} == {rest}


@pytest.mark.parametrize("slower", [torch.float32, torch.bfloat16])
def test_bf16_is_used_only_where_its_products_are_measured_to_be_faster(slower, monkeypatch):
    """Support by the processor is not enough: with AVX512-BF16 and without AMX, bf16 is slower than fp32."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    times = iter([9.0, 9.0, *[1.0] * 8])  # the first products wait for memory
    monkeypatch.setattr(precision_module, "_seconds", lambda frames, _: next(times) + (frames.dtype == slower))
    assert precision_module.is_bf16_fast.__wrapped__() == (slower == torch.float32)


def is_large(name: str) -> bool:
    """Whether this is a weight of the encoder's layers or of the experts, where the matrix products are."""
    return bool(re.search(r"\.(\w+_proj|feed_forward\.\w+_dense|experts\.\d\.\w+_dense)\.weight$", name))


def test_a_model_whose_weights_are_kept_in_bf16_is_saved_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(precision_module, "is_bf16_fast", lambda: False)
    load = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained
    kept = load(TINY, dtype="bf16").eval()
    kept.save_pretrained(tmp_path)
    values = torch.randn(1, 8000)
    with torch.inference_mode():
        torch.testing.assert_close(load(tmp_path, dtype="bf16").eval()(values).logits, kept(values).logits)


def test_the_command_line_has_the_precisions_of_the_model():
    assert [each.value for each in Precision] == list(PRECISIONS)


def test_int8_quantizes_the_model_without_heads_too():
    model = SparseMeritModel.from_pretrained(TINY, dtype=torch.int8)  # what `pipeline` makes of "int8"
    assert is_quantized(model)
    assert not is_quantized(SparseMeritModel.from_pretrained(TINY, dtype="bf16"))


def test_a_model_in_int8_is_not_saved(tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY, dtype="int8")
    with pytest.raises(ValueError, match="Load it with dtype='fp32' to save it"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_damaged_weights_are_found_in_int8_too(tmp_path):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY)
    model.model.integration.experts[0].input_dense.weight.data[0, 0] = torch.nan
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY)
    pipe.feature_extractor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NaN or Inf in .*experts.0"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path, dtype="int8")

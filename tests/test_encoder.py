# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The encoder: the outputs of WavLM with the weights of WavLM, for every layer."""

import pytest
import torch
from transformers import WavLMModel

from modeling_sparse_merit.models.sparse_merit import attention
from modeling_sparse_merit.models.sparse_merit import encoder as encoder_module
from modeling_sparse_merit.models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from modeling_sparse_merit.models.sparse_merit.encoder import LogMelFeatureEncoder, SparseMeritEncoder

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}
LAYOUTS = {
    "stable": {},
    "group": {"do_stable_layer_norm": False, "feat_extract_norm": "group"},
}
LOG_MEL = {"feature_encoder": "log_mel", "conv_kernel": [400], "conv_stride": [320], "conv_dim": [40]}


@pytest.fixture(params=LAYOUTS, name="pair")
def stock_and_ours(request) -> tuple[WavLMModel, SparseMeritEncoder]:
    torch.manual_seed(0)
    config = SparseMeritConfig(**SMALL, **LAYOUTS[request.param])
    stock, ours = WavLMModel(config), SparseMeritEncoder(config)
    ours.load_state_dict(stock.state_dict())  # strict: the parameters have WavLM's names
    return stock, ours


def ragged_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(9000) < torch.tensor([[9000], [4321]])).long()
    return torch.randn(2, 9000, generator=generator) * mask, mask


def test_layer_outputs_are_those_of_wavlm(pair):
    stock, ours = (model.eval() for model in pair)
    values, mask = ragged_batch()
    with torch.no_grad():
        expected = stock(values, attention_mask=mask, output_hidden_states=True).hidden_states
        outputs, frame_mask = ours(values, mask)
    assert len(outputs) == len(expected) == 4
    assert frame_mask.sum(-1).tolist() == [27, 13]  # floor((S - 400) / 320) + 1
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output[frame_mask], reference[frame_mask], atol=1e-5, rtol=0)


def test_the_last_hidden_state_is_that_of_wavlm(pair):
    stock, ours = (model.eval() for model in pair)
    values, mask = ragged_batch()
    with torch.no_grad():
        expected = stock(values, attention_mask=mask).last_hidden_state
        outputs, frame_mask = ours(values, mask)
        actual = ours.last_hidden_state(outputs)
    torch.testing.assert_close(actual[frame_mask], expected[frame_mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_are_those_of_wavlm_for_each_head(pair, implementation):
    """WavLM returns the mean over heads, as often as there are heads (an open issue of torch, it says)."""
    stock, ours = (model.eval() for model in pair)
    ours.set_attn_implementation(implementation)
    torch.nn.init.normal_(stock.encoder.layers[0].attention.rel_attn_embed.weight)
    ours.load_state_dict(stock.state_dict())
    values, mask = ragged_batch()
    with torch.no_grad():
        expected = stock(values, attention_mask=mask, output_attentions=True).attentions
        outputs, frame_mask, attentions = ours(values, mask, output_attentions=True)
        without, _ = ours(values, mask)
    assert len(attentions) == len(expected) == 3
    for weights, mean in zip(attentions, expected, strict=True):
        assert weights.shape == (2, 4, 27, 27) and (weights[1, ..., 13:] == 0).all()  # keys of the padding
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 27))
        assert weights.std(1).max() > 1e-3  # heads differ
        torch.testing.assert_close(weights.mean(1), mean[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs, without, atol=1e-5, rtol=0)


def test_attentions_by_hand(pair):
    """Softmax over keys of q . k / sqrt(D / H) + gate * bias, for one head of the first layer."""
    _, ours = (model.eval() for model in pair)
    layer, values = ours.encoder.layers[0], ragged_batch()[0][:1]
    attention = layer.attention
    torch.nn.init.normal_(attention.rel_attn_embed.weight)
    seen = []
    attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        _, _, (weights, *_) = ours(values, output_attentions=True)
        hidden = seen[0]  # (1, T, D)
        query, key = (projection(hidden)[0, :, 8:16] for projection in (attention.q_proj, attention.k_proj))
        gate = attention.gru_rel_pos_linear(hidden[0, :, 8:16]).unflatten(-1, (2, 4)).sum(-1).sigmoid()  # (T, 2)
        gate = gate[:, :1] * (gate[:, 1:] * attention.gru_rel_pos_const[0, 1, 0, 0] - 1) + 2
        bias = attention.compute_bias(27, 27)[1]  # (T, T), as WavLM has it
        expected = (query @ key.T / 8**0.5 + gate * bias).softmax(-1)
    torch.testing.assert_close(weights[0, 1], expected, atol=1e-5, rtol=0)


def test_long_recordings_are_attended_in_blocks_to_the_same_end(pair, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1)
    monkeypatch.setattr(attention, "FEWEST_QUERIES", 5)
    monkeypatch.setattr(encoder_module, "FRAMES_AT_ONCE", 8)
    test_layer_outputs_are_those_of_wavlm(pair)
    test_gradients_are_those_of_wavlm(pair)


def test_gradients_are_those_of_wavlm(pair):
    values = ragged_batch()[0].double()
    gradients = []
    for model in pair:
        model.double().train()
        stock = isinstance(model, WavLMModel) and not isinstance(model, SparseMeritEncoder)
        outputs = model(values, output_hidden_states=True).hidden_states if stock else model(values)[0]
        sum(output.square().sum() for output in outputs).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layout", [*LAYOUTS, "log_mel"])
def test_gradient_checkpointing_covers_the_feature_encoder(layout, reentrant, monkeypatch):
    monkeypatch.setattr(encoder_module, "FRAMES_AT_ONCE", 20)  # two segments
    torch.manual_seed(0)
    encoder = SparseMeritEncoder(SparseMeritConfig(**{**SMALL, **(LAYOUTS | {"log_mel": LOG_MEL})[layout]})).train()
    values, gradients, calls = ragged_batch()[0], [], []
    for name, part in encoder.named_modules():
        if name.endswith("activation") or name == "feature_projection.projection":
            part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    for is_checkpointed in (False, True):
        if is_checkpointed:
            encoder.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss = sum(output.square().mean() for output in encoder(values)[0])
        encoder.zero_grad()
        calls.clear()
        loss.backward()
        gradients.append({name: weight.grad for name, weight in encoder.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    layers = [] if layout == "log_mel" else [f"feature_extractor.conv_layers.{index}.activation" for index in range(7)]
    assert {name for name in calls if "feature_extractor" in name} == set(layers)  # what the backward pass runs again
    assert "feature_projection.projection" not in calls
    assert not values.requires_grad


def test_a_convolution_that_was_replaced_or_has_a_hook_is_called(pair):
    """As by adapters of peft, or by accelerate's offloading."""

    class Louder(torch.nn.Module):
        def __init__(self, convolution):
            super().__init__()
            self.convolution, self.weight = convolution, convolution.weight

        def forward(self, hidden_states):
            return 2.0 * self.convolution(hidden_states)

    stock, ours = (model.eval() for model in pair)
    layers = [model.feature_extractor.conv_layers for model in pair]
    for model_layers in layers:
        model_layers[1].conv = Louder(model_layers[1].conv)
        model_layers[2].conv.register_forward_hook(lambda _, inputs, output: output + 0.5)
        model_layers[0].conv.register_forward_hook(lambda _, inputs, output: output - 0.5)
    values, _ = ragged_batch()
    with torch.no_grad():
        expected = stock(values, output_hidden_states=True).hidden_states
        actual, _ = ours(values)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_spec_augment_changes_training_only():
    torch.manual_seed(0)
    encoder = SparseMeritEncoder(
        SparseMeritConfig(
            **SMALL, apply_spec_augment=True, mask_time_prob=0.5, mask_time_length=2, mask_feature_prob=0.2
        )
    )
    values, _ = ragged_batch()
    with torch.no_grad():
        trained = [encoder.train()(values)[0][-1] for _ in range(2)]
        evaluated = [encoder.eval()(values)[0][-1] for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


@pytest.mark.slow
def test_log_mel_bands_are_those_of_librosa():
    librosa = pytest.importorskip("librosa")
    feature_encoder = LogMelFeatureEncoder(SparseMeritConfig(**{**SMALL, **LOG_MEL}))
    values = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    # librosa takes frames of n_fft samples with the window in their middle, 112 samples later
    later = torch.nn.functional.pad(values, (312, 312))[0].numpy()
    power = librosa.feature.melspectrogram(
        y=later,
        sr=16_000,
        n_fft=1024,
        win_length=800,
        hop_length=320,
        center=False,
        n_mels=40,
        fmin=50,
        fmax=7600,
        htk=True,
        norm=None,
    )
    bands = feature_encoder(values)[0].detach()
    expected = (torch.from_numpy(power[:, : bands.shape[1]]) + 0.3).log()
    assert bands.shape == (40, 15)  # floor((5000 - 400) / 320) + 1, as WavLM has
    torch.testing.assert_close(bands * 2.5 + 3.0, expected, atol=0.02, rtol=0.02)


def test_log_mel_encoder_does_not_depend_on_the_batch_but_on_the_level():
    torch.manual_seed(0)
    encoder = SparseMeritEncoder(SparseMeritConfig(**{**SMALL, **LOG_MEL})).eval()
    values, mask = ragged_batch()
    with torch.no_grad():
        together, frame_mask = encoder(values + 5.0 * (1 - mask), mask)  # whatever the padding holds
        alone, _ = encoder(values[1:, :4321])
        louder, _ = encoder(10.0 * values[1:, :4321])
    assert frame_mask.sum(-1).tolist() == [27, 13]
    torch.testing.assert_close(together[-1][1, :13], alone[-1][0], atol=1e-5, rtol=0)
    assert (louder[0] - alone[0]).abs().mean() > 0.01


def test_log_mel_needs_one_number_each():
    with pytest.raises(Exception, match="validate_sparse_merit") as error:
        SparseMeritConfig(**SMALL, feature_encoder="log_mel")
    assert "half the window, hop and bands" in str(error.value)

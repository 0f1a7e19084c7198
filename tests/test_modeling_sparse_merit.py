# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model's contract: what goes in, what comes out, what is paid for, and that padding changes nothing."""

import copy

import pytest
import torch
from transformers import WavLMConfig, WavLMModel

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion, SparseMeritModel

LENGTHS = (16_000, 9_137, 400, 12_001)


LAYOUTS = {
    "published": {},
    "log_mel_and_magnitude": {
        **{"feature_encoder": "log_mel", "conv_kernel": [400], "conv_stride": [320], "conv_dim": [40]},
        **{"enhancement_mask": "magnitude", "n_fft": 512, "win_length": 512},
    },
    "deep_filter": {"enhancement_mask": "deep_filter", "n_fft": 512, "win_length": 512, "hop_length": 256},
}


@pytest.fixture(name="model", params=LAYOUTS)
def small_model(tiny_config, request) -> SparseMeritForSpeechEnhancementAndEmotion:
    torch.manual_seed(0)
    fields = tiny_config.to_dict()
    del fields["num_feat_extract_layers"]  # follows from conv_dim
    config = SparseMeritConfig(**{**fields, **LAYOUTS[request.param]})
    return SparseMeritForSpeechEnhancementAndEmotion(config).eval()


@pytest.fixture(name="batch")
def ragged_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    clean = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator) * mask
    noise = torch.randn(clean.shape, generator=generator) * mask
    return {"input_values": clean + noise, "attention_mask": mask, "clean_values": clean}


def test_outputs_do_not_depend_on_padding(model, batch):
    with torch.no_grad():
        together = model(batch["input_values"], batch["attention_mask"], output_router_logits=True)
        for i, length in enumerate(LENGTHS):
            alone = model(batch["input_values"][i : i + 1, :length], output_router_logits=True)
            torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(
                together.enhanced_values[i, :length], alone.enhanced_values[0], atol=1e-5, rtol=0
            )
            assert (together.enhanced_values[i, length:] == 0).all()
            for task, logits in alone.router_logits.items():
                choice = together.router_logits[task][i, : logits.shape[1]].argmax(-1)
                assert torch.equal(choice, logits[0].argmax(-1))


def test_losses_do_not_depend_on_the_padding(model, batch):
    labels = torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        padded = {name: torch.nn.functional.pad(value, (0, 7000)) for name, value in batch.items()}
        losses = model(**batch, labels=labels).losses
        again = model(**padded, labels=labels).losses
    assert set(losses) == {"emotion", "enhancement", "balance"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, again[name], atol=1e-6, rtol=0)


def test_each_loss_only_where_its_target_was_given(model, batch):
    values, mask, clean = batch["input_values"], batch["attention_mask"], batch["clean_values"]
    labels = torch.tensor([0, 1, 2, -100])
    assert model(values, mask).loss is None
    assert set(model(values, mask, labels=labels).losses) == {"emotion", "balance"}
    assert set(model(values, mask, clean_values=clean).losses) == {"enhancement", "balance"}
    outputs = model(values, mask, labels=labels, clean_values=clean)
    model.config.enhancement_weight, model.config.load_balancing_weight = 2.0, 0.5
    expected = outputs.losses["emotion"] + 2.0 * outputs.losses["enhancement"] + 0.5 * outputs.losses["balance"]
    torch.testing.assert_close(model(values, mask, labels=labels, clean_values=clean).loss, expected)


@pytest.mark.parametrize(("asked", "spared"), [("emotion", "enhancement"), ("enhancement", "emotion")])
def test_a_task_that_is_not_asked_for_costs_nothing(model, batch, asked, spared):
    calls = []
    modules = [model.heads[spared], model.model.integration.routers[spared]]
    for module in modules:
        module.register_forward_hook(lambda *_: calls.append(1))
    outputs = model(batch["input_values"], batch["attention_mask"], tasks=(asked,))
    assert not calls
    assert (outputs.logits is None) == (asked == "enhancement")
    assert (outputs.enhanced_values is None) == (asked == "emotion")


def test_a_model_of_one_task_has_only_its_parts(tiny_config, batch):
    config = copy.deepcopy(tiny_config)
    config.tasks = ["enhancement"]
    model = SparseMeritForSpeechEnhancementAndEmotion(config)
    assert not [name for name, _ in model.named_parameters() if "emotion" in name]
    assert model(batch["input_values"]).logits is None
    with pytest.raises(ValueError, match="emotion.*enhancement"):
        model(batch["input_values"], tasks=("emotion",))


@pytest.mark.parametrize("tasks", [(), ("transcription",), ("emotion", "transcription")])
def test_tasks_that_the_model_lacks_are_an_error_with_heads_and_without(model, batch, tasks):
    for network in (model, model.model):
        with pytest.raises(ValueError, match=r"the tasks of this model, \['enhancement', 'emotion'\]"):
            network(batch["input_values"], tasks=tasks)


def test_shapes(model, batch):
    with torch.no_grad():
        outputs = model(**batch, output_router_logits=True, output_hidden_states=True)
    assert outputs.logits.shape == (4, 4)
    assert outputs.enhanced_values.shape == batch["input_values"].shape
    if model.config.enhancement_mask == "log1p":
        assert outputs.enhanced_log_magnitude.shape == (4, 101, 201)
    assert {task: logits.shape for task, logits in outputs.router_logits.items()} == {
        "enhancement": (4, 49, 3),
        "emotion": (4, 49, 3),
    }
    assert [state.shape for state in outputs.hidden_states] == [(4, 49, 32)] * 3


def test_gradients_reach_every_parameter(model, batch):
    model.train()
    model(**batch, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    unused = {"model.encoder.masked_spec_embed"}  # SpecAugment is off
    unused |= {f"model.encoder.encoder.layer_norm.{name}" for name in ("weight", "bias")}  # only after the last layer
    assert set(missing) == unused == {name for name, p in model.named_parameters() if not p.requires_grad}
    for task in ("enhancement", "emotion"):
        assert model.model.integration.routers[task].weight.grad.abs().max() > 0


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    labels = torch.tensor([0, 1, 2, 3])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train().config.attention_dropout = 0.0
    for layer in model.model.encoder.encoder.layers:
        layer.attention.dropout = 0.0
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(**batch, labels=labels).loss.backward()
        gradients.append(model.model.encoder.feature_projection.projection.weight.grad.clone())
        model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_saving_and_loading_keeps_every_output(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, report = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected, outputs = model(**batch), loaded(**batch)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.enhanced_values, expected.enhanced_values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_close_and_finite(model, batch, dtype):
    with torch.no_grad():
        expected = model(**batch)
        outputs = model.to(dtype)(**batch, labels=torch.tensor([0, 1, 2, 3]))
    assert outputs.enhanced_values.dtype == torch.float32
    assert outputs.loss.isfinite()
    torch.testing.assert_close(outputs.logits.float(), expected.logits, atol=0.05, rtol=0.05)
    torch.testing.assert_close(outputs.enhanced_values, expected.enhanced_values, atol=0.05, rtol=0.05)


def test_autocast_trains(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(**batch, labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_silence_stays_silent(model):
    outputs = model(torch.zeros(1, 4000))
    assert outputs.logits.isfinite().all()
    assert outputs.enhanced_values.abs().max() < 1e-4


def test_from_wavlm_takes_the_encoder_and_keeps_heads_fresh(tmp_path, batch):
    torch.manual_seed(5)
    wavlm = WavLMModel(
        WavLMConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            do_stable_layer_norm=True,
            feat_extract_norm="layer",
        )
    ).eval()
    wavlm.save_pretrained(tmp_path)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_wavlm(tmp_path, expert_hidden_size=48, num_experts=4).eval()
    assert model.config.layerdrop == 0 and not model.config.apply_spec_augment  # WavLM's own defaults are 0.1 and True
    assert model.config.final_dropout == 0.5 and model.config.num_experts == 4
    with torch.no_grad():
        expected = wavlm(batch["input_values"], output_hidden_states=True).hidden_states
        states = model(batch["input_values"], output_hidden_states=True).hidden_states
    for state, reference in zip(states, expected, strict=True):
        torch.testing.assert_close(state, reference, atol=1e-5, rtol=0)


def test_the_base_model_loads_from_a_checkpoint_with_heads(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    base = SparseMeritModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        features = base(batch["input_values"], batch["attention_mask"]).features
        expected = model.model(batch["input_values"], batch["attention_mask"]).features
    assert all(torch.equal(features[task], expected[task]) for task in ("enhancement", "emotion"))

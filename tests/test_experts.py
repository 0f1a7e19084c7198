# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Routers, experts and dispatch: each frame goes where its router says, once, and the router learns."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_sparse_merit.models.sparse_merit import experts as experts_module
from modeling_sparse_merit.models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from modeling_sparse_merit.models.sparse_merit.experts import (
    LayerWeights,
    MixtureOfExperts,
    WeightedSums,
    build_integration,
    load_balancing_loss,
    route_grouped,
    route_sparse,
)

TASKS = ("enhancement", "emotion")


def make_config(**changes) -> SparseMeritConfig:
    return SparseMeritConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, expert_hidden_size=16, **changes
    )


def make_inputs(batch_size: int = 2, length: int = 7) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    layers = tuple(torch.randn(batch_size, length, 8, generator=generator) for _ in range(3))
    frame_mask = torch.arange(length) < torch.tensor([length, length - 3])[:batch_size, None]
    return layers, frame_mask


def make_module(**changes) -> MixtureOfExperts:
    torch.manual_seed(0)
    return build_integration(make_config(**changes))


def plain_loop(module: MixtureOfExperts, inputs: torch.Tensor, task: str, router: str) -> torch.Tensor:
    """Every expert on every frame of one task, then a mask or a weighted sum."""
    probabilities = module.routers[task](inputs).softmax(-1)  # (B, T, N)
    if router == "sparse":
        probabilities = torch.nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()
    outputs = 0.0
    for index, expert in enumerate(module.experts):
        outputs = outputs + probabilities[..., index, None] * expert(inputs)
    return outputs


@pytest.mark.parametrize("router", ["sparse", "dense"])
@pytest.mark.parametrize("num_experts", [1, 3, 5])
def test_dispatch_equals_the_plain_loop_over_all_experts(router, num_experts):
    module = make_module(router=router, num_experts=num_experts)
    layers, frame_mask = make_inputs()
    features, logits = module(layers, frame_mask, TASKS)
    inputs = torch.cat([norm(layer) for norm, layer in zip(module.layer_norms, layers, strict=True)], -1)
    for task in TASKS:
        expected = plain_loop(module, inputs, task, router)
        torch.testing.assert_close(features[task][frame_mask], expected[frame_mask], atol=1e-5, rtol=0)
        assert (features[task][~frame_mask] == 0).all()
        torch.testing.assert_close(logits[task][frame_mask], module.routers[task](inputs)[frame_mask])


def test_an_expert_sees_each_frame_routed_to_it_once_and_no_other():
    module = make_module()
    layers, frame_mask = make_inputs()
    seen = [[] for _ in module.experts]
    for index, expert in enumerate(module.experts):
        expert.register_forward_hook(lambda _, inputs, __, index=index: seen[index].append(inputs[0]))
    _, logits = module(layers, frame_mask, TASKS)
    inputs = torch.cat([norm(layer) for norm, layer in zip(module.layer_norms, layers, strict=True)], -1)
    choices = torch.stack([logits[task].argmax(-1) for task in TASKS])  # (K, B, T)
    for index in range(len(seen)):
        asked = (choices == index).any(0) & frame_mask
        assert len(seen[index]) == 1
        torch.testing.assert_close(seen[index][0], inputs[asked])


@pytest.mark.parametrize("integration", ["experts", "weighted_sum_experts", "expert_weighted_sums"])
@pytest.mark.parametrize("router", ["sparse", "dense"])
def test_inference_equals_training(integration, router):
    module, (layers, frame_mask) = make_module(integration=integration, router=router), make_inputs()
    expected, expected_logits = module(layers, frame_mask, TASKS)
    with torch.inference_mode():
        actual, logits = module(layers, frame_mask, TASKS)
    for task in TASKS:
        torch.testing.assert_close(actual[task], expected[task], atol=1e-6, rtol=0)
        torch.testing.assert_close(logits[task], expected_logits[task], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("router_gradient", "learns"), [("straight_through", True), ("switch", True), ("none", False)]
)
def test_router_gradient(router_gradient, learns):
    module = make_module(router_gradient=router_gradient)
    layers, frame_mask = make_inputs()
    features, _ = module(layers, frame_mask, TASKS)
    sum(feature.square().sum() for feature in features.values()).backward()
    for task in TASKS:
        gradient = module.routers[task].weight.grad
        assert (gradient is not None and gradient.abs().max() > 1e-4) == learns


def test_straight_through_keeps_the_published_forward_pass_and_switch_scales_it():
    experts = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    frames = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    probabilities = torch.tensor([[[0.75, 0.25], [0.4, 0.6]]])
    for router_gradient, scale in {"straight_through": [1.0, 1.0], "none": [1.0, 1.0], "switch": [0.75, 0.6]}.items():
        routed = route_sparse(experts, frames, probabilities, router_gradient)
        torch.testing.assert_close(routed[0], frames * torch.tensor(scale)[:, None])


@pytest.mark.parametrize("router_gradient", ["straight_through", "switch", "none"])
def test_grouped_products_give_the_same_as_the_loop_and_leave_out_padding(router_gradient):
    """What a GPU does: no step waits for a number of frames."""
    torch.manual_seed(1)
    module = make_module(num_experts=4)
    frames, logits = torch.randn(9, 24), torch.randn(2, 9, 4)
    logits[:, :5, 3] = -99.0  # nobody asks expert 3 for the frames that are valid
    valid = torch.tensor([True] * 5 + [False] * 4)
    actual = []
    for is_grouped in (False, True):
        inputs, scores = frames.clone().requires_grad_(), logits.clone().requires_grad_()
        module.zero_grad()
        if is_grouped:
            routed = route_grouped(module.experts, inputs, scores.softmax(-1), router_gradient, valid)
            assert (routed[:, ~valid] == 0).all()
        else:
            routed = route_sparse(module.experts, inputs[valid], scores[:, valid].softmax(-1), router_gradient)
        routed = routed[:, valid] if is_grouped else routed
        routed.square().sum().backward()
        weights = [parameter.grad for parameter in module.experts.parameters()]
        actual.append([routed, inputs.grad, *([] if router_gradient == "none" else [scores.grad]), *weights])
    for one, other in zip(*actual, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("integration", ["experts", "weighted_sum_experts"])
def test_long_recordings_are_routed_in_blocks_to_the_same_end(integration, monkeypatch):
    module, (layers, frame_mask) = make_module(integration=integration), make_inputs()
    at_once, logits_at_once = module(layers, frame_mask, TASKS)
    monkeypatch.setattr(experts_module, "FRAMES_AT_ONCE", 3)
    in_blocks, logits_in_blocks = module(layers, frame_mask, TASKS)
    for task in TASKS:
        torch.testing.assert_close(in_blocks[task], at_once[task], atol=1e-6, rtol=0)
        torch.testing.assert_close(logits_in_blocks[task], logits_at_once[task], atol=1e-6, rtol=0)


def test_an_expert_that_nobody_asked_still_has_a_gradient_of_zero():
    """Distributed training waits for the gradient of every parameter."""
    module = make_module()
    for task in TASKS:
        torch.nn.init.zeros_(module.routers[task].weight)
        module.routers[task].bias.data = torch.tensor([9.0, 0.0, 0.0])
    features, _ = module(*make_inputs(), TASKS)
    sum(feature.sum() for feature in features.values()).backward()
    assert (module.experts[1].input_dense.weight.grad == 0).all()
    assert module.experts[0].input_dense.weight.grad.abs().max() > 0


@pytest.mark.parametrize("integration", ["experts", "weighted_sum_experts", "expert_weighted_sums"])
def test_an_adapter_of_a_router_changes_its_logits_and_learns(integration):
    module, (layers, frame_mask) = make_module(integration=integration), make_inputs()
    _, before = module(layers, frame_mask, TASKS)
    adapted = get_peft_model(module, LoraConfig(r=2, target_modules=["routers.emotion"]))
    _, unchanged = adapted(layers, frame_mask, TASKS)
    torch.testing.assert_close(unchanged, before)  # B of LoRA is 0 at first
    router = module.routers["emotion"]
    torch.nn.init.normal_(router.lora_B["default"].weight)
    features, logits = adapted(layers, frame_mask, TASKS)
    assert (logits["emotion"] - before["emotion"]).abs()[frame_mask].min(0).values.max() > 0
    torch.testing.assert_close(logits["enhancement"], before["enhancement"])
    features["emotion"].square().sum().backward()
    assert router.lora_A["default"].weight.grad.abs().max() > 0


@pytest.mark.parametrize("target", ["input_dense", "output_dense"])
def test_experts_with_adapters_take_no_grouped_products(target, monkeypatch):
    monkeypatch.setattr(experts_module, "can_group", lambda device: True)  # as on a GPU
    module, (layers, frame_mask) = make_module(), make_inputs()
    expected = {task: features.detach() for task, features in module(layers, frame_mask, TASKS)[0].items()}
    adapted = get_peft_model(module, LoraConfig(r=2, target_modules=[target]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    features, _ = adapted(layers, frame_mask, TASKS)
    assert all((features[task] - expected[task]).abs().max() > 1e-3 for task in TASKS)


@pytest.mark.parametrize("router", ["sparse", "dense"])
def test_a_device_with_grouped_products_gives_the_same(router, monkeypatch):
    module, (layers, frame_mask) = make_module(router=router), make_inputs()
    expected, expected_logits = module(layers, frame_mask, TASKS)
    monkeypatch.setattr(experts_module, "can_group", lambda device: True)
    actual, logits = module(layers, frame_mask, TASKS)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=0)


def test_load_balancing_loss_by_hand():
    # Two valid frames, both to expert 0 with p = (0.75, 0.25): 2 * (1 * 0.75 + 0 * 0.25) = 1.5; padding is ignored.
    logits = torch.tensor([[[3.0, 1.0], [3.0, 1.0], [0.0, 99.0]]]).log()
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(load_balancing_loss(logits, mask), torch.tensor(1.5))
    # One frame each way: 2 * (0.5 * 0.5 + 0.5 * 0.5) = 1, the least there is.
    even = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]]).log()
    torch.testing.assert_close(load_balancing_loss(even, torch.ones(1, 2, dtype=torch.bool)), torch.tensor(1.0))


def test_layer_weights_are_a_softmax():
    weights = LayerWeights(2)
    weights.weight.data = torch.tensor([0.0, 3.0]).exp().log()
    layers = torch.tensor([[[1.0], [2.0]]])  # (1, L, 1)
    share = torch.tensor(3.0).sigmoid()
    torch.testing.assert_close(weights(layers), (1 + share)[None, None])


@pytest.mark.parametrize("integration", ["weighted_sum", "weighted_sum_experts", "expert_weighted_sums"])
def test_the_other_integrations_ignore_padding_and_learn(integration):
    module = make_module(integration=integration)
    layers, frame_mask = make_inputs()
    features, logits = module(layers, frame_mask, TASKS)
    alone, _ = module(tuple(layer[1:, :4] for layer in layers), frame_mask[1:, :4], TASKS)
    for task in TASKS:
        torch.testing.assert_close(features[task][1, :4], alone[task][0], atol=1e-6, rtol=0)
        assert (features[task][~frame_mask] == 0).all()
    sum(feature.square().sum() for feature in features.values()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert isinstance(module, WeightedSums) == (logits == {})

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The integration box of the figure: layer outputs to task features, by routers and shared experts."""

import torch
from torch import nn


class LayerNorms(nn.ModuleList):
    """A LayerNorm(D) of its own for each of the L layer outputs: L tensors (B, T, D) -> L tensors (B, T, D)."""

    def __init__(self, config):
        norms = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(config.num_layer_outputs))
        super().__init__(norms)

    def forward(self, layer_outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [norm(output) for norm, output in zip(self, layer_outputs, strict=True)]


class LayerWeights(nn.Module):
    """A learned convex combination of the layers: (..., L, D) -> (..., D), weights = softmax of one number a layer."""

    def __init__(self, num_layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_layers))

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float().softmax(0).to(layers.dtype)
        return torch.einsum("l,...ld->...d", weight, layers)


class FeedForwardExpert(nn.Module):
    """Linear, ReLU, Linear: (M, in) -> (M, D)."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int):
        super().__init__()
        self.input_dense = nn.Linear(input_size, hidden_size)
        self.output_dense = nn.Linear(hidden_size, output_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.output_dense(self.input_dense(frames).relu())


class WeightedSumExpert(LayerWeights):
    """An expert that is only a learned sum of layers: (M, L * D) -> (M, D)."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return super().forward(frames.unflatten(-1, (self.weight.shape[0], -1)))  # (M, L * D) -> (M, L, D)


def route_dense(experts: nn.ModuleList, frames: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Probability-weighted sum of all experts: frames (M, in), probabilities (K, M, N) -> (K, M, D) for K tasks."""
    outputs = torch.stack([expert(frames) for expert in experts], dim=1)  # (M, N, D)
    return torch.einsum("kmn,mnd->kmd", probabilities.to(outputs.dtype), outputs)


def route_sparse(
    experts: nn.ModuleList, frames: torch.Tensor, probabilities: torch.Tensor, router_gradient: str
) -> torch.Tensor:
    """
    Top-1 routing. An expert computes the frames that at least one task gave to it, each once, whichever tasks asked.

    Args:
        experts: N modules, each (m, in) -> (m, D).
        frames: (M, in).
        probabilities: (K, M, N), for each of K tasks.
        router_gradient: See [`SparseMeritConfig`]. "straight_through" multiplies by 1 + p - stop_gradient(p) = 1.

    Returns:
        (K, M, D).
    """
    top_probability, choice = probabilities.max(dim=-1)  # (K, M)
    outputs = 0.0
    for index, expert in enumerate(experts):
        chosen = choice == index  # (K, M)
        rows = chosen.any(dim=0).nonzero().squeeze(-1)  # (m,)
        result = expert(frames[rows]) * chosen[:, rows, None]  # (K, m, D), zero where the task chose another expert
        outputs = outputs + result.new_zeros(*choice.shape, result.shape[-1]).index_copy(1, rows, result)
    if router_gradient == "none":
        return outputs
    if router_gradient == "straight_through":
        top_probability = 1.0 + top_probability - top_probability.detach()
    return outputs * top_probability[..., None].to(outputs.dtype)


def load_balancing_loss(router_logits: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """
    Switch load balancing (arXiv 2101.03961, equation 4): N * sum_i f_i * P_i, where f_i is the share of the frames
    that are routed to expert i and P_i is its mean probability. It is 1 when the load is even, and at most N.

    Args:
        router_logits: (B, T, N).
        frame_mask: (B, T), true for the frames that count.

    Returns:
        A scalar in fp32.
    """
    probabilities = router_logits[frame_mask].float().softmax(-1)  # (M, N)
    num_experts = probabilities.shape[-1]
    share = nn.functional.one_hot(probabilities.argmax(-1), num_experts).float().mean(0)
    return num_experts * (share * probabilities.mean(0)).sum()


def count_routed_frames(router_logits: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """How many valid frames of each clip go to each expert: (B, T, N), (B, T) -> (B, N)."""
    chosen = nn.functional.one_hot(router_logits.argmax(-1), router_logits.shape[-1])  # (B, T, N)
    return (chosen * frame_mask[..., None]).sum(1)


class MixtureOfExperts(nn.Module):
    """Experts shared by all tasks, and one router for each task (paper, section III-B)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, layers = config.hidden_size, config.num_layer_outputs
        self.layer_norms = LayerNorms(config)
        self.layer_weights = LayerWeights(layers) if config.integration == "weighted_sum_experts" else None
        input_size = width if config.integration == "weighted_sum_experts" else layers * width
        self.routers = nn.ModuleDict({task: nn.Linear(input_size, config.num_experts) for task in config.tasks})
        if config.integration == "expert_weighted_sums":
            experts = (WeightedSumExpert(layers) for _ in range(config.num_experts))
        else:
            hidden = config.expert_hidden_size
            experts = (FeedForwardExpert(input_size, hidden, width) for _ in range(config.num_experts))
        self.experts = nn.ModuleList(experts)

    def forward(
        self, layer_outputs: tuple[torch.Tensor, ...], frame_mask: torch.Tensor, tasks: tuple[str, ...]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """L layer outputs (B, T, D), mask (B, T) -> features {task: (B, T, D)}, router logits {task: (B, T, N)}."""
        layers = self.layer_norms(layer_outputs)
        if self.layer_weights is None:
            inputs = torch.cat(layers, dim=-1)  # (B, T, L * D)
        else:
            inputs = self.layer_weights(torch.stack(layers, dim=-2))  # (B, T, D)
        frames = inputs[frame_mask]  # (B, T, in) -> (M, in): padding never reaches an expert
        logits = torch.stack([self.routers[task](frames) for task in tasks])  # (K, M, N)
        probabilities = logits.float().softmax(-1)
        if self.config.router == "dense":
            routed = route_dense(self.experts, frames, probabilities)
        else:
            routed = route_sparse(self.experts, frames, probabilities, self.config.router_gradient)
        features = {task: _unpack(frame_mask, routed[i]) for i, task in enumerate(tasks)}
        return features, {task: _unpack(frame_mask, logits[i]) for i, task in enumerate(tasks)}


class WeightedSums(nn.Module):
    """Naive multi-task integration: each task has its own layer norms and learned sum of layers, no experts."""

    def __init__(self, config):
        super().__init__()
        self.layer_norms = nn.ModuleDict({task: LayerNorms(config) for task in config.tasks})
        self.layer_weights = nn.ModuleDict({task: LayerWeights(config.num_layer_outputs) for task in config.tasks})

    def forward(
        self, layer_outputs: tuple[torch.Tensor, ...], frame_mask: torch.Tensor, tasks: tuple[str, ...]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """As [`MixtureOfExperts`], with no router logits."""
        features = {}
        for task in tasks:
            layers = torch.stack(self.layer_norms[task](layer_outputs), dim=-2)  # (B, T, L, D)
            features[task] = self.layer_weights[task](layers).masked_fill(~frame_mask[..., None], 0.0)
        return features, {}


def build_integration(config) -> nn.Module:
    """The module that `config.integration` names."""
    return WeightedSums(config) if config.integration == "weighted_sum" else MixtureOfExperts(config)


def _unpack(frame_mask: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    padded = frames.new_zeros(*frame_mask.shape, frames.shape[-1])
    return padded.masked_scatter(frame_mask[..., None], frames)  # (M, C) -> (B, T, C)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Integration of layer outputs into task features by routers and shared experts (paper, section III-B)."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_sparse_merit import SparseMeritConfig
from .encoder import is_plain
from .processes import shared_count, shared_mean

FRAMES_AT_ONCE = 1024  # whose L layer outputs are concatenated at once, which bounds the memory


class LayerNorms(nn.ModuleList):
    """A LayerNorm(D) of its own for each of the L layer outputs: L tensors (..., D) -> L tensors (..., D)."""

    def __init__(self, config: SparseMeritConfig):
        norms = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(config.num_layer_outputs))
        super().__init__(norms)

    def forward(self, layer_outputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """L tensors (..., D) -> L tensors (..., D)."""
        return [norm(output) for norm, output in zip(self, layer_outputs, strict=True)]


class LayerFrames:
    """
    Input of routers and experts, (M, L * D): the L layer outputs, each after its own LayerNorm, concatenated.

    Frames are computed when they are indexed: all at once would need as much memory as the layer outputs.

    Args:
        layer_norms: One for each of the L layers.
        layer_outputs: L tensors (B, T, D).
        rows: (M,), indices of the frames among all B * T.
    """

    def __init__(self, layer_norms: LayerNorms, layer_outputs: tuple[torch.Tensor, ...], rows: torch.Tensor):
        self.layer_norms, self.layer_outputs, self.rows = layer_norms, layer_outputs, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: torch.Tensor | slice) -> torch.Tensor:
        """The frames at some places: (m,) or a slice -> (m, L * D)."""
        rows = self.rows[places]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.cat(list(self.layers(rows)), dim=-1)
        frames = self.layer_outputs[0].new_empty(len(rows), len(self.layer_norms), self._width)
        for place, layer in zip(frames.unbind(1), self.layers(rows), strict=True):  # one copy
            place.copy_(layer)
        return frames.flatten(1)  # (m, L, D) -> (m, L * D)

    def layers(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Normalised outputs of each layer for some rows: (m,) of all B * T -> L tensors (m, D)."""
        for norm, output in zip(self.layer_norms, self.layer_outputs, strict=True):
            yield norm(output.flatten(0, 1)[rows])

    def linear(self, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """
        A linear layer applied to all frames, one encoder layer at a time.

        Args:
            weight: (out, L * D).
            bias: (out,).

        Returns:
            (M, out) in fp32.
        """
        product = bias.float()
        for layer, part in zip(
            self.layers(self.rows), weight.split(self._width, dim=1), strict=True
        ):  # (M, D), (out, D)
            product = product + F.linear(layer, part)
        return product

    @property
    def _width(self) -> int:
        return self.layer_outputs[0].shape[-1]


class LayerWeights(nn.Module):
    """A learned convex combination of the layers: (..., L, D) -> (..., D), softmax weights."""

    def __init__(self, num_layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_layers))

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """(..., L, D) -> (..., D)."""
        weight = self.weight.float().softmax(0).to(layers.dtype)
        return torch.einsum("l,...ld->...d", weight, layers)


class FeedForwardExpert(nn.Module):
    """
    Linear, ReLU, Linear.

    Args:
        input_size: Width of the input.
        hidden_size: Width of the hidden layer.
        output_size: D, width of the output.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int):
        super().__init__()
        self.input_dense = nn.Linear(input_size, hidden_size)
        self.output_dense = nn.Linear(hidden_size, output_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(M, in) -> (M, D)."""
        return self.output_dense(self.input_dense(frames).relu())


class WeightedSumExpert(LayerWeights):
    """An expert that is a learned weighted sum of layers (an ablation of the paper)."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(M, L * D) -> (M, D)."""
        return super().forward(frames.unflatten(-1, (self.weight.shape[0], -1)))  # (M, L * D) -> (M, L, D)


def route_dense(experts: nn.ModuleList, frames: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """
    Dense routing: the sum of all experts, weighted by their probabilities.

    Args:
        experts: N modules, each (M, in) -> (M, D).
        frames: (M, in).
        probabilities: (K, M, N), for each of K tasks.

    Returns:
        (K, M, D).
    """
    outputs = torch.stack([expert(frames) for expert in experts], dim=1)  # (M, N, D)
    return torch.einsum("kmn,mnd->kmd", probabilities.to(outputs.dtype), outputs)


def route_sparse(
    experts: nn.ModuleList, frames: torch.Tensor | LayerFrames, probabilities: torch.Tensor, router_gradient: str
) -> torch.Tensor:
    """
    Top-1 routing. Each expert computes the frames that at least one task routes to it, each frame once.

    Args:
        experts: N modules, each (m, in) -> (m, D).
        frames: (M, in).
        probabilities: (K, M, N), for each of K tasks.
        router_gradient: See [`SparseMeritConfig`]. "straight_through" multiplies by 1 + p - stop_gradient(p) = 1.

    Returns:
        (K, M, D).
    """
    probability, choice = probabilities.max(dim=-1)  # (K, M)
    routed = (choice[..., None] == torch.arange(len(experts), device=choice.device)).any(0).T  # (N, M)
    place = routed.flatten().cumsum(0).view_as(routed) - 1  # (N, M): row of expert and frame in `outputs`
    outputs = torch.cat([expert(frames[chosen]) for expert, chosen in zip(experts, routed, strict=True)])  # (pairs, D)
    return _scaled(outputs[place.gather(0, choice)], probability, router_gradient)


def route_grouped(
    experts: nn.ModuleList,
    frames: torch.Tensor,
    probabilities: torch.Tensor,
    router_gradient: str,
    valid: torch.Tensor,
) -> torch.Tensor:
    """
    As [`route_sparse`], by two grouped matrix products and without a device sync: no size depends on the routing. Rows
    that no task uses are sorted behind the last group, where nothing is computed.

    Args:
        experts: N feed-forward experts.
        frames, probabilities, router_gradient: As in [`route_sparse`].
        valid: (M,), false for frames that need no expert; their result is 0.

    Returns:
        (K, M, D).
    """
    probability, choice = probabilities.max(dim=-1)  # (K, M)
    same = choice[:, None] == choice  # (K, K, M)
    owner = same.int().argmax(1)  # (K, M): the first task that routes this frame to this expert
    first = owner == torch.arange(len(choice), device=choice.device)[:, None]
    number = choice.masked_fill(~(first & valid), len(experts)).flatten()  # (K * M,) expert, N for none
    order = number.argsort(stable=True)
    ends = torch.searchsorted(number[order], torch.arange(1, len(experts) + 1, device=order.device), out_int32=True)
    unused = (number[order] == len(experts))[:, None]
    group = number[order].clamp(max=len(experts) - 1)
    hidden = frames[order % len(frames)].masked_fill(unused, 0.0)  # (K * M, in)
    for name in ("input_dense", "output_dense"):
        hidden = hidden.relu() if name == "output_dense" else hidden
        weight = torch.stack([getattr(expert, name).weight for expert in experts]).transpose(1, 2)  # (N, in, out)
        bias = torch.stack([getattr(expert, name).bias for expert in experts])  # (N, out)
        hidden = F.grouped_mm(hidden, weight, offs=ends) + bias[group]
        hidden = hidden.masked_fill(unused, 0.0)  # rows that grouped_mm leaves uninitialised, backward too
    outputs = hidden[order.argsort()].unflatten(0, choice.shape)  # (K, M, D)
    outputs = outputs.gather(0, owner[..., None].expand_as(outputs))
    return _scaled(outputs, probability, router_gradient)


def can_group(device: torch.device) -> bool:
    """Whether torch has a grouped matrix product for this device: CUDA with compute capability 8.0 or higher."""
    if device.type != "cuda" or not hasattr(F, "grouped_mm"):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _scaled(outputs: torch.Tensor, probability: torch.Tensor, router_gradient: str) -> torch.Tensor:
    """Expert outputs (K, M, D) times the factor (K, M) that carries the gradient of the router."""
    if router_gradient == "none":
        return outputs
    if router_gradient == "straight_through":
        if not torch.is_grad_enabled():
            return outputs
        probability = 1.0 + probability - probability.detach()
    return outputs * probability[..., None].to(outputs.dtype)


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
    probabilities = router_logits.float().softmax(-1) * frame_mask[..., None]  # (B, T, N)
    num_experts, num_frames = probabilities.shape[-1], shared_count(frame_mask.sum())
    share = shared_mean(count_routed_frames(router_logits, frame_mask).sum(0)) / num_frames  # (N,)
    return num_experts * (share * probabilities.sum((0, 1)) / num_frames).sum()


def expert_use(router_logits: torch.Tensor, router: str) -> torch.Tensor:
    """
    The share of each expert in each frame: 1 for the chosen expert of a sparse router; the weights of a dense one.

    Args:
        router_logits: (B, T, N).
        router: See [`SparseMeritConfig`].

    Returns:
        (B, T, N) in fp32.
    """
    if router == "dense":
        return router_logits.float().softmax(-1)
    experts = torch.arange(router_logits.shape[-1], device=router_logits.device)
    return (router_logits.argmax(-1, keepdim=True) == experts).float()


def count_routed_frames(router_logits: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """
    Counts the valid frames of each clip that are routed to each expert.

    Args:
        router_logits: (B, T, N).
        frame_mask: (B, T), true for the frames that count.

    Returns:
        (B, N).
    """
    chosen = expert_use(router_logits, "sparse") > 0  # (B, T, N)
    return (chosen * frame_mask[..., None]).sum(1)


class MixtureOfExperts(nn.Module):
    """Experts shared by all tasks, and one router for each task (paper, section III-B)."""

    def __init__(self, config: SparseMeritConfig):
        super().__init__()
        self.config = config
        width, layers = config.hidden_size, config.num_layer_outputs
        self.layer_norms = LayerNorms(config)
        self.layer_weights = LayerWeights(layers) if config.integration == "weighted_sum_experts" else None
        input_size = width if config.integration == "weighted_sum_experts" else layers * width
        self.routers = nn.ModuleDict({task: nn.Linear(input_size, config.num_experts) for task in config.tasks})
        experts: Iterator[nn.Module]
        if config.integration == "expert_weighted_sums":
            experts = (WeightedSumExpert(layers) for _ in range(config.num_experts))
        else:
            hidden = config.expert_hidden_size
            experts = (FeedForwardExpert(input_size, hidden, width) for _ in range(config.num_experts))
        self.experts = nn.ModuleList(experts)

    def forward(
        self, layer_outputs: tuple[torch.Tensor, ...], frame_mask: torch.Tensor, tasks: tuple[str, ...]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        Args:
            layer_outputs: L tensors (B, T, D).
            frame_mask: (B, T), true for the frames that belong to the recording.
            tasks: The tasks to compute.

        Returns:
            Features {task: (B, T, D)}, 0 in the padding, and router logits {task: (B, T, N)}.
        """
        is_grouped = can_group(frame_mask.device) and self._is_groupable()
        if is_grouped:  # padding frames are kept: dropping them would need a device sync
            rows = torch.arange(frame_mask.numel(), device=frame_mask.device)
        else:
            rows = frame_mask.flatten().nonzero().squeeze(-1)  # (M,)
        blocks = []
        for block in [rows] if torch.compiler.is_compiling() else rows.split(FRAMES_AT_ONCE):
            frames = self._frames(layer_outputs, block)
            logits = self._router_logits(frames, tasks)  # (K, m, N)
            blocks.append((self._route(frames, logits, frame_mask.flatten()[block] if is_grouped else None), logits))
        routed, logits = (torch.cat(each, dim=1) for each in zip(*blocks, strict=True))  # (K, M, D), (K, M, N)
        features = {task: _unpack(frame_mask, rows, routed[i]) for i, task in enumerate(tasks)}
        return features, {task: _unpack(frame_mask, rows, logits[i]) for i, task in enumerate(tasks)}

    def _frames(self, layer_outputs: tuple[torch.Tensor, ...], rows: torch.Tensor) -> torch.Tensor | LayerFrames:
        """Input of routers and experts for some frames: indices (m,) among all B * T -> (m, in)."""
        frames = LayerFrames(self.layer_norms, layer_outputs, rows)
        return (
            frames
            if self.layer_weights is None
            else self.layer_weights(torch.stack(list(frames.layers(rows)), dim=-2))
        )

    def _router_logits(self, frames: torch.Tensor | LayerFrames, tasks: tuple[str, ...]) -> torch.Tensor:
        """Frames (m, in) -> (K, m, N), by one product for all tasks; routers with adapters are called one by one."""
        routers = [self.routers[task] for task in tasks]
        if not all(is_plain(router, nn.Linear) for router in routers):
            inputs = frames[:]  # (m, in)
            return torch.stack([router(inputs) for router in routers])
        weight, bias = (torch.cat([getattr(router, name) for router in routers]) for name in ("weight", "bias"))
        linear = frames.linear if isinstance(frames, LayerFrames) else partial(F.linear, frames)
        return linear(weight, bias).unflatten(-1, (len(tasks), -1)).transpose(0, 1)  # (m, K * N) -> (K, m, N)

    def _route(
        self, frames: torch.Tensor | LayerFrames, logits: torch.Tensor, valid: torch.Tensor | None
    ) -> torch.Tensor:
        """Frames (m, in), router logits (K, m, N) -> (K, m, D)."""
        probabilities = logits.float().softmax(-1)
        if self.config.router == "dense":
            return route_dense(self.experts, frames[:], probabilities)
        if valid is not None:
            return route_grouped(self.experts, frames[:], probabilities, self.config.router_gradient, valid)
        return route_sparse(self.experts, frames, probabilities, self.config.router_gradient)

    def _is_groupable(self) -> bool:
        """Whether routing is sparse and the experts are plain linear layers, without adapters or hooks."""
        return self.config.router == "sparse" and all(
            is_plain(expert, FeedForwardExpert) and all(is_plain(layer, nn.Linear) for layer in expert.children())
            for expert in self.experts
        )


class WeightedSums(nn.Module):
    """Naive multi-task integration: layer norms and a learned sum of layers for each task, no experts."""

    def __init__(self, config: SparseMeritConfig):
        super().__init__()
        self.layer_norms = nn.ModuleDict({task: LayerNorms(config) for task in config.tasks})
        self.layer_weights = nn.ModuleDict({task: LayerWeights(config.num_layer_outputs) for task in config.tasks})

    def forward(
        self, layer_outputs: tuple[torch.Tensor, ...], frame_mask: torch.Tensor, tasks: tuple[str, ...]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        Args:
            layer_outputs: L tensors (B, T, D).
            frame_mask: (B, T), true for the frames that belong to the recording.
            tasks: The tasks to compute.

        Returns:
            Features {task: (B, T, D)}, 0 in the padding, and no router logits.
        """
        features = {}
        for task in tasks:
            layers = torch.stack(self.layer_norms[task](layer_outputs), dim=-2)  # (B, T, L, D)
            features[task] = self.layer_weights[task](layers).masked_fill(~frame_mask[..., None], 0.0)
        return features, {}


class LastLayer(nn.Module):
    """No integration: the features of every task are the last of the layer outputs, without any parameters."""

    def forward(
        self, layer_outputs: tuple[torch.Tensor, ...], frame_mask: torch.Tensor, tasks: tuple[str, ...]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """
        Args:
            layer_outputs: Tensors (B, T, D).
            frame_mask: (B, T), true for the frames that belong to the recording.
            tasks: The tasks to compute.

        Returns:
            Features {task: (B, T, D)}, 0 in the padding, and no router logits.
        """
        features = layer_outputs[-1].masked_fill(~frame_mask[..., None], 0.0)
        return dict.fromkeys(tasks, features), {}


def build_integration(config: SparseMeritConfig) -> nn.Module:
    """The module that `config.integration` selects."""
    if config.integration == "last_layer":
        return LastLayer()
    return WeightedSums(config) if config.integration == "weighted_sum" else MixtureOfExperts(config)


def _unpack(frame_mask: torch.Tensor, rows: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Frames (M, C) at the rows (M,) of all B * T -> (B, T, C), 0 in the padding."""
    padded = frames.new_zeros(frame_mask.numel(), frames.shape[-1]).index_copy(0, rows, frames)
    return padded.unflatten(0, frame_mask.shape) * frame_mask[..., None]

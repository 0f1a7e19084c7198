# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Calibration of the layer norms that feed routers and experts, on the first batches of a training.

Hidden states of a pretrained encoder share a large mean vector and have uneven scales even after a layer norm. Experts
learn slowly from them: their outputs, and the choice of the expert, hardly differ between frames.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.nn import functional as F

from ..models.sparse_merit.experts import LayerNorms
from .lora import TrainedModel, without_adapters

SMALLEST_DEVIATION = 1e-3


@torch.no_grad()
def calibrate_fusion(
    accelerator: Accelerator,
    model: TrainedModel,
    loader: Iterable[dict[str, Any]],
    num_batches: int,
) -> None:
    """
    Sets the weight and bias of each layer norm of the layer fusion to 1 / std and -mean / std, so that each dimension
    of its output is standardised over the frames of some batches. They stay trainable and are saved with the model.

    Args:
        accelerator: Has the device, and adds up the statistics of all processes.
        model: The model, before it is prepared.
        loader: Prepared training batches.
        num_batches: How many batches each process uses.
    """
    plain = without_adapters(model)
    plain.to(accelerator.device).eval()
    sums: list[torch.Tensor] = []
    for batch in islice(loader, num_batches):
        layer_outputs, frame_mask, *_ = plain.model.encoder(batch["input_values"], batch["attention_mask"])
        moments = [_moments(states[frame_mask]) for states in layer_outputs]
        sums = [known + added for known, added in zip(sums, moments, strict=True)] if sums else moments
    sums = accelerator.reduce(sums, "sum")
    for norms in _fusion_norms(plain.model.integration):
        for norm, (count, total, squares) in zip(map(_trained, norms), sums, strict=True):
            mean = total / count  # (D,)
            std = (squares / count - mean.square()).clamp(min=SMALLEST_DEVIATION**2).sqrt()
            norm.weight.copy_(1 / std)
            norm.bias.copy_(-mean / std)


def _trained(norm: nn.Module) -> nn.LayerNorm:
    """The layer norm itself or, next to adapters, the copy of it that is trained."""
    if isinstance(norm, ModulesToSaveWrapper):
        norm = norm.modules_to_save[norm.active_adapters[0]]
    assert isinstance(norm, nn.LayerNorm)
    return norm


def _moments(frames: torch.Tensor) -> torch.Tensor:
    """(frames, D) -> (3, D) in float64: their number, sum and sum of squares after a layer norm."""
    normed = F.layer_norm(frames.float(), frames.shape[-1:]).double()
    return torch.stack([torch.full_like(normed[0], len(normed)), normed.sum(0), normed.square().sum(0)])


def _fusion_norms(integration: nn.Module) -> Iterator[LayerNorms]:
    """The layer norms of experts and routers, or those of each task's weighted sum."""
    yield from (module for module in integration.modules() if isinstance(module, LayerNorms))

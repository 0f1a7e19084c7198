# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Losses over the clips of all processes of a distributed training, so that it equals that of one process."""

import torch
from torch.nn import functional


def gather_clips(values: torch.Tensor, fill: float) -> torch.Tensor:
    """
    The clips of all processes, (B, K) -> (processes * most, K), differentiable; unchanged on one process.

    Each process computes the same loss from them. The gradient of its own clips is the sum over processes, and the
    distributed training averages over processes, so the gradient is that of the loss.

    Args:
        values: (B, K).
        fill: What the values of a process with fewer clips than another are filled up with.
    """
    if not _are_several():
        return values
    from torch.distributed.nn.functional import all_gather  # not in all builds of torch

    most = torch.tensor(len(values), device=values.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    missing = int(most) - len(values)
    return torch.cat(all_gather(functional.pad(values, (0, 0, 0, missing), value=fill).contiguous()))


def shared_mean(values: torch.Tensor) -> torch.Tensor:
    """
    The mean of numbers over all processes, in fp32 and without a gradient. Where no gradient is computed, it is that
    of this process alone: validations do not wait for each other.

    Args:
        values: Of any shape, the same in every process.
    """
    shared = values.detach().float()
    if torch.is_grad_enabled() and _are_several():
        shared = shared.clone()
        torch.distributed.all_reduce(shared)
        shared = shared / torch.distributed.get_world_size()
    return shared


def shared_count(count: torch.Tensor) -> torch.Tensor:
    """
    The number by which a sum over the clips or the frames of this process is divided: its [`shared_mean`], and 1 where
    that is 0.

    The distributed training averages over processes, so the average of these quotients is the mean over the clips of
    all of them, however many each has.

    Args:
        count: Numbers or weights, of any shape.
    """
    shared = shared_mean(count)
    return shared.where(shared > 0, 1.0)


def _are_several() -> bool:
    """Whether this is one of several processes of a training."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()

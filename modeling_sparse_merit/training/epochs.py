# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""An epoch that may be interrupted: the sums of its values, the rest of its batches, and the names of its clips."""

import copy
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches

from .cascade import CleanedLoader
from .feature_cache import CachedLoader


class Sums:
    """
    Means of values over the batches of an epoch, over all processes.

    Args:
        start: {name: [sum, number]} of batches that were summed before.
    """

    def __init__(self, start: dict[str, list[float]]):
        self.values: dict[str, tuple[torch.Tensor | float, int]] = {
            name: (total, int(number)) for name, (total, number) in start.items()
        }

    def add(self, name: str, value: torch.Tensor) -> None:
        """
        Adds a value of this process.

        Args:
            name: Its name.
            value: A scalar.
        """
        total, number = self.values.get(name, (0.0, 0))
        self.values[name] = (total + value.detach().float(), number + 1)

    def gathered(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """{name: [sum, number]} over all processes."""
        tensors = {
            name: torch.stack([torch.as_tensor(total, dtype=torch.float32).cpu(), torch.tensor(float(number))])
            for name, (total, number) in sorted(self.values.items())  # the same order in all processes
        }
        moved = {name: tensor.to(accelerator.device) for name, tensor in tensors.items()}
        return {name: tensor.tolist() for name, tensor in accelerator.reduce(moved, "sum").items()}


def without_first(loader: Any, batches: int) -> Any:
    """
    A prepared loader, or one around it, without the first batches of its epoch, which are not decoded.

    Args:
        loader: The loader.
        batches: How many are left out.
    """
    if isinstance(loader, (CachedLoader, CleanedLoader)):
        rest = copy.copy(loader)
        rest.loader = without_first(loader.loader, batches)
        return rest
    return skip_first_batches(loader, batches)


def clips_of_batches(loader: Any, batches: Iterable[int]) -> list[str]:
    """
    The names of the clips in some batches of this process and epoch.

    Args:
        loader: Prepared training batches.
        batches: The numbers of the batches, without gaps.
    """
    while not hasattr(loader, "batch_sampler"):  # around the loader of torch
        loader = loader.loader
    numbers = list(batches)
    chosen = islice(iter(loader.batch_sampler), numbers[0], numbers[-1] + 1)
    return [loader.dataset.name_of(item) for batch in chosen for item in batch]

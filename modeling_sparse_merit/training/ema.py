# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The moving average of the weights that is validated."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .lora import TrainedModel


class MovingAverage(AveragedModel):
    """
    `AveragedModel` with an exponential average. The parent reads a counter from the device at every step, a device
    sync on a GPU; this class does so at its first step only.

    Args:
        model: The model to average; the average starts as a copy of it.
        decay: Decay of the average per step.
    """

    module: TrainedModel

    def __init__(self, model: TrainedModel, decay: float):
        average = get_ema_multi_avg_fn(decay)
        super().__init__(model, multi_avg_fn=average)
        self._average = average
        self.started = False

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Moves the average towards the weights of `model`; the first call copies them."""
        if not self.started:
            super().update_parameters(model)
            self.started = True
            return
        self._average(list(self.module.parameters()), list(model.parameters()), None)
        for own, current in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(current)
        self.n_averaged += 1

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The objective of a run: the losses of the tasks, and those of pre-training or distillation."""

from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..models.sparse_merit.tasks import EMOTION
from .balancing import FixedWeights, LearnedWeights, build_balancing
from .descriptors import DescriptorHead, descriptor_loss
from .distillation import DistillationObjective
from .lora import TrainedModel, without_adapters
from .settings import TrainingSettings


class DescriptorObjective(LearnedWeights):
    """
    `descriptor_weight`: the fixed sum of the tasks' losses, plus that weight times the descriptor loss.

    A linear layer, which is not part of the model, predicts the descriptors from the features of the emotion task, so
    that encoder, router and experts learn to represent them.

    Args:
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.
        weight: Weight of the descriptor loss.
    """

    def __init__(self, accelerator: Accelerator, model: TrainedModel, weight: float):
        super().__init__(accelerator, model, DescriptorHead(without_adapters(model).config.hidden_size))
        self.weight = weight

    def through(self, model: nn.Module) -> Any:
        return partial(self._forward, model)

    def _forward(self, model: nn.Module, descriptors: torch.Tensor, **batch: Any) -> Any:
        outputs = model(**batch, output_features=True)
        frames = ~descriptors[..., -1].isnan()  # padding, and clips without descriptors
        loss = descriptor_loss(self.prepared(outputs.features[EMOTION]), descriptors, frames)
        outputs.losses["descriptors"] = loss
        outputs.loss = outputs.loss + self.weight * loss
        return outputs


def build_objective(settings: TrainingSettings, accelerator: Accelerator, model: TrainedModel) -> FixedWeights:
    """
    The objective of a run: the balanced losses of the tasks, or their fixed sum with the loss of the descriptors or of
    the distillation.

    Args:
        settings: Settings of the run.
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.

    Raises:
        ValueError: There is nothing to balance, or teacher and student do not fit.
    """
    if settings.descriptor_weight:
        return DescriptorObjective(accelerator, model, settings.descriptor_weight)
    if settings.teacher:
        return DistillationObjective(settings, accelerator, model)
    return build_balancing(settings, accelerator, model)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Combines the losses of several tasks into one gradient: by fixed weights, learned uncertainties, or projection."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_model
from torch import nn

from ..models.sparse_merit.modeling_sparse_merit import SparseMeritOutput
from ..models.sparse_merit.tasks import Task
from .checkpoints import BALANCING_FILE
from .lora import TrainedModel, without_adapters
from .settings import TrainingSettings


class FixedWeights:
    """
    `task_balancing: fixed`: the weighted sum that the model forms itself (paper, section III).

    Args:
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.
    """

    def __init__(self, accelerator: Accelerator, model: TrainedModel):
        self.accelerator, self.model = accelerator, model

    def parameters(self) -> list[nn.Parameter]:
        """Parameters that are trained along with those of the model."""
        return []

    def prepare(self) -> None:
        """Prepares these parameters with the accelerator; after the model, at the start of each stage."""

    def load(self, checkpoint: Path) -> None:
        """Loads these parameters from a checkpoint."""

    def calibrate(self, loader: Iterable[dict[str, Any]]) -> None:
        """Measures statistics on the first (prepared) batches, before training starts."""

    def through(self, model: nn.Module) -> nn.Module:
        """The callable that takes the batches: the prepared model."""
        return model

    def backward(self, outputs: SparseMeritOutput) -> torch.Tensor:
        """Accumulates the gradient of one batch. Returns the loss that is minimised, a scalar."""
        assert outputs.loss is not None  # batches have targets
        self.accelerator.backward(outputs.loss)
        return outputs.loss

    def finish(self, step: int) -> None:
        """Turns the accumulated gradients into the gradient of optimizer step `step`."""

    def report(self) -> dict[str, torch.Tensor]:
        """Values of this step for the log, scalars."""
        return {}


class UncertaintyLoss(nn.Module):
    """
    Losses weighted by learned uncertainties (Kendall, Gal, Cipolla: CVPR 2018, equation 10), with s = log(sigma^2):

        sum of exp(-s) * L + s / 2        over the classifications and embeddings
             + exp(-s) / 2 * L + s / 2    over the regressions and waveforms

    At its minimum over s, a loss L has the weight 1 / (2 L), whatever its kind. The load-balancing loss, which is not
    a task, keeps its fixed weight.

    Args:
        tasks: The tasks whose losses get an uncertainty, by name.
        fixed_weights: Weights of the other losses.
    """

    def __init__(self, tasks: Mapping[str, Task], fixed_weights: dict[str, float]):
        super().__init__()
        self.fixed_weights = fixed_weights
        self.factors = {name: 0.5 if task.is_regression else 1.0 for name, task in tasks.items()}
        self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Combines {name: loss}, scalars, into a scalar."""
        zero = next(iter(losses.values())).new_zeros(())
        fixed = [self.fixed_weights[name] * loss for name, loss in losses.items() if name not in self.log_variances]
        total = sum(fixed, start=zero)
        for task, log_variance in self.log_variances.items():
            balanced = self.factors[task] * (-log_variance).exp() * losses[task] + 0.5 * log_variance
            # a batch without any label has an emotion loss of 0, which is no evidence of a small uncertainty
            total = total + torch.where(losses[task] != 0, balanced, 0.0 * balanced)
        return total


class LearnedWeights(FixedWeights):
    """
    A module that is trained with the model and saved with the run, but is not part of the model.

    Args:
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.
        part: The module.
    """

    def __init__(self, accelerator: Accelerator, model: TrainedModel, part: nn.Module):
        super().__init__(accelerator, model)
        self.part = self.prepared = part.to(accelerator.device)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.part.parameters())

    def prepare(self) -> None:
        self.prepared = self.accelerator.prepare(self.part)

    def load(self, checkpoint: Path) -> None:
        load_model(self.part, checkpoint / BALANCING_FILE)


class UncertaintyWeighting(LearnedWeights):
    """
    `task_balancing: uncertainty`: [`UncertaintyLoss`], whose log variances are learned and saved with the run.

    Args:
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.
        tasks: The tasks that get an uncertainty, by name.
    """

    def __init__(self, accelerator: Accelerator, model: TrainedModel, tasks: Mapping[str, Task]):
        self.uncertainties = UncertaintyLoss(tasks, without_adapters(model).config.loss_weights)
        super().__init__(accelerator, model, self.uncertainties)

    def backward(self, outputs: SparseMeritOutput) -> torch.Tensor:
        loss = self.prepared(outputs.losses)
        self.accelerator.backward(loss)
        return loss

    def report(self) -> dict[str, torch.Tensor]:
        log_variances = self.uncertainties.log_variances
        return {f"log_variance/{task}": value.detach().clone() for task, value in log_variances.items()}


class ProjectedGradients(FixedWeights):
    """
    `task_balancing: pcgrad`: gradient surgery (Yu et al., NeurIPS 2020, algorithm 1), a backward pass for each task.

    On the parameters that several tasks share, the gradient of a task loses its component along the gradient of any
    other task that it conflicts with; the results are added. Parameters of a single task, and the gradient of the
    load-balancing loss, which is not a task, are not projected. Losses are weighted as with `fixed`. Gradients are
    accumulated, and averaged over processes, for each task before they are projected, so the result equals that of a
    single process with one large batch.

    Args:
        accelerator: Accumulates and averages the gradients.
        model: The model in training, before it is prepared.
    """

    def __init__(self, accelerator: Accelerator, model: TrainedModel):
        super().__init__(accelerator, model)
        self.gradients: dict[str, dict[int, torch.Tensor]] = {}  # of each loss, by the place of the parameter
        self.cosine: torch.Tensor | None = None

    def through(self, model: nn.Module) -> nn.Module:
        """The model without its distributed wrapper, which would average the summed gradients over processes."""
        return self.accelerator.unwrap_model(model)

    def backward(self, outputs: SparseMeritOutput) -> torch.Tensor:
        assert outputs.loss is not None and outputs.losses is not None  # batches have targets
        weights = without_adapters(self.model).config.loss_weights
        losses = {name: weights[name] * loss for name, loss in outputs.losses.items() if loss.requires_grad}
        for place, (name, loss) in enumerate(losses.items()):
            self._accumulate(name, loss, retain_graph=place < len(losses) - 1)
        return outputs.loss

    def _accumulate(self, name: str, loss: torch.Tensor, retain_graph: bool) -> None:
        loss = loss / self.accelerator.gradient_accumulation_steps
        gradients = torch.autograd.grad(loss, self._learning(), retain_graph=retain_graph, allow_unused=True)
        known = self.gradients.setdefault(name, {})
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                known[index] = known[index] + gradient if index in known else gradient

    def finish(self, step: int) -> None:
        gradients = self.gradients
        if self.accelerator.num_processes > 1:
            gradients = self.accelerator.reduce(gradients, "mean")
        tasks = {name: gradients[name] for name in without_adapters(self.model).tasks if name in gradients}
        reached = Counter(chain.from_iterable(tasks.values()))
        shared = {index for index, count in reached.items() if count > 1}
        weights = self._weights(tasks, shared, step) if shared else {}
        for index, parameter in enumerate(self._learning()):
            parts = [
                weights[name] * own[index] if name in weights and index in shared else own[index]
                for name, own in gradients.items()
                if index in own
            ]
            parameter.grad = sum(parts, start=torch.zeros_like(parameter)) if parts else None
        self.gradients = {}

    def _weights(
        self, tasks: dict[str, dict[int, torch.Tensor]], shared: set[int], step: int
    ) -> dict[str, torch.Tensor]:
        """The weight of each task's gradient in the sum of the projected gradients."""
        products = torch.stack([_product(one, other, shared) for one in tasks.values() for other in tasks.values()])
        products = products.view(len(tasks), len(tasks))  # (K, K)
        lengths = products.diagonal().sqrt().clamp(min=torch.finfo(products.dtype).tiny)
        self.cosine = (products / lengths / lengths[:, None]).min()
        return dict(zip(tasks, projected_weights(products, step).to(products.dtype).unbind(), strict=True))

    def report(self) -> dict[str, torch.Tensor]:
        """The smallest cosine between the gradients of two tasks."""
        return {} if self.cosine is None else {"gradient_cosine": self.cosine}

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def projected_weights(products: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """
    PCGrad (arXiv 2001.06782, algorithm 1) from the inner products of the gradients alone: a projected gradient is a
    linear combination of gradients.

    Args:
        products: (K, K), the inner products g_i . g_j of the gradients of K tasks.
        seed: Seed of the order in which a task is projected onto the others; it matters from three tasks on.

    Returns:
        (K,) weights w, in float64 where the device has it: the sum of the projected gradients is sum_k w_k * g_k.
    """
    products = products if products.device.type == "mps" else products.double()
    generator = torch.Generator().manual_seed(seed)
    # row i: the combination that is task i's gradient
    coefficients = torch.eye(len(products), dtype=products.dtype, device=products.device)
    for task in range(len(products)):
        for other in torch.randperm(len(products), generator=generator).tolist():
            product = coefficients[task] @ products[:, other]
            if other != task:  # no `if product < 0`, which would need a device sync
                coefficients[task, other] -= torch.where(product < 0, product / products[other, other], 0.0)
    return coefficients.sum(0)


def build_balancing(settings: TrainingSettings, accelerator: Accelerator, model: TrainedModel) -> FixedWeights:
    """
    The balancing that `settings.task_balancing` names.

    Args:
        settings: Settings of the run.
        accelerator: Runs the backward pass.
        model: The model in training, before it is prepared.

    Raises:
        ValueError: There is nothing to balance.
    """
    known = without_adapters(model).tasks
    tasks = {name: known[name] for name in settings.tasks or known}
    if settings.task_balancing == "fixed":
        return FixedWeights(accelerator, model)
    if len(tasks) < 2:
        raise ValueError(
            f"`task_balancing` is {settings.task_balancing}, which balances several tasks, but this run trains "
            f"{list(tasks)} alone; expected fixed."
        )
    if settings.task_balancing == "uncertainty":
        return UncertaintyWeighting(accelerator, model, tasks)
    return ProjectedGradients(accelerator, model)


def _product(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor], shared: set[int]) -> torch.Tensor:
    """Inner product over the shared parameters that both reach, a scalar."""
    zero = next(iter(one.values())).new_zeros(())
    return sum(((one[index] * other[index]).sum() for index in shared & one.keys() & other.keys()), start=zero)

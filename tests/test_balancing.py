# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Balancing of tasks: uncertainties and projected gradients, by hand, against plain autograd, on two processes."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.models.sparse_merit.tasks import TASKS
from modeling_sparse_merit.training.balancing import (
    ProjectedGradients,
    UncertaintyLoss,
    build_balancing,
    projected_weights,
)
from modeling_sparse_merit.training.settings import TrainingSettings

WEIGHTS = {"emotion": 1.0, "enhancement": 0.5, "balance": 0.01}


def test_conflicting_gradients_by_hand():
    """(1, 0) and (-1, 1) become (0.5, 0.5) and (0, 1); in sum (0.5, 1.5)."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    weights = projected_weights(gradients @ gradients.T)
    assert weights.tolist() == pytest.approx([2.0, 1.5])
    assert (weights.float() @ gradients).tolist() == pytest.approx([0.5, 1.5])


def test_gradients_that_agree_are_left_alone():
    gradients = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    assert projected_weights(gradients @ gradients.T).tolist() == [1.0, 1.0, 1.0]


def test_three_gradients_follow_the_published_algorithm():
    """Whatever the order of the tasks; it decides among the results of the literal algorithm."""
    gradients = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    literal = [literal_pcgrad(gradients, orders) for orders in ([(1, 2), (0, 2), (0, 1)], [(2, 1), (2, 0), (1, 0)])]
    for seed in range(5):
        actual = projected_weights(gradients @ gradients.T, seed) @ gradients
        parts = [[literal[order][i] for order in (0, 1)] for i in range(3)]
        sums = [one + other + third for one in parts[0] for other in parts[1] for third in parts[2]]
        assert min((actual - each).abs().max() for each in sums) < 1e-12


def literal_pcgrad(gradients: torch.Tensor, orders: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Algorithm 1 of the paper, line by line, on vectors."""
    projected = []
    for gradient, others in zip(gradients, orders, strict=True):
        for other in others:
            if gradient @ gradients[other] < 0:
                gradient = gradient - gradient @ gradients[other] / gradients[other].square().sum() * gradients[other]
        projected.append(gradient)
    return projected


class Toy(nn.Module):
    """One shared layer and a layer for each of two tasks, which want opposite things of it."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config = SimpleNamespace(loss_weights=WEIGHTS, tasks=["emotion", "enhancement"])
        self.tasks = {name: TASKS[name] for name in self.config.tasks}
        self.shared = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in self.config.tasks})
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.heads["enhancement"].weight.data = self.heads["emotion"].weight.data + 0.1

    def forward(self, inputs: torch.Tensor) -> SimpleNamespace:
        hidden = self.shared(inputs)
        emotion, enhancement = (self.heads[task](hidden).squeeze(-1) for task in self.config.tasks)
        losses = {
            "emotion": (emotion - 5).square().mean(),
            "enhancement": (enhancement + 5).square().mean(),
            "balance": hidden.square().mean(),
        }
        return SimpleNamespace(losses=losses, loss=sum(WEIGHTS[name] * loss for name, loss in losses.items()))


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(count)]


def expected_gradients(model: nn.Module, losses: dict[str, torch.Tensor], weights: dict[str, float]) -> dict:
    """By plain autograd on whole vectors: {parameter: gradient}, and whether the tasks are in conflict."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    actual = {
        name: torch.autograd.grad(weights[name] * loss, parameters.values(), retain_graph=True, allow_unused=True)
        for name, loss in losses.items()
    }
    total = {
        name: sum(each[i] for each in actual.values() if each[i] is not None)
        for i, name in enumerate(parameters)
        if any(each[i] is not None for each in actual.values())
    }
    pairs = zip(parameters, actual["emotion"], actual["enhancement"], strict=True)
    shared = {name: pair for name, *pair in pairs if None not in pair}
    one, other = (torch.cat([pair[i].flatten() for pair in shared.values()]) for i in (0, 1))
    if one @ other < 0:
        change = -(one @ other) / other.square().sum() * other - (one @ other) / one.square().sum() * one
        pieces = change.split([pair[0].numel() for pair in shared.values()])
        for (name, pair), piece in zip(shared.items(), pieces, strict=True):
            total[name] = total[name] + piece.view_as(pair[0])
    return total, bool(one @ other < 0)


def test_projected_gradients_against_autograd_also_when_accumulated():
    model, (first, second) = Toy(), batches(2)
    balancing = ProjectedGradients(Accelerator(cpu=True, gradient_accumulation_steps=2), model)
    for batch in (first, second):
        balancing.backward(balancing.through(model)(batch))
    balancing.finish(step=0)
    expected, conflict = expected_gradients(model, model(torch.cat([first, second])).losses, WEIGHTS)
    assert conflict and balancing.report()["gradient_cosine"] < 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("changes", [{}, {"integration": "weighted_sum"}])
def test_projected_gradients_of_the_model(tiny_checkpoint, changes):
    torch.manual_seed(0)
    still = dict.fromkeys(("hidden_dropout", "attention_dropout", "final_dropout", "feat_proj_dropout"), 0.0)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, **still, **changes).train()
    model.gradient_checkpointing_enable()
    noisy, labels = torch.randn(2, 6000), torch.tensor([0, 2])
    balancing = ProjectedGradients(Accelerator(cpu=True, gradient_accumulation_steps=1), model)
    batch = {"input_values": noisy, "labels": labels, "clean_values": 0.5 * noisy}
    balancing.backward(model(**batch))
    balancing.finish(step=0)
    expected, _ = expected_gradients(model, model(**batch).losses, model.config.loss_weights)
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3)
        else:
            assert parameter.grad is None, name


def test_uncertainty_by_hand():
    loss = UncertaintyLoss(TASKS, WEIGHTS)
    losses = {name: torch.tensor(value) for name, value in (("emotion", 2.0), ("enhancement", 3.0), ("balance", 1.0))}
    assert loss(losses).item() == pytest.approx(2.0 + 3.0 / 2 + 0.01)
    loss.log_variances["emotion"].data.fill_(math.log(2))
    loss.log_variances["enhancement"].data.fill_(math.log(4))
    assert loss(losses).item() == pytest.approx(2 / 2 + math.log(2) / 2 + 3 / 8 + math.log(4) / 2 + 0.01)


def test_uncertainty_is_at_rest_where_both_tasks_count_alike():
    loss = UncertaintyLoss(TASKS, WEIGHTS)
    loss.log_variances["emotion"].data.fill_(math.log(2 * 2.0))
    loss.log_variances["enhancement"].data.fill_(math.log(3.0))
    losses = {
        name: torch.tensor(value, requires_grad=True) for name, value in (("emotion", 2.0), ("enhancement", 3.0))
    }
    loss(losses).backward()
    assert [value.grad.item() for value in loss.parameters()] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert losses["emotion"].grad.item() == pytest.approx(1 / (2 * 2.0))
    assert losses["enhancement"].grad.item() == pytest.approx(1 / (2 * 3.0))


def test_a_batch_without_labels_says_nothing_of_the_emotions_uncertainty():
    loss = UncertaintyLoss(TASKS, WEIGHTS)
    loss({"emotion": torch.tensor(0.0), "enhancement": torch.tensor(3.0)}).backward()
    assert loss.log_variances["emotion"].grad.item() == 0.0 != loss.log_variances["enhancement"].grad.item()


@pytest.mark.parametrize("balancing", ["uncertainty", "pcgrad"])
def test_one_task_needs_no_balance(balancing):
    settings = TrainingSettings(task_balancing=balancing, tasks=["emotion"])
    with pytest.raises(ValueError, match=r"\['emotion'\] alone"):
        build_balancing(settings, Accelerator(cpu=True), Toy())


TWO_PROCESSES = """
import torch
from accelerate import Accelerator
from test_balancing import Toy, WEIGHTS, batches, expected_gradients
from modeling_sparse_merit.models.sparse_merit.tasks import TASKS
from modeling_sparse_merit.training.balancing import ProjectedGradients, UncertaintyWeighting

accelerator = Accelerator(cpu=True)
plain, data = Toy(), batches(2)
model = accelerator.prepare(plain)
balancing = ProjectedGradients(accelerator, plain)
for step in range(2):
    balancing.backward(balancing.through(model)(data[accelerator.process_index]))
    balancing.finish(step)
expected, conflict = expected_gradients(plain, plain(torch.cat(data)).losses, WEIGHTS)
assert accelerator.num_processes == 2 and conflict
for name, parameter in plain.named_parameters():
    torch.testing.assert_close(parameter.grad, expected[name])

uncertainty = UncertaintyWeighting(accelerator, plain, TASKS)
uncertainty.prepare()
plain.zero_grad()
uncertainty.backward(uncertainty.through(model)(data[accelerator.process_index]))
actual = [value.grad.clone() for value in uncertainty.parameters()] + [plain.shared.weight.grad.clone()]
uncertainty.loss.zero_grad()
plain.zero_grad()
uncertainty.loss(plain(torch.cat(data)).losses).backward()
expected = [value.grad for value in uncertainty.parameters()] + [plain.shared.weight.grad]
for ours, theirs in zip(actual, expected):
    torch.testing.assert_close(ours, theirs)
"""


@pytest.mark.slow
def test_two_processes_find_the_gradient_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    folder = os.path.dirname(__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([folder, f"{folder}/.."])}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run([*launcher, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]

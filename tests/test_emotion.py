# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pooling and loss of the emotion head, by hand."""

import math

import pytest
import torch

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.models.sparse_merit.clip_heads import AttentiveStatisticsPooling, classification_loss


def test_pooling_by_hand():
    pooling = AttentiveStatisticsPooling(1)
    pooling.dense.weight.data, pooling.dense.bias.data = torch.tensor([[1.0]]), torch.tensor([0.0])
    pooling.score.weight.data = torch.tensor([[2.0]])
    features = torch.tensor([[[0.0], [1.0], [50.0]]])
    mask = torch.tensor([[True, True, False]])
    weight = math.exp(2 * math.tanh(1)) / (1 + math.exp(2 * math.tanh(1)))
    std = math.sqrt(weight - weight**2)
    torch.testing.assert_close(pooling(features, mask), torch.tensor([[weight, std]]))


def test_pooling_of_one_frame_has_the_least_deviation():
    pooling = AttentiveStatisticsPooling(4)
    pooled = pooling(torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(pooled, torch.tensor([[1.0] * 4 + [math.sqrt(1e-5)] * 4]))


def test_heads_pool_like_as_many_poolings():
    torch.manual_seed(0)
    pooling, features = AttentiveStatisticsPooling(4, num_heads=3), torch.randn(2, 7, 4)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    expected = []
    for head in range(3):
        single = AttentiveStatisticsPooling(4)
        single.dense, single.score.weight.data = pooling.dense, pooling.score.weight.data[head : head + 1]
        expected.append(single(features, mask))
    torch.testing.assert_close(pooling(features, mask), torch.cat(expected, dim=-1))


def test_loss_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [5.0, 1.0]])
    labels = torch.tensor([0, 1, -100])
    # p = 3/4 and 1/2; the third clip has no label
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert classification_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    weighted = (0.5 * -math.log(0.75) + 2.0 * -math.log(0.5)) / 2.5
    assert classification_loss(logits, labels, [0.5, 2.0]).item() == pytest.approx(weighted, abs=1e-6)


def test_focal_loss_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [5.0, 1.0]])
    labels = torch.tensor([0, 1, -100])
    # p = 3/4 and 1/2: what is missing to 1, squared, is 1/16 and 1/4
    terms = -math.log(0.75) / 16, -math.log(0.5) / 4
    assert classification_loss(logits, labels, focal_gamma=2.0).item() == pytest.approx(sum(terms) / 2, abs=1e-6)
    weighted = (0.5 * terms[0] + 2.0 * terms[1]) / 2.5
    assert classification_loss(logits, labels, [0.5, 2.0], focal_gamma=2.0).item() == pytest.approx(weighted, abs=1e-6)


def test_a_clip_that_is_sure_has_a_focal_gradient_all_the_same():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    classification_loss(logits, torch.tensor([0]), focal_gamma=0.5).backward()
    assert logits.grad.isfinite().all()


def test_label_smoothing_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    # a fifth spread over both classes: 0.9 for the label, 0.1 for the other one
    first = -0.9 * math.log(0.75), -0.1 * math.log(0.25)
    expected = (sum(first) - math.log(0.5)) / 2
    assert classification_loss(logits, labels, label_smoothing=0.2).item() == pytest.approx(expected, abs=1e-6)
    second = -0.1 * math.log(0.5), -0.9 * math.log(0.5)
    weighted = (0.5 * (first[0] + second[0]) + 2.0 * (first[1] + second[1])) / 2.5
    assert classification_loss(logits, labels, [0.5, 2.0], label_smoothing=0.2).item() == pytest.approx(
        weighted, abs=1e-6
    )


def test_the_model_uses_the_loss_of_its_configuration(tiny_checkpoint):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        tiny_checkpoint, focal_gamma=2.0, label_smoothing=0.1, class_weights=[1.0, 2.0, 3.0, 4.0]
    )
    labels = torch.tensor([3, 0])
    outputs = model(torch.randn(2, 4000), labels=labels, tasks=("emotion",))
    expected = classification_loss(outputs.logits, labels, [1.0, 2.0, 3.0, 4.0], 2.0, 0.1)
    assert outputs.losses["emotion"].item() == pytest.approx(expected.item())


def test_loss_without_any_label_is_zero_and_trains_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = classification_loss(logits, torch.tensor([-100, -100]), [1.0, 1.0, 1.0])
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()

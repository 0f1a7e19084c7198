# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The losses of the conversation model. Without anything to learn from, each is 0, with a gradient of 0."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch.nn import functional as F

UNLABELLED = -100
"""Class of an utterance without one, as in `torch.nn.CrossEntropyLoss`."""


def focal_loss(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """
    Focal loss (arXiv 1708.02002), the mean of (1 - p[y])^gamma * -log p[y].

    Args:
        logits: (N, C).
        labels: (N,).
        gamma: Exponent that reduces the weight of utterances that are already recognised; 0 for cross entropy.

    Returns:
        A scalar in fp32.
    """
    log_probabilities = logits.float().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)  # (N,)
    losses = -log_probabilities
    if gamma:
        losses = losses * (1 - log_probabilities.exp()).clamp(min=1e-6) ** gamma  # at 0 a root has no gradient
    return losses.sum() / max(1, len(labels))


def contrastive_loss(states: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    Supervised contrastive loss (arXiv 2004.11362) of unit vectors r:

        - mean_i mean_{p in P(i)} log(exp(r_i r_p / temperature) / sum_{a != i} exp(r_i r_a / temperature))

    P(i) are the others of the same label; vectors without one do not count.

    Args:
        states: (N, D), of any length.
        labels: (N,).
        temperature: Of the similarities.

    Returns:
        A scalar in fp32.
    """
    if len(states) < 2:
        return 0.0 * states.float().sum()
    vectors = F.normalize(states.float(), dim=-1)
    similarities = vectors @ vectors.T / temperature  # (N, N)
    own = torch.eye(len(states), dtype=torch.bool, device=states.device)
    log_ratios = similarities - similarities.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~own
    counts = positive.sum(1)  # (N,)
    means = (log_ratios * positive).sum(1) / counts.clamp(min=1)
    return -means.sum() / (counts > 0).sum().clamp(min=1)


def consistency_loss(
    logits: Mapping[str, torch.Tensor], valid: Mapping[str, torch.Tensor], reduction: str
) -> torch.Tensor:
    """
    Symmetric Kullback-Leibler divergence, sum_c (p_c - q_c)(log p_c - log q_c), averaged over the pairs of experts.

    Args:
        logits: {expert: (B, U, C)} of at least two experts.
        valid: {expert: (B, U)}, true for the utterances that count.
        reduction: "conversation" sums over the utterances and averages over the conversations with any that count;
            "utterance" averages over the utterances.

    Returns:
        A scalar in fp32.
    """
    logs = {name: values.float().log_softmax(-1) for name, values in logits.items()}
    pairs = []
    for one, other in combinations(logs, 2):
        counted = valid[one] & valid[other]  # (B, U)
        difference = logs[one] - logs[other]
        divergences = ((logs[one].exp() - logs[other].exp()) * difference).sum(-1)  # (B, U)
        units = counted.any(1) if reduction == "conversation" else counted
        pairs.append((divergences * counted).sum() / units.sum().clamp(min=1))
    return torch.stack(pairs).mean()

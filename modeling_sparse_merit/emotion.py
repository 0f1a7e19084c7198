# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The emotion box of the figure: attentive statistics pooling over the valid frames, and the classifier."""

import torch
from torch import nn


class AttentiveStatisticsPooling(nn.Module):
    """
    Attentive statistics pooling (arXiv 1803.10963): (B, T, D) -> (B, 2 * D), the weighted mean and standard deviation
    over time, with weights softmax_t(v . tanh(W h_t)) over the frames of the recording alone.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        scores = self.score(self.dense(features).tanh()).squeeze(-1).float()  # (B, T)
        weights = scores.masked_fill(~frame_mask, -torch.inf).softmax(-1)[..., None]  # (B, T, 1)
        states = features.float()
        mean = (weights * states).sum(1)  # (B, D)
        variance = (weights * states.square()).sum(1) - mean.square()
        pooled = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=-1)  # (B, 2 * D)
        return pooled.to(features.dtype)


class EmotionHead(nn.Module):
    """Pooling, then Dropout, Linear, LayerNorm, ReLU, Dropout, Linear: (B, T, D) -> (B, classes)."""

    def __init__(self, config):
        super().__init__()
        self.pooling = AttentiveStatisticsPooling(config.hidden_size)
        self.dense = nn.Linear(2 * config.hidden_size, config.emotion_hidden_size)
        self.layer_norm = nn.LayerNorm(config.emotion_hidden_size)
        self.classifier = nn.Linear(config.emotion_hidden_size, config.num_labels)
        self.dropout = nn.Dropout(config.final_dropout)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        pooled = self.pooling(features, frame_mask)  # (B, 2 * D)
        hidden = self.layer_norm(self.dense(self.dropout(pooled))).relu()
        return self.classifier(self.dropout(hidden))


def emotion_loss(logits: torch.Tensor, labels: torch.Tensor, class_weights: list[float] | None = None) -> torch.Tensor:
    """
    Cross entropy: sum_b w[y_b] * -log p_b[y_b] / sum_b w[y_b] over the labelled clips.

    Args:
        logits: (B, classes).
        labels: (B,) class indices, -100 for a clip without a label.
        class_weights: One weight a class, n / (classes * n_class) in the paper; None for equal weights.

    Returns:
        A scalar in fp32; 0 where no clip has a label, with a gradient of 0.
    """
    if not (labels != -100).any():
        return logits.float().sum() * 0.0
    weight = None if class_weights is None else torch.tensor(class_weights, device=logits.device)
    return nn.functional.cross_entropy(logits.float(), labels.long(), weight)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech emotion recognition: attentive statistics pooling over the valid frames, classifier, and its loss."""

from typing import Any

import torch
from torch import nn


class AttentiveStatisticsPooling(nn.Module):
    """
    Attentive statistics pooling (arXiv 1803.10963): (B, T, D) -> (B, H * 2 * D), the weighted mean and standard
    deviation over time for each of H heads, with weights softmax_t(v . tanh(W h_t)) over the frames of the recording
    alone. The paper has one head; several heads can attend to different frames (arXiv 1906.09890).

    Args:
        hidden_size: D.
        num_heads: H.
    """

    def __init__(self, hidden_size: int, num_heads: int = 1):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, num_heads, bias=False)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: (B, T, D).
            frame_mask: (B, T), true for the frames that belong to the recording.

        Returns:
            (B, H * 2 * D): mean and standard deviation of the first head, then of the next.
        """
        scores = self.score(self.dense(features).tanh()).float()  # (B, T, H)
        weights = scores.masked_fill(~frame_mask[..., None], -torch.inf).softmax(1)
        weights = weights.transpose(1, 2)[..., None]  # (B, T, H) -> (B, H, T, 1)
        states = features.float()[:, None]  # (B, 1, T, D)
        mean = (weights * states).sum(2)  # (B, H, D); no matrix product, which autocast would do in low precision
        variance = (weights * states.square()).sum(2) - mean.square()
        pooled = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=-1).flatten(1)  # (B, H * 2 * D)
        return pooled.to(features.dtype)


class EmotionHead(nn.Module):
    """Pooling, then Dropout, Linear, LayerNorm, ReLU, Dropout, Linear: (B, T, D) -> (B, classes)."""

    def __init__(self, config: Any):
        super().__init__()
        heads = config.emotion_pooling_heads
        self.pooling = AttentiveStatisticsPooling(config.hidden_size, heads)
        self.dense = nn.Linear(heads * 2 * config.hidden_size, config.emotion_hidden_size)
        self.layer_norm = nn.LayerNorm(config.emotion_hidden_size)
        self.classifier = nn.Linear(config.emotion_hidden_size, config.num_labels)
        self.dropout = nn.Dropout(config.final_dropout)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: (B, T, D).
            frame_mask: (B, T), true for the frames that belong to the recording.

        Returns:
            Logits (B, classes).
        """
        pooled = self.pooling(features, frame_mask)  # (B, H * 2 * D)
        hidden = self.layer_norm(self.dense(self.dropout(pooled))).relu()
        return self.classifier(self.dropout(hidden))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
        """
        [`emotion_loss`] with the settings of a configuration.

        Args:
            logits: (B, classes).
            labels: (B,) or (B, 1) class indices, -100 for a clip without a label.
            config: Its `class_weights`, `focal_gamma` and `label_smoothing` are used.

        Returns:
            A scalar in fp32.
        """
        return emotion_loss(logits, labels, config.class_weights, config.focal_gamma, config.label_smoothing)


def emotion_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: list[float] | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """
    Cross entropy, focal (arXiv 1708.02002) and smoothed (arXiv 1512.00567) if enabled, over the labelled clips:

        sum_b (1 - p_b[y_b])^gamma * sum_c w[c] * t_b[c] * -log p_b[c] / sum_b w[y_b]
        t_b[c] = (1 - smoothing) * (c == y_b) + smoothing / classes

    Args:
        logits: (B, classes).
        labels: (B,) or (B, 1) class indices, -100 for a clip without a label.
        class_weights: One weight per class, n / (classes * n_class) in the paper; None for equal weights.
        focal_gamma: Exponent that reduces the weight of clips that are already recognised; 0 for cross entropy.
        label_smoothing: Share of the target that is spread over all classes.

    Returns:
        A scalar in fp32; 0, with a gradient of 0, if no clip has a label.

    Raises:
        ValueError: The labels are not class indices, or the model has only one class.
    """
    if labels.is_floating_point() or labels.numel() != len(logits):
        raise ValueError(
            f"`labels` has the type {labels.dtype} and the shape {tuple(labels.shape)}; expected whole numbers of the "
            f"shape ({len(logits)},): the class of each clip, or -100. This head does not support ratings or several "
            "labels for a clip."
        )
    if logits.shape[-1] == 1:
        raise ValueError("The model has one class, so there is nothing to learn; expected `num_labels` >= 2.")
    logits, labels = logits.float(), labels.reshape(-1).long()  # (B, classes), (B,)
    labelled = labels != -100
    known = labels.where(labelled, 0)  # (B,), a class for every clip
    # No indexing by labelled clips and no copy from the host: both would synchronise with the GPU.
    weight = torch.stack([logits.new_full((), value) for value in class_weights or [1.0] * logits.shape[-1]])
    losses = nn.functional.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        probability = logits.softmax(-1).gather(-1, known[:, None]).squeeze(-1)  # (B,)
        losses = losses * (1 - probability).clamp(min=1e-6) ** focal_gamma  # at 0 a root has no gradient
    total = (weight[known] * labelled).sum()
    return losses.sum() / total.where(total > 0, 1.0)

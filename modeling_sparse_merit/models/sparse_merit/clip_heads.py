# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Heads with one output per recording: pooling over the valid frames, two layers, and the loss of each kind."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .processes import gather_clips, shared_count

LEAST_VARIANCE = 1e-8  # of the concordance, for constant values
LARGEST_COSINE = 1 - 1e-7  # beyond which the angle has no gradient


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


class ClipHead(nn.Module):
    """
    Pooling, then Dropout, Linear, LayerNorm, activation, Dropout, Linear: (B, T, D) -> (B, size). With 0
    `emotion_pooling_heads`, there is no pooling, and the input is (B, D).

    Args:
        config: Its `hidden_size`, `emotion_hidden_size`, `emotion_pooling_heads`, `head_activation` and
            `final_dropout` are used.
        size: Width of the output.
    """

    def __init__(self, config: Any, size: int):
        super().__init__()
        heads = config.emotion_pooling_heads
        self.pooling = AttentiveStatisticsPooling(config.hidden_size, heads) if heads else None
        self.dense = nn.Linear((heads * 2 or 1) * config.hidden_size, config.emotion_hidden_size)
        self.layer_norm = nn.LayerNorm(config.emotion_hidden_size)
        self.activation = ACT2FN[config.head_activation]
        self.classifier = nn.Linear(config.emotion_hidden_size, size)
        self.dropout = nn.Dropout(config.final_dropout)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            features: (B, T, D), or (B, D) without pooling.
            frame_mask: (B, T), true for the frames that belong to the recording; None without pooling.

        Returns:
            (B, size).
        """
        hidden = self.activation(self.hidden(features, frame_mask))
        return self.classifier(self.dropout(hidden))

    def hidden(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        The hidden layer in front of its activation.

        Args:
            features, frame_mask: As in `forward`.

        Returns:
            (B, emotion_hidden_size).
        """
        pooled = features if self.pooling is None else self.pooling(features, frame_mask)  # (B, H * 2 * D) or (B, D)
        return self.layer_norm(self.dense(self.dropout(pooled)))


class ClassificationHead(ClipHead):
    """
    Logits of classes, with a cross entropy of its own.

    Args:
        config: As for [`ClipHead`].
        size: Number of classes.
        class_weights, focal_gamma, label_smoothing: As in [`classification_loss`].
    """

    def __init__(
        self,
        config: Any,
        size: int,
        class_weights: list[float] | None = None,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__(config, size)
        self.loss_options = (class_weights, focal_gamma, label_smoothing)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
        """
        [`classification_loss`] with the options of this head.

        Args:
            logits: (B, classes).
            labels: (B,) or (B, 1) class indices, -100 for a clip without a label.
            config: Not used.

        Returns:
            A scalar in fp32.
        """
        return classification_loss(logits, labels, *self.loss_options)


class RatingHead(ClipHead):
    """
    Ratings of a recording, on a scale from 0 to 1 that is not clipped.

    Args:
        config: As for [`ClipHead`].
        size: K, the number of ratings.
        minimum, maximum: The scale of targets and outputs of the task.
        loss: "ccc" or "mse", see [`concordance_loss`] and [`squared_error_loss`].
    """

    def __init__(self, config: Any, size: int, minimum: float, maximum: float, loss: str):
        super().__init__(config, size)
        self.minimum, self.range = minimum, maximum - minimum
        self.gathers, self.criterion = loss == "ccc", RATING_LOSSES[loss]

    def loss(self, predicted: torch.Tensor, targets: torch.Tensor, config: Any) -> torch.Tensor:
        """
        The loss on the scale from 0 to 1. In training on several processes, the concordance is that of the clips of
        all processes, since that of few clips is biased.

        Args:
            predicted: (B, K), from `minimum` to `maximum`.
            targets: (B, K) in the same scale, NaN for a missing rating.
            config: Not used.

        Returns:
            A scalar in fp32.

        Raises:
            ValueError: The shapes differ.
        """
        if targets.shape != predicted.shape:
            raise ValueError(
                f"The ratings have the shape {tuple(targets.shape)}; expected {tuple(predicted.shape)}, a number for "
                "each clip and rating, NaN where there is none."
            )
        values = [(side.float() - self.minimum) / self.range for side in (predicted, targets)]
        if self.gathers and self.training:
            values = [gather_clips(side, fill) for side, fill in zip(values, (0.0, torch.nan), strict=True)]
        return self.criterion(*values)


class EmbeddingHead(ClipHead):
    """
    Unit vectors, near those of the same class, such as a speaker. A checkpoint without `classes` cannot be trained.

    Args:
        config: As for [`ClipHead`].
        size: Width of the vectors.
        classes: Number of the classes of the training data.
        margin, scale: As in [`angular_margin_loss`].
    """

    def __init__(self, config: Any, size: int, classes: int, margin: float, scale: float):
        super().__init__(config, size)
        self.margin, self.scale = margin, scale
        self.class_vectors = nn.Parameter(torch.randn(classes, size)) if classes else None

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D), (B, T) -> (B, size) of length 1; arguments as in [`ClipHead`]."""
        return F.normalize(super().forward(features, frame_mask).float(), dim=-1)

    def loss(self, embeddings: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
        """
        [`angular_margin_loss`] of the clips whose class is one of the training data.

        Args:
            embeddings: (B, size), of length 1.
            labels: (B,) class indices; clips with any other number do not count.
            config: Not used.

        Returns:
            A scalar in fp32.

        Raises:
            ValueError: The head has no classes.
        """
        if self.class_vectors is None:
            raise ValueError("This task has no classes to learn: give its `labels` in `clip_tasks`.")
        return angular_margin_loss(embeddings, labels.flatten(), self.class_vectors, self.margin, self.scale)


def classification_loss(
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
    return losses.sum() / shared_count((weight[known] * labelled).sum())


def concordance_loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    The sum over the ratings of 1 - CCC (Lin, Biometrics 1989), each over the clips that have it:

        CCC = 2 cov(p, y) / (var(p) + var(y) + (mean(p) - mean(y))^2 + 1e-8)

    with variances divided by the number of clips. A rating that fewer than two clips have, or that is the same for all
    of them, counts 0 and has no gradient.

    Args:
        predicted: (B, K).
        targets: (B, K), NaN for a missing rating.

    Returns:
        A scalar in fp32.
    """
    rated = targets.isfinite()  # (B, K)
    counts = rated.sum(0).clamp(min=1)
    predicted, targets = predicted.float() * rated, targets.float().nan_to_num(posinf=0.0, neginf=0.0) * rated
    means = [side.sum(0) / counts for side in (predicted, targets)]  # (K,)
    deviations = [(side - mean) * rated for side, mean in zip((predicted, targets), means, strict=True)]
    variances = [deviation.square().sum(0) / counts for deviation in deviations]
    covariance = deviations[0].mul(deviations[1]).sum(0) / counts
    distance = variances[0] + variances[1] + (means[0] - means[1]).square() + LEAST_VARIANCE
    highest, lowest = targets.where(rated, -torch.inf).amax(0), targets.where(rated, torch.inf).amin(0)  # (K,)
    defined = highest > lowest  # the variance of equal values may be above 0 by rounding
    return torch.where(defined, 1 - 2 * covariance / distance, 0.0 * predicted.sum(0)).sum()


def squared_error_loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    The sum over the ratings of the mean squared error, each over the clips that have it; 0 for a rating that no clip
    has.

    Args:
        predicted: (B, K).
        targets: (B, K), NaN for a missing rating.

    Returns:
        A scalar in fp32.
    """
    rated = targets.isfinite()
    errors = (predicted.float() - targets.float().nan_to_num(posinf=0.0, neginf=0.0)).square() * rated  # (B, K)
    return (errors.sum(0) / shared_count(rated.sum(0))).sum()


RATING_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ccc": concordance_loss,
    "mse": squared_error_loss,
}


def angular_margin_loss(
    embeddings: torch.Tensor, labels: torch.Tensor, class_vectors: torch.Tensor, margin: float, scale: float
) -> torch.Tensor:
    """
    Cross entropy of the cosines between embeddings and class vectors, with an additive margin on the angle of the true
    class (AAM-softmax, arXiv 1801.07698): its logit is `scale * cos(theta + margin)`, of others `scale * cos(theta)`.

    Args:
        embeddings: (B, size), of length 1.
        labels: (B,) class indices; clips with any other number do not count.
        class_vectors: (classes, size), of any length.
        margin: In radians.
        scale: Factor of the logits.

    Returns:
        A scalar in fp32; 0, with a gradient of 0, if no clip counts.
    """
    known = (labels >= 0) & (labels < len(class_vectors))
    labels = labels.where(known, 0)
    cosines = embeddings.float() @ F.normalize(class_vectors.float(), dim=-1).T  # (B, classes)
    cosines = cosines.clamp(-LARGEST_COSINE, LARGEST_COSINE)
    is_true = F.one_hot(labels, len(class_vectors)).bool()
    # cos(theta + margin); beyond pi the logit would rise again, so it falls linearly there
    shifted = torch.cos(torch.acos(cosines) + margin)
    shifted = torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))
    losses = F.cross_entropy(scale * torch.where(is_true, shifted, cosines), labels, reduction="none")  # (B,)
    return (losses * known).sum() / shared_count(known.sum())

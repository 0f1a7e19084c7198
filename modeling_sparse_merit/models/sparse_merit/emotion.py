# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech emotion recognition: a classification whose classes and loss are those of the configuration."""

from typing import Any

import torch

from .clip_heads import ClipHead, classification_loss


class EmotionHead(ClipHead):
    """Logits of the emotions in `id2label`: (B, T, D) -> (B, classes)."""

    def __init__(self, config: Any):
        super().__init__(config, config.num_labels)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, config: Any) -> torch.Tensor:
        """
        [`classification_loss`] with the settings of a configuration.

        Args:
            logits: (B, classes).
            labels: (B,) or (B, 1) class indices, -100 for a clip without a label.
            config: Its `class_weights`, `focal_gamma` and `label_smoothing` are used.

        Returns:
            A scalar in fp32.
        """
        return classification_loss(logits, labels, config.class_weights, config.focal_gamma, config.label_smoothing)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The cross-modal expert: speech and text of all utterances attend to each other."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class UtteranceAttention(nn.Module):
    """
    Multi-head attention with a residual connection: LayerNorm(x + Dropout(W attention(x, y))).

    Args:
        config: A [`MisterEConfig`], whose sizes and dropouts are used.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.heads, self.attention_dropout = config.attention_heads, config.attention_dropout
        self.query = nn.Linear(config.cross_modal_size, config.attention_size)
        self.key = nn.Linear(config.cross_modal_size, config.attention_size)
        self.value = nn.Linear(config.cross_modal_size, config.attention_size)
        self.output = nn.Linear(config.attention_size, config.cross_modal_size)
        self.layer_norm = nn.LayerNorm(config.cross_modal_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.cross_modal_dropout)

    def forward(self, states: torch.Tensor, others: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """
        Args:
            states: (B, U, D), of which the queries are made.
            others: (B, U, D), of which keys and values are made.
            visible: (B, 1, U, U), true where a query, the third dimension, sees a key.

        Returns:
            (B, U, D).
        """
        query, key, value = (
            layer(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, U, A) -> (B, H, U, A / H)
            for layer, inputs in ((self.query, states), (self.key, others), (self.value, others))
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, visible, dropout)
        attended = attended.transpose(1, 2).flatten(2)  # (B, H, U, A / H) -> (B, U, A)
        return self.layer_norm(states + self.dropout(self.output(attended)))


class CrossModalLayer(nn.Module):
    """Attention of each modality to the other, from the same inputs, then of each modality to itself."""

    def __init__(self, config: Any):
        super().__init__()
        self.speech_to_text, self.text_to_speech = UtteranceAttention(config), UtteranceAttention(config)
        self.speech_to_speech, self.text_to_text = UtteranceAttention(config), UtteranceAttention(config)

    def forward(
        self, speech: torch.Tensor, text: torch.Tensor, visible: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            speech, text: (B, U, D).
            visible: As in [`UtteranceAttention`].

        Returns:
            Speech and text, (B, U, D).
        """
        speech, text = self.speech_to_text(speech, text, visible), self.text_to_speech(text, speech, visible)
        return self.speech_to_speech(speech, speech, visible), self.text_to_text(text, text, visible)


class CrossModalExpert(nn.Module):
    """
    Layers of attention between speech and text, and a classifier of both (arXiv 2602.23300). The published module has
    two linear maps in a row for queries, keys, values and outputs; here they are one, which computes the same.

    Args:
        config: A [`MisterEConfig`].
        speech_size, text_size: Widths of the inputs.
    """

    def __init__(self, config: Any, speech_size: int, text_size: int):
        super().__init__()
        size = config.cross_modal_size
        self.causal, self.uses_context = config.causal, config.uses_context
        self.speech_input, self.text_input = nn.Linear(speech_size, size), nn.Linear(text_size, size)
        self.layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.cross_modal_layers))
        self.speech_shortcut, self.text_shortcut = nn.Linear(speech_size, size), nn.Linear(text_size, size)
        self.layer_norm = nn.LayerNorm(2 * size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(2 * size, size)
        self.classifier = nn.Linear(size, config.num_labels)

    def forward(
        self, speech_inputs: torch.Tensor, text_inputs: torch.Tensor, utterance_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            speech_inputs, text_inputs: (B, U, speech_size), (B, U, text_size).
            utterance_mask: (B, U), true for the utterances of the conversation.

        Returns:
            Logits (B, U, C); the states of speech and of text, (B, U, D), which the contrastive loss takes.
        """
        visible = self._visible(utterance_mask)
        speech, text = self.speech_input(speech_inputs), self.text_input(text_inputs)  # (B, U, D)
        for layer in self.layers:
            speech, text = layer(speech, text, visible)
        speech, text = speech + self.speech_shortcut(speech_inputs), text + self.text_shortcut(text_inputs)
        joined = self.layer_norm(torch.cat([text, speech], dim=-1))  # (B, U, 2 * D)
        return self.classifier(self.dense(joined).relu()), speech, text

    def _visible(self, utterance_mask: torch.Tensor) -> torch.Tensor:
        """Which utterance sees which, (B, 1, U, U): always itself, so that no softmax is empty."""
        length = utterance_mask.shape[1]
        own = torch.eye(length, dtype=torch.bool, device=utterance_mask.device)
        keys = utterance_mask[:, None, None, :].expand(-1, 1, length, -1)
        if not self.uses_context:
            keys = keys & own
        elif self.causal:
            keys = keys & torch.ones_like(own).tril()
        return keys | own

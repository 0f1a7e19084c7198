# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The speech and the text expert: convolutions and recurrent layers over the utterances of a conversation."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class ContextNetwork(nn.Module):
    """
    Embeddings of utterances with their context (arXiv 2602.23300): the sum over kernels of ReLU(conv(x)), recurrent
    layers (GRU) over it, and a linear shortcut. Padding changes nothing; a causal network sees no later utterance.

    Args:
        config: A [`MisterEConfig`], whose fields `context_*` and `causal` are used.
        size: Width of the embeddings.
    """

    def __init__(self, config: Any, size: int):
        super().__init__()
        width, layers = config.context_size, config.context_num_layers
        self.causal = config.causal
        self.convolutions = nn.ModuleList(nn.Conv1d(size, width, kernel) for kernel in config.context_kernels)
        self.shortcut = nn.Linear(size, width)
        self.dropout = nn.Dropout(config.context_dropout)
        # CODEPATH: None without recurrent layers
        self.recurrent = None
        if layers:
            self.recurrent = nn.GRU(
                width,
                width if config.causal else config.context_hidden_size,
                layers,
                batch_first=True,
                dropout=config.context_dropout if layers > 1 else 0.0,
                bidirectional=not config.causal,
            )

    def forward(self, embeddings: torch.Tensor, utterance_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            embeddings: (B, U, D).
            utterance_mask: (B, U), true for the utterances of the conversation, which come first.

        Returns:
            (B, U, 2 * context_hidden_size); any value in the padding.
        """
        features = (embeddings * utterance_mask[..., None]).transpose(1, 2)  # (B, U, D) -> (B, D, U)
        convolved = torch.stack([conv(self._padded(features, conv)).relu() for conv in self.convolutions]).sum(0)
        hidden = self.dropout(convolved.transpose(1, 2))  # (B, W, U) -> (B, U, W)
        if self.recurrent is not None:
            lengths = utterance_mask.sum(1).clamp(min=1).cpu()  # a pack has no empty sequence
            packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
            states, _ = self.recurrent(packed)
            hidden, _ = pad_packed_sequence(states, batch_first=True, total_length=embeddings.shape[1])
        return self.dropout(hidden + self.shortcut(embeddings))

    def _padded(self, features: torch.Tensor, convolution: Any) -> torch.Tensor:
        """(B, D, U) with zeros around it, such that the output has U places."""
        around = convolution.kernel_size[0] - 1
        return F.pad(features, (around, 0) if self.causal else (around // 2, around // 2))


class ContextExpert(nn.Module):
    """
    A [`ContextNetwork`] and a linear classifier.

    Args:
        config: A [`MisterEConfig`].
        size: Width of the embeddings.
    """

    def __init__(self, config: Any, size: int):
        super().__init__()
        self.context = ContextNetwork(config, size)
        self.classifier = nn.Linear(config.context_size, config.num_labels)

    def forward(self, embeddings: torch.Tensor, utterance_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            embeddings, utterance_mask: As in [`ContextNetwork`].

        Returns:
            Logits (B, U, C), and the context (B, U, 2 * context_hidden_size).
        """
        context = self.context(embeddings, utterance_mask)
        return self.classifier(context), context

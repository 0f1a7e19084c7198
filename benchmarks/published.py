# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The published arrangement of the computation, on the weights of a model of this package: the baseline of speed."""

import torch
from torch import nn
from transformers import WavLMConfig, WavLMModel

from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.models.sparse_merit.modeling_sparse_merit import SparseMeritModelOutput, encoder_fields


class PublishedArrangement(nn.Module):
    """
    A stock `WavLMModel` that returns all hidden states, every expert on every frame, masks afterwards, both heads.

    Args:
        model: The model whose parameters are used; they are not copied. Its feature encoder is "convolution", its
            integration "experts", its router "sparse".
    """

    def __init__(self, model: SparseMeritForSpeechEnhancementAndEmotion):
        super().__init__()
        with torch.device("meta"):
            self.encoder = WavLMModel(WavLMConfig(**encoder_fields(model.config))).eval()
        weights = {**dict(model.model.encoder.named_parameters()), **dict(model.model.encoder.named_buffers())}
        self.encoder.load_state_dict(weights, assign=True)
        self.integration = model.model.integration
        self.model = model  # for its heads

    @torch.inference_mode()
    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, S) scaled waveforms and their mask -> `logits` (B, classes) and `enhanced_values` (B, S)."""
        hidden_states = self.encoder(input_values, attention_mask, output_hidden_states=True).hidden_states
        frame_mask = self.encoder._get_feature_vector_attention_mask(hidden_states[0].shape[1], attention_mask)
        features = self.integrate(hidden_states, frame_mask)
        return run_heads(self.model, input_values, attention_mask, features, frame_mask)

    def integrate(self, hidden_states: tuple[torch.Tensor, ...], frame_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """L layer outputs (B, T, D), mask (B, T) -> features {task: (B, T, D)}."""
        normed = [norm(states) for norm, states in zip(self.integration.layer_norms, hidden_states, strict=True)]
        inputs = torch.cat(normed, dim=-1)  # (B, T, L * D)
        experts = torch.stack([expert(inputs) for expert in self.integration.experts], dim=2)  # (B, T, N, D)
        features = {}
        for task, router in self.integration.routers.items():
            choice = router(inputs).softmax(-1).argmax(-1)  # (B, T)
            chosen = nn.functional.one_hot(choice, experts.shape[2]).to(experts.dtype)  # (B, T, N)
            features[task] = (experts * chosen[..., None]).sum(2) * frame_mask[..., None]
        return features


def run_heads(
    model: SparseMeritForSpeechEnhancementAndEmotion,
    input_values: torch.Tensor,
    attention_mask: torch.Tensor,
    features: dict[str, torch.Tensor],
    frame_mask: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What both heads of a model make of the features {task: (B, T, D)}."""
    logits = model.heads["emotion"](features["emotion"], frame_mask)
    outputs = SparseMeritModelOutput(features=features, frame_mask=frame_mask)
    enhanced, _ = model._enhance(input_values, attention_mask.sum(-1), outputs, None)
    return {"logits": logits, "enhanced_values": enhanced["enhanced_values"]}

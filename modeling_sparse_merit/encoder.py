# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The encoder box of the figure: WavLM with the output of every layer."""

import torch
from torch.nn import functional as F
from transformers import WavLMModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class SparseMeritAttention(WavLMAttention):
    """WavLM's attention with gated relative position bias, computed by scaled-dot-product attention."""

    def torch_multi_head_self_attention(self, hidden_states, attention_mask, gated_position_bias):
        batch_size, length, _ = hidden_states.shape
        bias = gated_position_bias.view(batch_size, self.num_heads, length, length)  # (B * H, T, T) -> (B, H, T, T)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None, :].bool(), torch.finfo(bias.dtype).min)
        query, key, value = (self._heads(layer(hidden_states)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0
        output = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)  # (B, H, T, D / H)
        return self.out_proj(output.transpose(1, 2).flatten(2)), None  # (B, H, T, D / H) -> (B, T, D)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D / H)


class SparseMeritEncoder(WavLMModel):
    """WavLM (arXiv 2110.13900) that returns all layer outputs. Its parameters have the names of `WavLMModel`."""

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.encoder.layers):
            layer.attention = SparseMeritAttention(
                config.hidden_size,
                config.num_attention_heads,
                dropout=config.attention_dropout,
                num_buckets=config.num_buckets,
                max_distance=config.max_bucket_distance,
                has_relative_position_bias=index == 0,
            )
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """
        Args:
            input_values: (B, S) scaled waveform at 16 kHz.
            attention_mask: (B, S), 1 for samples and 0 for padding.

        Returns:
            The L = num_hidden_layers + 1 layer outputs, each (B, T, D): the input of the first transformer layer,
            then the output of each layer, the last one before the encoder's final layer norm; and the (B, T) boolean
            mask of the frames that belong to the recording.
        """
        dtype = self.feature_extractor.conv_layers[0].conv.weight.dtype
        convolved = self.feature_extractor(input_values.to(dtype)).transpose(1, 2)  # (B, C, T) -> (B, T, C)
        batch_size, length, _ = convolved.shape
        if attention_mask is None:
            frame_mask = torch.ones(batch_size, length, dtype=torch.bool, device=convolved.device)
        else:
            frame_mask = self._get_feature_vector_attention_mask(length, attention_mask)
        hidden_states, _ = self.feature_projection(convolved)
        hidden_states = self._mask_hidden_states(hidden_states, attention_mask=frame_mask)
        return self._layer_outputs(hidden_states, frame_mask), frame_mask

    def _layer_outputs(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden_states = hidden_states.masked_fill(~frame_mask[..., None], 0.0)
        hidden_states = hidden_states + self.encoder.pos_conv_embed(hidden_states)
        if not self.config.do_stable_layer_norm:
            hidden_states = self.encoder.layer_norm(hidden_states)
        hidden_states = self.encoder.dropout(hidden_states)
        outputs, position_bias = [hidden_states], None
        for layer in self.encoder.layers:
            hidden_states, position_bias = layer(hidden_states, attention_mask=frame_mask, position_bias=position_bias)
            outputs.append(hidden_states)
        return tuple(outputs)

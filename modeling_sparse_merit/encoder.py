# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The encoder box of the figure: WavLM with the output of every layer."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import WavLMModel
from transformers.audio_utils import mel_filter_bank
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

QUERY_BLOCK = 512
SAMPLING_RATE = 16_000
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 50.0, 7600.0  # Hz, of the mel bands


class LogMelFrontEnd(nn.Module):
    """
    Log-mel bands in place of WavLM's convolutions, for encoders that learn from scratch on little speech.

    There are as many frames as from a convolution of that `conv_kernel` and `conv_stride` (one number each), and
    `conv_dim` (one number) bands. The Hann window is twice as long as the kernel, with the same centre: 50 ms show the
    harmonics of a voice in the lowest bands. Beyond the recording there is silence. All arithmetic is fp32.
    """

    def __init__(self, config):
        super().__init__()
        (kernel,), (self.hop_length,), (bands,) = config.conv_kernel, config.conv_stride, config.conv_dim
        self.window_length, self.margin = 2 * kernel, (kernel // 2, kernel - kernel // 2)
        self.n_fft = 1 << (self.window_length - 1).bit_length()
        filters = mel_filter_bank(
            self.n_fft // 2 + 1,
            bands,
            LOWEST_FREQUENCY,
            HIGHEST_FREQUENCY,
            SAMPLING_RATE,
            norm=None,
            mel_scale="htk",
            triangularize_in_mel_space=True,
        )
        self.register_buffer("filters", torch.from_numpy(filters.astype(np.float32)))  # (bins, bands)
        self.scale = nn.Parameter(torch.ones(bands))
        self.bias = nn.Parameter(torch.zeros(bands))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """(B, S) -> (B, bands, T)."""
        with torch.autocast(input_values.device.type, enabled=False):
            padded = F.pad(input_values.float(), self.margin)
            frames = padded.unfold(-1, self.window_length, self.hop_length)  # (B, S) -> (B, T, window)
            spectrum = torch.fft.rfft(frames * torch.hann_window(self.window_length, device=frames.device), self.n_fft)
            power = spectrum.abs().square() @ self.filters.float()  # (B, T, bands)
            # The input has a variance of 1: its bands are of some hundred. The floor, far below, keeps silence from
            # being louder in the logarithm than noise is; the numbers bring the result to about mean 0, variance 1.
            bands = ((power + 0.3).log() - 3.0) / 2.5
            return (bands * self.scale + self.bias).transpose(1, 2)  # (B, T, bands) -> (B, bands, T)

    def _freeze_parameters(self) -> None:
        """What `freeze_feature_encoder` calls, as in WavLM."""
        self.requires_grad_(False)


class SparseMeritAttention(WavLMAttention):
    """
    WavLM's attention with gated relative position bias, in memory that grows linearly with the length of a recording.

    The bias depends on the distance of two frames alone, so it is kept as one number a distance, (H, 2 * T - 1),
    and spread out for one block of queries at a time.
    """

    def forward(self, hidden_states, attention_mask=None, position_bias=None, index=0, **kwargs):
        """(B, T, D), mask (B, T) -> (B, T, D), no attention weights, and the position bias for the next layer."""
        if position_bias is None:
            position_bias = self._bias_of_distances(hidden_states.shape[1])
        query, key, value = (self._heads(layer(hidden_states)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        rows = position_bias.unfold(-1, hidden_states.shape[1], 1)  # (H, T, T), a view; the last row is of query 0
        gate = self._gate(hidden_states)
        outputs = []
        for start in range(0, hidden_states.shape[1], QUERY_BLOCK):
            block = slice(start, min(start + QUERY_BLOCK, hidden_states.shape[1]))
            order = torch.arange(block.start, block.stop, device=hidden_states.device)
            bias = gate[:, :, block] * rows[:, hidden_states.shape[1] - 1 - order]  # (B, H, block, T)
            outputs.append(self._attend(query[:, :, block], key, value, bias, attention_mask))
        output = torch.cat(outputs, dim=2)  # (B, H, T, D / H)
        return self.out_proj(output.transpose(1, 2).flatten(2)), None, position_bias

    def _attend(self, query, key, value, bias, attention_mask) -> torch.Tensor:
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None, :].bool(), torch.finfo(bias.dtype).min)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)

    def _bias_of_distances(self, length: int) -> torch.Tensor:
        distance = torch.arange(1 - length, length, device=self.rel_attn_embed.weight.device)  # key minus query
        return self.rel_attn_embed(self._relative_positions_bucket(distance)).T.contiguous()  # (H, 2 * T - 1)

    def _gate(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """How much the position counts for each query: (B, T, D) -> (B, H, T, 1) (WavLM, section III-B)."""
        projected = self.gru_rel_pos_linear(self._heads(hidden_states))  # (B, H, T, 8)
        gate_a, gate_b = projected.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return gate_a * (gate_b * self.gru_rel_pos_const - 1.0) + 2.0

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D / H)


class SparseMeritEncoder(WavLMModel):
    """
    WavLM (arXiv 2110.13900) that returns all layer outputs. Its parameters have the names of `WavLMModel`, apart from
    those of a `front_end` of its own.
    """

    def __init__(self, config):
        super().__init__(config)
        if config.front_end == "log_mel":
            self.feature_extractor = LogMelFrontEnd(config)
            self.feature_projection.layer_norm = nn.Identity()  # how loud a frame is tells of the emotion
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
        dtype = self.feature_projection.projection.weight.dtype
        if attention_mask is not None and self.config.front_end == "log_mel":
            input_values = input_values * attention_mask  # its windows reach into the padding
        convolved = self.feature_extractor(input_values.to(dtype)).to(dtype).transpose(1, 2)  # (B, C, T) -> (B, T, C)
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

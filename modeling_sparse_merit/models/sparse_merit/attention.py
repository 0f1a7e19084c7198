# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""WavLM's attention with gated relative position bias, whose memory grows linearly with the number of frames."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import WavLMConfig
from transformers.integrations.flex_attention import compile_friendly_flex_attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

SCORES_AT_ONCE = 1 << 22  # 16 MiB in fp32: above 32 MiB, the C library requests memory from the system for each block
FEWEST_QUERIES = 32
ROWS = torch.contiguous_format  # by default, torch would store a product with such a view column by column


class SparseMeritAttention(WavLMAttention):
    """
    WavLM's attention (arXiv 2110.13900, section III-B), the softmax over keys j of

        q_i . k_j / sqrt(D / H) + gate_i * bias(j - i)

    `attn_implementation` selects "sdpa" (the default), "eager" or "flex_attention", which is compiled.

    All layers share one bias for each distance, (H, 2 * T - 1). Keys and values are flipped in time (softmax is
    permutation-invariant over keys): row i of the bias matrix then starts at element i of the bias, so the matrix is a
    view. It is multiplied by the gate for one block of queries at a time; flex_attention never materialises it.

    Args:
        config: Configuration of the encoder.
        has_relative_position_bias: Whether this layer owns the embedding of the bias, as the first layer does.
    """

    def __init__(self, config: WavLMConfig, has_relative_position_bias: bool):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_dropout,
            num_buckets=config.num_buckets,
            max_distance=config.max_bucket_distance,
            has_relative_position_bias=has_relative_position_bias,
        )
        self.config = config
        self.qkv_proj = None  # replaces the three projections in int8

    # The mask and the bias are of other shapes than WavLM's, and the mask is not optional.
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        position_bias: torch.Tensor | None = None,
        index: int = 0,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, 1, 1, T), added to the scores of each key, flipped in time.
            position_bias: (H, 2 * T - 1), returned by the previous layer; the first layer computes it.
            index: Unused, as in WavLM.
            output_attentions: Whether to return the attention weights. They are then computed explicitly, whatever
                `attn_implementation` is.
            kwargs: Unused.

        Returns:
            (B, T, D), the attention weights (B, H, T, T) or None, and the position bias (H, 2 * T - 1).
        """
        if position_bias is None:
            position_bias = self._bias_of_distances(hidden_states.shape[1])
        gate, weights = self._gate(hidden_states), None
        query, key, value = (self._heads(states) for states in self._project(hidden_states))
        if output_attentions:
            output, weights = self._with_weights(query, key, value, gate, position_bias, attention_mask)
        else:
            attend = self._flex if self.config._attn_implementation == "flex_attention" else self._in_blocks
            output = attend(query, key.flip(2), value.flip(2), gate, position_bias, attention_mask)
        output = output.transpose(1, 2).flatten(2)  # (B, H, T, D / H) -> (B, T, D)
        return self.out_proj(output), weights, position_bias

    def _project(self, hidden_states: torch.Tensor) -> Sequence[torch.Tensor]:
        """Query, key and value, each (B, T, D)."""
        if self.qkv_proj is not None:
            return self.qkv_proj(hidden_states).chunk(3, dim=-1)
        return [layer(hidden_states) for layer in (self.q_proj, self.k_proj, self.v_proj)]

    def _with_weights(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        gate: torch.Tensor,
        position_bias: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output (B, H, T, D / H) and attention weights (B, H, T, T); keys and values are not flipped."""
        bias = torch.addcmul(attention_mask, gate, _rows(position_bias, query.shape[2])).flip(-1)  # (B, H, T, T)
        weights = (bias + query @ key.transpose(2, 3) * self.scaling).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ value, weights

    def _in_blocks(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        gate: torch.Tensor,
        position_bias: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        batch_size, heads, length, _ = query.shape
        rows = _rows(position_bias, length)  # (H, T, T)
        attend = _eager if self._is_eager_faster(query) else F.scaled_dot_product_attention
        dropout = self.dropout if self.training else 0.0
        blocks, outputs = _blocks(length, SCORES_AT_ONCE // (batch_size * heads * length)), []
        # One buffer for the scores of all blocks: allocating one for each block fragments the memory.
        is_kept = torch.is_grad_enabled() or torch.compiler.is_compiling()
        place = None if is_kept else query.new_empty(batch_size, heads, blocks[0].stop, length)
        for block in blocks:
            if place is None:
                bias = attention_mask.expand(-1, heads, block.stop - block.start, -1).clone(memory_format=ROWS)
                bias.addcmul_(gate[:, :, block], rows[:, block])  # (B, H, block, T)
            else:
                bias = place[:, :, : block.stop - block.start]
                torch.addcmul(attention_mask, gate[:, :, block], rows[:, block], out=bias)
            outputs.append(attend(query[:, :, block], key, value, bias, dropout))
        return torch.cat(outputs, dim=2)

    def _flex(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        gate: torch.Tensor,
        position_bias: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        gate, mask = gate.squeeze(-1), attention_mask[:, 0, 0]  # (B, H, T), (B, T)

        def biased(score: Any, batch: Any, head: Any, i: Any, j: Any) -> Any:
            return score + gate[batch, head, i] * position_bias[head, i + j] + mask[batch, j]

        outputs = compile_friendly_flex_attention(query, key, value, training=self.training, score_mod=biased)
        return outputs  # type: ignore[return-value]  # a tuple only where `return_lse` is asked for

    def _is_eager_faster(self, query: torch.Tensor) -> bool:
        """For bf16 on a CPU, torch's fused kernel is about 1.5 times slower than separate steps."""
        measured = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.is_grad_enabled()
        return measured or self.config._attn_implementation == "eager"

    def _bias_of_distances(self, length: int) -> torch.Tensor:
        """(H, 2 * T - 1): element p is for query i and flipped key j with i + j = p, at the distance T - 1 - p."""
        distance = torch.arange(length - 1, -length, -1, device=self.rel_attn_embed.weight.device)  # key minus query
        return self.rel_attn_embed(self._relative_positions_bucket(distance)).T.contiguous()

    def _gate(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Gate of the position bias for each query: (B, T, D) -> (B, H, T, 1) (WavLM, section III-B)."""
        heads = hidden_states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        projected = self.gru_rel_pos_linear(heads)  # (B, H, T, 8)
        gate_a, gate_b = projected.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        return gate_a * (gate_b * self.gru_rel_pos_const - 1.0) + 2.0

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        heads = states.unflatten(-1, (self.num_heads, self.head_dim))  # (B, T, D) -> (B, T, H, D / H)
        return heads.transpose(1, 2).contiguous()  # (B, H, T, D / H)


class PlainAttention(SparseMeritAttention):
    """WavLM's attention without its position bias, as in Whisper, HuBERT and wav2vec 2.0: softmax over keys j of
    q_i . k_j / sqrt(D / H)."""

    def __init__(self, config: WavLMConfig):
        super().__init__(config, has_relative_position_bias=False)
        del self.gru_rel_pos_const, self.gru_rel_pos_linear

    def forward(  # type: ignore[override]  # as above
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        position_bias: torch.Tensor | None = None,
        index: int = 0,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, 1, 1, T), added to the scores of each key, flipped in time.
            position_bias, index, kwargs: Unused.
            output_attentions: Whether to return the attention weights.

        Returns:
            (B, T, D), the attention weights (B, H, T, T) or None, and None in place of the position bias.
        """
        query, key, value = (self._heads(states) for states in self._project(hidden_states))
        mask, dropout, weights = attention_mask.flip(-1), self.dropout if self.training else 0.0, None
        if output_attentions or self._is_eager_faster(query):
            weights = (query @ key.transpose(2, 3) * self.scaling + mask).softmax(-1)  # (B, H, T, T)
            output = F.dropout(weights, dropout) @ value
        else:
            output = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        output = output.transpose(1, 2).flatten(2)  # (B, H, T, D / H) -> (B, T, D)
        return self.out_proj(output), weights if output_attentions else None, None


def reversed_key_mask(frame_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """
    Additive mask of `SparseMeritAttention`, whose keys are flipped in time.

    Args:
        frame_mask: (B, T), true for valid frames.
        dtype: Of the result.

    Returns:
        (B, 1, 1, T): 0 for valid frames, the minimum of `dtype` for padding.
    """
    minimum = torch.finfo(dtype).min
    return torch.zeros_like(frame_mask, dtype=dtype).masked_fill(~frame_mask, minimum).flip(1)[:, None, None]


def _eager(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, dropout: float
) -> torch.Tensor:
    query, key, value, scores = (
        states.flatten(0, 1) for states in (query, key, value, bias)
    )  # (B, H, ...) -> (BH, ...)
    scores.baddbmm_(query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)  # (B * H, block, T)
    weights = F.dropout(scores.softmax(-1), dropout)
    return torch.bmm(weights, value).unflatten(0, bias.shape[:2])


def _rows(position_bias: torch.Tensor, length: int) -> torch.Tensor:
    """(H, 2 * T - 1) -> (H, T, T), whose row i begins at element i: a view, or a gather in an exported graph."""
    if not torch.compiler.is_exporting():
        return position_bias.unfold(-1, length, 1)
    place = torch.arange(length, device=position_bias.device)
    return position_bias[:, place[:, None] + place]


def _blocks(length: int, size: int) -> list[slice]:
    """Slices that cover `length`; one slice in a compiled or exported graph, which must hold for every length."""
    if torch.compiler.is_compiling():
        return [slice(0, length)]
    size = max(size, FEWEST_QUERIES)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]

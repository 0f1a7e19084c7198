# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The precision in which a model computes: fp32, bf16, or int8 for the matrix products that cost most."""

import torch
from torch import nn
from transformers import PreTrainedModel

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""What a model computes in; with "int8", all but the matrix products of int8 weights."""
ROWS_AT_ONCE = 64  # of weights: what is freed between weights that stay must not be larger than these
LARGEST = 126  # one less than int8 holds: in bf16, the step may be rounded down


class Int8Linear(nn.Module):
    """
    A linear layer in int8: y = (round(x / step) . weight) * scale * step + bias, with whole numbers up to 126.

    Each output has its own `scale`, which is fixed; each frame its own `step`, its largest |x| / 126. For inference.

    Args:
        layers: Whose place this one takes: their outputs lie side by side.
    """

    @torch.no_grad()
    def __init__(self, *layers: nn.Linear):
        super().__init__()
        exact = [rows for layer in layers for rows in layer.weight.split(ROWS_AT_ONCE)]
        size = sum(len(rows) for rows in exact)
        self.register_buffer("weight", layers[0].weight.new_empty(size, layers[0].in_features, dtype=torch.int8))
        self.register_buffer("scale", layers[0].weight.new_empty(size))
        self.register_buffer("bias", torch.cat([layer.bias for layer in layers]))
        start = 0
        for rows in exact:
            place, scale = slice(start, start + len(rows)), _step(rows.float())  # (rows, 1)
            self.weight[place], self.scale[place] = (rows / scale).round_(), scale.squeeze(-1)
            start = place.stop

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the inputs."""
        frames = inputs.flatten(0, -2)  # (M, in)
        step = _step(frames)
        product = torch._int_mm((frames / step).round_().to(torch.int8), self.weight.T)  # (M, out) int32
        outputs = product.to(inputs.dtype).mul_(self.scale)
        torch.addcmul(self.bias, outputs, step, out=outputs)
        return outputs.unflatten(0, inputs.shape[:-1])


def quantize(model: PreTrainedModel) -> None:
    """
    Puts [`Int8Linear`] in place of the linear layers of the encoder's layers and of the experts, layer by layer, and
    brings all else to bf16.

    Front end, position convolution, routers and heads stay as they are: they cost little, and noise in routers or
    masks is heard at once.
    """
    core = getattr(model, model.base_model_prefix, model)
    for layer in core.encoder.encoder.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        attention.qkv_proj = Int8Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        attention.q_proj = attention.k_proj = attention.v_proj = None
        attention.out_proj = Int8Linear(attention.out_proj)
        feed_forward.intermediate_dense = Int8Linear(feed_forward.intermediate_dense)
        feed_forward.output_dense = Int8Linear(feed_forward.output_dense)
    for expert in getattr(core.integration, "experts", ()):
        if isinstance(getattr(expert, "input_dense", None), nn.Linear):
            expert.input_dense, expert.output_dense = Int8Linear(expert.input_dense), Int8Linear(expert.output_dense)
    model.to(PRECISIONS["int8"])


def is_quantized(model: nn.Module) -> bool:
    """Whether a part of the model is in int8."""
    return any(isinstance(part, Int8Linear) for part in model.modules())


def _step(rows: torch.Tensor) -> torch.Tensor:
    """(M, C) -> (M, 1)."""
    return (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-12)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The precision in which a model computes: fp32, bf16, or int8 for the matrix products that cost most."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""What the parameters are of; in "int8", those that are no int8 weights."""
LARGEST = 126  # one less than int8 holds: in bf16, the step may be rounded down


class Int8Linear(nn.Module):
    """
    A linear layer in int8: y = (round(x / step) . weight) * scale * step + bias, with whole numbers up to 126.

    Each output has its own `scale`, which is fixed; each frame its own `step`, its largest |x| / 126. For inference.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        """`weight` (out, in) and `bias` (out,) of the layer whose place this one takes."""
        super().__init__()
        scale = _step(weight.float())  # (out, 1)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(-1).to(weight.dtype))
        self.register_buffer("bias", bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the inputs."""
        frames = inputs.flatten(0, -2)  # (M, in)
        step = _step(frames)
        product = torch._int_mm((frames / step).round_().to(torch.int8), self.weight.T)  # (M, out) int32
        outputs = torch.addcmul(self.bias, product.to(inputs.dtype) * self.scale, step)
        return outputs.unflatten(0, inputs.shape[:-1])


def quantize(model: PreTrainedModel) -> None:
    """
    Puts [`Int8Linear`] in place of the linear layers of the encoder's layers and of the experts, layer by layer.

    Front end, position convolution, routers and heads stay as they are: they cost little, and noise in routers or
    masks is heard at once.
    """
    core = getattr(model, model.base_model_prefix, model)
    for layer in core.encoder.encoder.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        attention.qkv_proj = _joined(parts)
        attention.q_proj = attention.k_proj = attention.v_proj = None
        attention.out_proj = _joined([attention.out_proj])
        feed_forward.intermediate_dense = _joined([feed_forward.intermediate_dense])
        feed_forward.output_dense = _joined([feed_forward.output_dense])
    for expert in getattr(core.integration, "experts", ()):
        if isinstance(getattr(expert, "input_dense", None), nn.Linear):
            expert.input_dense, expert.output_dense = _joined([expert.input_dense]), _joined([expert.output_dense])


def is_quantized(model: nn.Module) -> bool:
    """Whether a part of the model is in int8."""
    return any(isinstance(part, Int8Linear) for part in model.modules())


def _joined(layers: Sequence[nn.Linear]) -> Int8Linear:
    """One layer that gives the outputs of all, side by side."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return Int8Linear(weight, torch.cat([layer.bias.detach() for layer in layers]))


def _step(rows: torch.Tensor) -> torch.Tensor:
    """(M, C) -> (M, 1)."""
    return (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-12)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The precision in which a model computes: fp32, bf16, or int8 for the matrix products that cost most.

`from_pretrained(..., quantization_config=SparseMeritInt8Config())` loads a model in int8, and so does `dtype="int8"`.

What a precision means depends on what computes. Where bf16 is fast (on an accelerator, and on a CPU with AVX-512 or
bf16 instructions), "bf16" is all in bf16, and "int8" has bf16 beside its int8 products. Another CPU would take several
times longer in bf16 than in fp32: there, both compute in fp32 beside large weights that are kept in bf16 or int8.
"""

import mmap
import platform
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers import auto as quantizers
from transformers.utils.quantization_config import QuantizationConfigMixin

QUANT_METHOD = "sparse_merit_int8"
ROWS_AT_ONCE = 64  # of weights: what is freed between weights that stay must not be larger than these
ROWS_TO_WIDEN = 256  # of weights: in fp32 they still lie in a cache when they multiply
FEWEST_FRAMES = 17  # that CUDA multiplies in int8


class SparseMeritInt8Config(QuantizationConfigMixin):
    """
    The `quantization_config` of a model in int8. As a dictionary: `{"quant_method": "sparse_merit_int8"}`.

    The linear layers of the encoder's layers and of the experts compute in int8, see [`quantize`]. A checkpoint in any
    dtype is quantized when it is loaded, without calibration. The model is for inference alone, and cannot be saved.

    Raises:
        ValueError: `quant_method` is another one.
    """

    def __init__(self, quant_method: str = QUANT_METHOD):
        if quant_method != QUANT_METHOD:
            raise ValueError(f"`quant_method` is {quant_method!r}; expected {QUANT_METHOD!r}.")
        self.quant_method = quant_method  # type: ignore[assignment]  # transformers: one of its own methods only


class SparseMeritInt8Quantizer(HfQuantizer):
    """Quantizes a model as soon as its weights are loaded, when they still lie in the mapped file."""

    is_trainable = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not hasattr(model, "_quantize"):
            name = type(model).__name__
            raise ValueError(f"`quantization_config` is for Sparse MERIT models, but the model is a {name}.")
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> PreTrainedModel:
        model._quantize()  # by its own code, be it this package's or that of a checkpoint
        return model

    def is_serializable(self) -> bool:
        """False: rounded weights do not come back."""
        return False


def _register() -> None:
    """Makes transformers know them. The code of a checkpoint may come second: then those that are known stay."""
    if QUANT_METHOD not in quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING:
        quantizers.register_quantization_config(QUANT_METHOD)(SparseMeritInt8Config)
    if QUANT_METHOD not in quantizers.AUTO_QUANTIZER_MAPPING:
        quantizers.register_quantizer(QUANT_METHOD)(SparseMeritInt8Quantizer)


_register()


class Bf16Linear(nn.Linear):
    """A linear layer whose weights are kept in bf16 and multiply in fp32, a part of them at a time."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight = nn.Parameter(layer.weight.to(torch.bfloat16), requires_grad=layer.weight.requires_grad)
        self.bias = nn.Parameter(_copy(layer.bias, torch.float32), requires_grad=layer.bias.requires_grad)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return _widened(inputs, self.weight) + self.bias


class Int8Linear(nn.Module):
    """
    A linear layer in int8: y = (round(x / step) . weight) * scale * step + bias, with whole numbers up to `largest`.

    Each output has its own `scale`, which is fixed; each frame its own `step`, its largest |x| / `largest`. For
    inference.

    Args:
        layers: Whose place this one takes: their outputs lie side by side.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    largest = 126  # one less than int8 holds: in bf16, the step may be rounded down

    @torch.no_grad()
    def __init__(self, *layers: nn.Linear):
        super().__init__()
        exact = [rows for layer in layers for rows in layer.weight.split(ROWS_AT_ONCE)]
        size = sum(len(rows) for rows in exact)
        self.register_buffer("weight", self._new_weight(layers[0].weight, size))
        self.register_buffer("scale", layers[0].weight.new_empty(size))
        self.register_buffer("bias", torch.cat([layer.bias for layer in layers]))
        start = 0
        for rows in exact:
            place, scale = slice(start, start + len(rows)), _step(rows.float(), Int8Linear.largest)  # (rows, 1)
            self.weight[place], self.scale[place] = (rows / scale).round_(), scale.squeeze(-1)
            start = place.stop

    def _new_weight(self, exact: torch.Tensor, size: int) -> torch.Tensor:
        """An empty (size, in) where `exact`, (..., in), is."""
        return exact.new_empty(size, exact.shape[1], dtype=torch.int8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the inputs."""
        frames = inputs.flatten(0, -2)  # (M, in)
        step = _step(frames, self.largest)
        outputs = self.multiply(self.round(frames, step)).to(inputs.dtype).mul_(self.scale)
        torch.addcmul(self.bias, outputs, step, out=outputs)
        return outputs.unflatten(0, inputs.shape[:-1])

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """What is multiplied of frames (M, in) in steps of (M, 1): whole numbers, of the same shape."""
        return (frames / step).round_().to(torch.int8)

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        """Whole numbers (M, in) -> their products with the weights, (M, out), exact."""
        missing = max(0, FEWEST_FRAMES - len(whole))
        return torch._int_mm(F.pad(whole, (0, 0, 0, missing)), self.weight.T)[: len(whole)]


class PackedInt8Linear(Int8Linear):
    """
    For x86 CPUs without VNNI, by oneDNN's kernel for AVX2. That adds pairs of products in 16 bits, so frames have 7
    bits, 1 to 127 around 64: two products of these with int8 cannot exceed 32,767.
    """

    largest = 62

    def __init__(self, *layers: nn.Linear):
        super().__init__(*layers)
        # Of the packed weights, and no buffers: the kernel wants them in fp32, whatever the model is brought to.
        self.ones, self.zeros = torch.ones(len(self.weight)), torch.zeros(len(self.weight), dtype=torch.int64)
        self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def _new_weight(self, exact: torch.Tensor, size: int) -> torch.Tensor:
        """In a mapping of its own, which goes back to the system as soon as the packed copy is there."""
        return torch.frombuffer(mmap.mmap(-1, size * exact.shape[1]), dtype=torch.int8).view(size, exact.shape[1])

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return (frames / step).round_().add_(64).to(torch.uint8)

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        if len(whole) == 0:
            return self.ones.new_empty(0, len(self.ones))
        options: tuple[Any, ...] = (
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )  # no bias, output as it is, no activation
        return torch.ops.onednn.qlinear_pointwise(whole, 1.0, 64, self.weight, self.ones, self.zeros, *options)


class WidenedInt8Linear(Int8Linear):
    """For CPUs whose int8 products are slow: weights are kept in int8 and multiply in fp32, by frames not rounded."""

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return frames / step

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        return _widened(whole, self.weight)


def plain_dtype(precision: str) -> torch.dtype | None:
    """The dtype of a whole model in that precision; None where [`set_precision`] keeps large weights in another."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16 if is_bf16_fast() else None, "int8": None}[precision]


def is_bf16_fast() -> bool:
    """Whether bf16 computes faster than fp32: on an accelerator, if there is one, else on the CPU."""
    if torch.accelerator.is_available():
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_int8() -> type[Int8Linear]:
    """The kind of int8 layer that is fast here: on an accelerator, if there is one, else on the CPU."""
    if torch.accelerator.is_available() or torch.cpu._is_vnni_supported():
        return Int8Linear
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return PackedInt8Linear if is_x86 and torch.backends.mkldnn.is_available() else WidenedInt8Linear


def set_precision(model: PreTrainedModel, precision: str) -> None:
    """
    Brings a model to a precision: to its plain dtype, if it has one; else the weights of the linear layers of the
    encoder's layers and of the experts, layer by layer, to bf16 or int8, and the rest to bf16, or fp32 where faster.
    """
    if (dtype := plain_dtype(precision)) is not None:
        model.to(dtype)  # type: ignore[arg-type]  # transformers wraps `to` without its first argument
    elif precision == "int8":
        quantize(model)
    else:
        _replace_large_layers(model, Bf16Linear)


def quantize(model: PreTrainedModel) -> None:
    """
    Brings the linear layers of the encoder's layers and of the experts to int8, layer by layer, and the rest to bf16,
    or fp32 where faster.

    Feature encoder, position convolution, routers and heads are not in int8: they are few of a large model's products,
    and each would add an error of its own (`benchmarks/sensitivity.py`). A model in int8 is for inference alone, and
    has no parameters to train.
    """
    kind = choose_int8()
    model.requires_grad_(False)
    for layer in _core(model).encoder.encoder.layers:
        attention = layer.attention
        attention.qkv_proj = kind(attention.q_proj, attention.k_proj, attention.v_proj)
        attention.q_proj = attention.k_proj = attention.v_proj = None
    _replace_large_layers(model, kind)


def _replace_large_layers(model: PreTrainedModel, kind: type[nn.Module]) -> None:
    """Puts a layer of that kind in the place of each large one, and brings the rest to bf16, or fp32 where faster."""
    for parent, name in list(_large_layers(model)):
        setattr(parent, name, kind(getattr(parent, name)))
    dtype = torch.bfloat16 if is_bf16_fast() else torch.float32
    for part in model.modules():
        if not isinstance(part, Bf16Linear):
            part._apply(partial(_copy, dtype=dtype), recurse=False)


def is_quantized(model: nn.Module) -> bool:
    """Whether a part of the model is in int8."""
    return any(isinstance(part, Int8Linear) for part in model.modules())


def _core(model: PreTrainedModel) -> Any:
    """The model without heads."""
    return getattr(model, model.base_model_prefix, model)


def _large_layers(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    """Where the linear layers of the encoder's layers and of the experts are: what they belong to, and their names."""
    core = _core(model)
    parts = [part for layer in core.encoder.encoder.layers for part in (layer.attention, layer.feed_forward)]
    names = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "input_dense", "output_dense")
    for part in (*parts, *getattr(core.integration, "experts", ())):
        yield from ((part, name) for name in names if isinstance(getattr(part, name, None), nn.Linear))


def _widened(frames: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., in) times weights (out, in) of fewer bits -> (..., out), in the dtype of the frames."""
    outputs = frames.new_empty(*frames.shape[:-1], len(weight))
    for place in range(0, len(weight), ROWS_TO_WIDEN):
        rows = slice(place, place + ROWS_TO_WIDEN)
        outputs[..., rows] = F.linear(frames, weight[rows].to(frames.dtype))
    return outputs


def _copy(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy, even where it has that dtype already: the file that it lies in can then be let go of, a mapped whole."""
    return values.to(dtype, copy=True) if values.is_floating_point() else values


def _step(rows: torch.Tensor, largest: int) -> torch.Tensor:
    """(M, C) -> (M, 1)."""
    return (rows.abs().amax(-1, keepdim=True) / largest).clamp(min=1e-12)

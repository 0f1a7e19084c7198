# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The precision in which a model computes: fp32, bf16, or int8 for the largest matrix products.

`from_pretrained(..., quantization_config=SparseMeritInt8Config())` loads a model in int8, and so does `dtype="int8"`.

The meaning of a precision depends on the hardware. Where bf16 is fast (on an accelerator, and on a CPU that multiplies
matrices faster in bf16 than in fp32, which is measured), "bf16" computes everything in bf16, and "int8" everything
except its int8 products. On other CPUs both compute in fp32, with large weights stored in bf16 or int8.
"""

import mmap
import platform
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers import auto as quantizers
from transformers.utils.quantization_config import QuantizationConfigMixin

QUANT_METHOD = "sparse_merit_int8"
ROWS_AT_ONCE = 64  # of weights: small temporaries do not fragment the memory between weights that stay
ROWS_TO_WIDEN = 256  # of weights: in fp32 they fit into the cache
TIMED_PRODUCT = ((128, 1024), (1024, 1024))  # 2.5 s of audio in a layer of WavLM-Large
FEWEST_FRAMES = 17  # that an int8 product on CUDA supports


class SparseMeritInt8Config(QuantizationConfigMixin):
    """
    The `quantization_config` of a model in int8. As a dictionary: `{"quant_method": "sparse_merit_int8"}`.

    The linear layers of the encoder's layers and of the experts compute in int8, see [`quantize`]. A checkpoint in any
    dtype is quantized on loading, without calibration. The model is for inference only and cannot be saved.

    Raises:
        ValueError: `quant_method` has another value.
    """

    def __init__(self, quant_method: str = QUANT_METHOD):
        if quant_method != QUANT_METHOD:
            raise ValueError(f"`quant_method` is {quant_method!r}; expected {QUANT_METHOD!r}.")
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum of built-in methods in transformers


class SparseMeritInt8Quantizer(HfQuantizer):
    """Quantizes a model directly after its weights are loaded, while they are still memory-mapped."""

    is_trainable = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not hasattr(model, "_quantize"):
            name = type(model).__name__
            raise ValueError(f"`quantization_config` is for Sparse MERIT models, but the model is a {name}.")
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> PreTrainedModel:
        model._quantize()  # code of the model's own module: this package or the code of a checkpoint
        return model

    def is_serializable(self) -> bool:
        """False: the original weights cannot be recovered."""
        return False


def _register() -> None:
    """Registers config and quantizer with transformers, unless another copy of this code already has."""
    if QUANT_METHOD not in quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING:
        quantizers.register_quantization_config(QUANT_METHOD)(SparseMeritInt8Config)
    if QUANT_METHOD not in quantizers.AUTO_QUANTIZER_MAPPING:
        quantizers.register_quantizer(QUANT_METHOD)(SparseMeritInt8Quantizer)


_register()


class Bf16Linear(nn.Linear):
    """A linear layer that stores its weights in bf16 and computes in fp32, converting a part of them at a time."""

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

    Each output has a fixed `scale`; each frame has its own `step`, its largest |x| / `largest`. For inference only.

    Args:
        layers: The layers to replace; their outputs are concatenated.
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
        """An empty int8 tensor (size, in) on the device of `exact`, (..., in)."""
        return exact.new_empty(size, exact.shape[1], dtype=torch.int8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in the dtype of the inputs."""
        frames = inputs.flatten(0, -2)  # (M, in)
        step = _step(frames, self.largest)
        outputs = self.multiply(self.round(frames, step)).to(inputs.dtype).mul_(self.scale)
        torch.addcmul(self.bias, outputs, step, out=outputs)
        return outputs.unflatten(0, inputs.shape[:-1])

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """
        Quantizes frames.

        Args:
            frames: (M, in).
            step: (M, 1).

        Returns:
            Whole numbers (M, in), from -`largest` to `largest`.
        """
        return (frames / step).round_().to(torch.int8)

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        """Quantized frames (M, in) -> their exact products with the weights, (M, out)."""
        missing = max(0, FEWEST_FRAMES - len(whole))
        return torch._int_mm(F.pad(whole, (0, 0, 0, missing)), self.weight.T)[: len(whole)]


class PackedInt8Linear(Int8Linear):
    """
    For x86 CPUs without VNNI, with oneDNN's kernel for AVX2. The kernel adds pairs of products in 16 bits, so frames
    have 7 bits, 1 to 127 with the zero point 64: the sum of two products with int8 cannot exceed 32,767.
    """

    largest = 62

    def __init__(self, *layers: nn.Linear):
        super().__init__(*layers)
        # Scales and zero points of the packed weights. They are not buffers: they stay in fp32 when the model is cast.
        self.ones, self.zeros = torch.ones(len(self.weight)), torch.zeros(len(self.weight), dtype=torch.int64)
        self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def _new_weight(self, exact: torch.Tensor, size: int) -> torch.Tensor:
        """Allocated by `mmap`, so that the memory is returned to the system after packing."""
        return torch.frombuffer(mmap.mmap(-1, size * exact.shape[1]), dtype=torch.int8).view(size, exact.shape[1])

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """
        Args:
            frames: (M, in).
            step: (M, 1).

        Returns:
            Whole numbers (M, in), from 64 - `largest` to 64 + `largest`.
        """
        return (frames / step).round_().add_(64).to(torch.uint8)

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        """Quantized frames (M, in) -> their products with the weights, (M, out), in fp32."""
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
    """For CPUs whose int8 products are slow: weights are stored in int8 and converted; frames are not rounded."""

    def round(self, frames: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """
        Args:
            frames: (M, in).
            step: (M, 1).

        Returns:
            The quotient (M, in), not rounded.
        """
        return frames / step

    def multiply(self, whole: torch.Tensor) -> torch.Tensor:
        """Frames (M, in) in steps -> their products with the weights, (M, out)."""
        return _widened(whole, self.weight)


def plain_dtype(precision: str) -> torch.dtype | None:
    """The dtype of the whole model in a precision; None if [`set_precision`] stores large weights in another one."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16 if is_bf16_fast() else None, "int8": None}[precision]


@cache
def is_bf16_fast() -> bool:
    """
    Whether bf16 computes faster than fp32: on an accelerator, if there is one, else on the CPU.

    CPUs that support bf16 may still be slower with it, so products of both are timed, once per process: about 20 ms.
    """
    if torch.accelerator.is_available():
        return True
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    dtypes = (torch.float32, torch.bfloat16)
    operands = [[torch.ones(size, dtype=dtype) for size in TIMED_PRODUCT] for dtype in dtypes]
    rounds = [[_seconds(*pair) for pair in operands] for _ in range(5)]  # both in turn
    fp32, bf16 = map(min, zip(*rounds, strict=True))
    return bf16 < fp32


def _seconds(frames: torch.Tensor, weight: torch.Tensor) -> float:
    """Time of one matrix product."""
    start = time.perf_counter()
    F.linear(frames, weight)
    return time.perf_counter() - start


def choose_int8() -> type[Int8Linear]:
    """The kind of int8 layer that is fast here: on an accelerator, if there is one, else on the CPU."""
    if torch.accelerator.is_available() or torch.cpu._is_vnni_supported():
        return Int8Linear
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return PackedInt8Linear if is_x86 and torch.backends.mkldnn.is_available() else WidenedInt8Linear


def set_precision(model: PreTrainedModel, precision: str) -> None:
    """
    Converts a model to a precision. If it has a plain dtype, all weights have it. Otherwise the linear layers of the
    encoder's layers and of the experts become bf16 or int8, and the rest bf16, or fp32 where that is faster.

    Args:
        model: The model, which is changed.
        precision: "fp32", "bf16" or "int8".

    Raises:
        KeyError: Another precision.
    """
    if (dtype := plain_dtype(precision)) is not None:
        model.to(dtype)  # type: ignore[arg-type]  # transformers wraps `to` without its first argument
    elif precision == "int8":
        quantize(model)
    else:
        _replace_large_layers(model, Bf16Linear)


def quantize(model: PreTrainedModel) -> None:
    """
    Converts the linear layers of the encoder's layers and of the experts to int8, and the rest to bf16, or fp32 where
    that is faster.

    Feature encoder, position convolution, routers and heads are not in int8: they account for few of the products of a
    large model, and each would add an error (`benchmarks/sensitivity.py`). A model in int8 is for inference only and
    has no trainable parameters.
    """
    kind = choose_int8()
    model.requires_grad_(False)
    for layer in _core(model).encoder.encoder.layers:
        attention = layer.attention
        attention.qkv_proj = kind(attention.q_proj, attention.k_proj, attention.v_proj)
        attention.q_proj = attention.k_proj = attention.v_proj = None
    _replace_large_layers(model, kind)


def _replace_large_layers(model: PreTrainedModel, kind: type[nn.Module]) -> None:
    """Replaces each large layer by one of this kind, and casts the rest to bf16, or fp32 where that is faster."""
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
    """Parent module and attribute name of each linear layer of the encoder's layers and of the experts."""
    core = _core(model)
    parts = [part for layer in core.encoder.encoder.layers for part in (layer.attention, layer.feed_forward)]
    names = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "input_dense", "output_dense")
    for part in (*parts, *getattr(core.integration, "experts", ())):
        yield from ((part, name) for name in names if isinstance(getattr(part, name, None), nn.Linear))


def _widened(frames: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., in) times weights (out, in) in bf16 or int8 -> (..., out), in the dtype of the frames."""
    outputs = frames.new_empty(*frames.shape[:-1], len(weight))
    for place in range(0, len(weight), ROWS_TO_WIDEN):
        rows = slice(place, place + ROWS_TO_WIDEN)
        outputs[..., rows] = F.linear(frames, weight[rows].to(frames.dtype))
    return outputs


def _copy(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy, even if the dtype is the same, so that the memory-mapped file can be released."""
    return values.to(dtype, copy=True) if values.is_floating_point() else values


def _step(rows: torch.Tensor, largest: int) -> torch.Tensor:
    """Step of symmetric quantization for each row: (M, C) -> (M, 1)."""
    return (rows.abs().amax(-1, keepdim=True) / largest).clamp(min=1e-12)

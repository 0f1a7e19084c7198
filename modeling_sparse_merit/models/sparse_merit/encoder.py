# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""WavLM encoder that returns all hidden states."""

import math
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import WavLMConfig, WavLMModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.wavlm.modeling_wavlm import WavLMFeatureEncoder, WavLMLayerNormConvLayer
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import PlainAttention, SparseMeritAttention, reversed_key_mask
from .configuration_sparse_merit import SparseMeritConfig
from .whisper import IdentityProjection, SinusoidalPositions, WhisperFeatureEncoder, whisper_positions

FRAMES_AT_ONCE = 200  # 4 s: the widest layer then is of 26 MB in fp32
SAMPLING_RATE = 16_000
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 50.0, 7600.0  # Hz, of the mel bands


class LogMelFeatureEncoder(GradientCheckpointingLayer):
    """
    Log-mel bands in place of WavLM's convolutions, for encoders that are trained from scratch on little speech.

    The number of frames is that of a convolution with `conv_kernel` and `conv_stride` (one number each); `conv_dim`
    (one number) is the number of bands. The Hann window has the same centre as the kernel and twice its length: 50 ms
    resolve the harmonics of a voice in the lowest bands. The recording is padded with zeros. All arithmetic is fp32.
    """

    filters: torch.Tensor

    def __init__(self, config: SparseMeritConfig):
        super().__init__()
        (kernel,), (self.hop_length,), (bands,) = config.conv_kernel, config.conv_stride, config.conv_dim
        self.window_length, self.margin = 2 * kernel, (kernel // 2, kernel - kernel // 2)
        self.n_fft = 1 << (self.window_length - 1).bit_length()
        self.scale = nn.Parameter(torch.ones(bands))
        self.bias = nn.Parameter(torch.zeros(bands))
        self.register_buffer("filters", self.mel_filters())

    def mel_filters(self) -> torch.Tensor:
        """(bins, bands), triangles on the mel scale."""
        filters = mel_filter_bank(
            self.n_fft // 2 + 1,
            len(self.scale),
            LOWEST_FREQUENCY,
            HIGHEST_FREQUENCY,
            SAMPLING_RATE,
            norm=None,
            mel_scale="htk",
            triangularize_in_mel_space=True,
        )
        return torch.from_numpy(filters.astype(np.float32))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """(B, S) -> (B, bands, T)."""
        with torch.autocast(input_values.device.type, enabled=False):
            padded = F.pad(input_values.float(), self.margin)
            frames = padded.unfold(-1, self.window_length, self.hop_length)  # (B, S) -> (B, T, window)
            spectrum = torch.fft.rfft(frames * torch.hann_window(self.window_length, device=frames.device), self.n_fft)
            power = (spectrum.real.square() + spectrum.imag.square()) @ self.filters.float()  # (B, T, bands)
            # With an input variance of 1, bands are in the hundreds. The floor, far below, limits the logarithm of
            # silence; the constants bring the result to a mean of about 0 and a variance of about 1.
            bands = ((power + 0.3).log() - 3.0) / 2.5
            return (bands * self.scale + self.bias).transpose(1, 2)  # (B, T, bands) -> (B, bands, T)

    def _freeze_parameters(self) -> None:
        """Called by `freeze_feature_encoder`, as in WavLM."""
        self.requires_grad_(False)


class ChannelsLastConvLayer(WavLMLayerNormConvLayer):
    """A layer of WavLM's feature encoder in channels-last memory, which its layer norm needs."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, C, S) -> (B, C', T), views of (B, S, C) and (B, T, C')."""
        convolved = self._convolve(hidden_states).transpose(1, 2)  # (B, C', T) -> (B, T, C')
        return self.activation(self.layer_norm(convolved)).transpose(1, 2)  # (B, T, C') -> (B, C', T)

    def _convolve(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, C, S) -> (B, C', T). A convolution with an adapter or hooks is called instead of computed here."""
        if not is_plain(self.conv, nn.Conv1d):
            return self.conv(hidden_states)
        convolve = _convolve_waveform if hidden_states.shape[1] == 1 else _convolve_channels
        return convolve(self.conv, hidden_states)


class ConvolutionFeatureEncoder(WavLMFeatureEncoder):
    """
    WavLM's convolutions, applied to segments of a recording, so that their memory does not grow with its length.

    Each segment covers the receptive field of its frames, so the frames are the same. With normalisation over time
    (`feat_extract_norm="group"`), the recording is processed whole, as in WavLM.
    """

    def __init__(self, config: SparseMeritConfig):
        super().__init__(config)
        self.is_local = config.feat_extract_norm == "layer"
        self.stride, self.reach = math.prod(config.conv_stride), receptive_field(config)
        if self.is_local:
            layers = (ChannelsLastConvLayer(config, layer_id=index) for index in range(len(self.conv_layers)))
            self.conv_layers = nn.ModuleList(layers)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """(B, S) -> (B, C, T)."""
        if not self.is_local or torch.compiler.is_compiling():  # a graph holds for all lengths
            return self._convolve(input_values)
        length = (input_values.shape[1] - self.reach) // self.stride + 1
        size = max(1, FRAMES_AT_ONCE // len(input_values))
        segments = (
            input_values[:, start * self.stride : (min(start + size, length) - 1) * self.stride + self.reach]
            for start in range(0, length, size)
        )
        frames = [self._convolve(segment).transpose(1, 2) for segment in segments]  # (B, C, T) -> (B, T, C)
        return torch.cat(frames, dim=1).transpose(1, 2)

    def _convolve(self, waveform: torch.Tensor) -> torch.Tensor:
        """(B, S) -> (B, C, T)."""
        hidden_states = waveform[:, None]  # (B, 1, S)
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)
        return hidden_states


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """
    Whether a layer may be replaced by a computation with its weights.

    Args:
        layer: The layer.
        kind: The class that it must have; an adapter or another subclass computes something else.

    Returns:
        True if the layer has exactly this class, no hooks and no `forward` of its own.
    """
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) is kind and not any(hooks) and "forward" not in layer.__dict__


def _convolve_waveform(convolution: nn.Conv1d, waveform: torch.Tensor) -> torch.Tensor:
    """(B, 1, S) -> (B, C, T), as a matrix product: several times faster than a convolution of one channel."""
    windows = waveform.squeeze(1).unfold(1, *convolution.kernel_size, *convolution.stride)  # (B, T, kernel)
    return F.linear(windows, convolution.weight.squeeze(1), convolution.bias).transpose(1, 2)


def _convolve_channels(convolution: nn.Conv1d, hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, C, S) -> (B, C', T), as a 2D convolution of one row: it supports channels-last memory."""
    weight = convolution.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    rows = hidden_states.unsqueeze(2)  # (B, C, S) -> (B, C, 1, S)
    return F.conv2d(rows, weight, convolution.bias, (1, *convolution.stride)).squeeze(2)


class Capabilities:
    """Attention implementations and recordable outputs that these models declare to transformers."""

    _supports_sdpa = True
    _supports_flex_attn = True
    _can_record_outputs: Any = {
        "hidden_states": OutputRecorder(GradientCheckpointingLayer, layer_name="encoder.layers"),
        "attentions": OutputRecorder(SparseMeritAttention, index=1),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, PlainAttention):  # WavLM looks for its position bias in any attention
            super()._init_weights(module)  # type: ignore[misc]  # of the model that this is mixed into


class SparseMeritEncoder(Capabilities, WavLMModel):
    """
    WavLM (arXiv 2110.13900) that returns all layer outputs, with modules of other encoders where the configuration
    selects them. Its parameters have the names of `WavLMModel`, except those of another `feature_encoder`.

    A recording longer than `encoder_window_seconds` is encoded in windows that overlap by twice
    `encoder_context_seconds`. Half of the overlap is taken from each window, the half further from its edge.
    """

    def __init__(self, config: SparseMeritConfig):
        super().__init__(config)
        own: Any = self  # modules of other classes take the places of WavLM's
        if config.feature_encoder == "log_mel":
            own.feature_extractor = LogMelFeatureEncoder(config)
            own.feature_projection.layer_norm = nn.Identity()  # the level of a frame carries emotion
        elif config.feature_encoder == "whisper":
            own.feature_extractor, own.feature_projection = WhisperFeatureEncoder(config), IdentityProjection()
            own.encoder.pos_conv_embed = SinusoidalPositions(config.hidden_size)
        else:
            own.feature_extractor = ConvolutionFeatureEncoder(config)
        for index, layer in enumerate(self.encoder.layers):
            if config.relative_attention_bias:
                layer.attention = SparseMeritAttention(config, has_relative_position_bias=index == 0)
            else:
                layer.attention = PlainAttention(config)
        self.stride, self.reach = math.prod(config.conv_stride), receptive_field(config)
        self.post_init()
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """Freezes unused parameters: distributed training waits for the gradients of all trainable ones."""
        if self.config.do_stable_layer_norm and self.config.integration != "last_layer":
            self.encoder.layer_norm.requires_grad_(False)  # of `last_hidden_state`, which nothing else depends on
        if hasattr(self, "masked_spec_embed") and not self.config.apply_spec_augment:
            self.masked_spec_embed.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LogMelFeatureEncoder):
            init.ones_(module.scale)
            init.zeros_(module.bias)
        if isinstance(module, LogMelFeatureEncoder | WhisperFeatureEncoder):
            init.copy_(module.filters, module.mel_filters())
        elif isinstance(module, SinusoidalPositions):
            init.copy_(module.weight, whisper_positions(self.config.hidden_size))

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Any, ...]:
        """
        Args:
            input_values: (B, S) scaled waveform at 16 kHz.
            attention_mask: (B, S), 1 for samples and 0 for padding.
            output_attentions: Whether to return the attention weights.

        Returns:
            The L = num_hidden_layers + 1 layer outputs, each (B, T, D): the input of the first transformer layer,
            then the output of each layer, the last one before the encoder's final layer norm; the (B, T) boolean
            mask of the frames that belong to the recording; and, if requested, the attention weights of each layer,
            (B, H, T, T).

        Raises:
            ValueError: Attention weights are requested of a recording longer than a window.
        """
        window = self._window_length()
        if window is None or torch.compiler.is_compiling() or self._num_frames(input_values) <= window:
            return self._encode(input_values, attention_mask, output_attentions)  # a graph must hold for every length
        if output_attentions:
            raise ValueError(
                f"`output_attentions` supports recordings of at most {self.config.encoder_window_seconds:g} s, one "
                f"window of the encoder; got {input_values.shape[1] / SAMPLING_RATE:.1f} s. Cut the recording, or "
                "set `encoder_window_seconds` to None."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values, dtype=torch.long)
        return self._encode_windows(input_values, attention_mask, window)

    def _num_frames(self, input_values: torch.Tensor) -> int:
        """T of (B, S)."""
        return int(self._get_feat_extract_output_lengths(input_values.shape[1]))

    def _frame_mask(self, length: int, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mask of samples (B, S) -> boolean mask of the T = `length` frames, (B, T)."""
        # transformers expects a LongTensor by its annotation, and takes any mask
        return self._get_feature_vector_attention_mask(length, attention_mask)  # type: ignore[arg-type]

    def _window_length(self) -> int | None:
        """Frames of a window; None where a recording is encoded whole."""
        seconds = self.config.encoder_window_seconds
        return None if seconds is None else round(seconds * SAMPLING_RATE / self.stride)

    def _encode_windows(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, window: int
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """(B, S) twice -> as `forward`. Clips that have ended are left out of later windows."""
        context = round(self.config.encoder_context_seconds * SAMPLING_RATE / self.stride)
        length = self._num_frames(input_values)
        frame_mask = self._frame_mask(length, attention_mask)
        num_frames, size = frame_mask.sum(-1), (window - 1) * self.stride + max(self.reach, self.stride)
        outputs: list[torch.Tensor] = []
        for start in range(0, length, window - 2 * context):
            is_first = start == 0
            rows = (num_frames > (0 if is_first else start + 2 * context)).nonzero().squeeze(-1)  # not ended before
            if len(rows) == 0:
                break
            samples = slice(start * self.stride, start * self.stride + size)
            encoded, _ = self._encode(input_values[rows, samples], attention_mask[rows, samples])
            if is_first:
                outputs = [states.new_zeros(len(num_frames), length, states.shape[-1]) for states in encoded]
            skipped = 0 if is_first else context
            for output, states in zip(outputs, encoded, strict=True):
                output[rows, start + skipped : start + states.shape[1]] = states[:, skipped:]  # (rows, frames, D)
        return tuple(outputs), frame_mask

    def _encode(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None, output_attentions: bool = False
    ) -> tuple[Any, ...]:
        """As `forward`, in one piece."""
        convolved = self._extract(input_values, attention_mask)  # (B, T, C)
        batch_size, length, _ = convolved.shape
        if attention_mask is None:
            frame_mask = torch.ones(batch_size, length, dtype=torch.bool, device=convolved.device)
        else:
            frame_mask = self._frame_mask(length, attention_mask)
        hidden_states, _ = self.feature_projection(convolved)
        # transformers expects a LongTensor by its annotation, and takes a boolean mask
        hidden_states = self._mask_hidden_states(hidden_states, attention_mask=frame_mask)  # type: ignore[arg-type]
        recorded = {"output_attentions": output_attentions, "output_hidden_states": False, "return_dict": True}
        outputs = self._layer_outputs(hidden_states, frame_mask, **recorded)
        attentions = (outputs.attentions,) if output_attentions else ()
        return outputs.hidden_states, frame_mask, *attentions

    def last_hidden_state(self, layer_outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The `last_hidden_state` of `WavLMModel`, (B, T, D): the last of the layer outputs, each of that shape."""
        return self.encoder.layer_norm(layer_outputs[-1]) if self.config.do_stable_layer_norm else layer_outputs[-1]

    def _extract(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(B, S) -> (B, T, C) in the dtype of the encoder."""
        dtype = self.encoder.layer_norm.weight.dtype
        if attention_mask is not None and self.config.feature_encoder != "convolution":
            input_values = input_values * attention_mask  # mel frames extend into the padding
        is_whisper = self.config.feature_encoder == "whisper"
        values = input_values if is_whisper else input_values.to(dtype)
        is_trained = any(weight.requires_grad for weight in self.feature_extractor.parameters())
        if self.training and is_trained and self.feature_extractor.gradient_checkpointing and not values.requires_grad:
            values = values.detach().requires_grad_()  # without it, `use_reentrant` gives the first layer no gradient
        lengths = (true_lengths(input_values, attention_mask),) if is_whisper else ()
        return self.feature_extractor(values, *lengths).to(dtype).transpose(1, 2)  # (B, C, T) -> (B, T, C)

    @capture_outputs(tie_last_hidden_states=False)
    def _layer_outputs(
        self, hidden_states: torch.Tensor, frame_mask: torch.Tensor, output_attentions: bool = False, **kwargs: Any
    ) -> BaseModelOutput:
        """(B, T, D) and the mask (B, T) -> L of (B, T, D) as `hidden_states`, and `attentions` if requested."""
        hidden_states = hidden_states.masked_fill(~frame_mask[..., None], 0.0)
        hidden_states = hidden_states + self.encoder.pos_conv_embed(hidden_states)
        if not self.config.do_stable_layer_norm:
            hidden_states = self.encoder.layer_norm(hidden_states)
        hidden_states = self.encoder.dropout(hidden_states)
        outputs, position_bias = [hidden_states], None
        mask = reversed_key_mask(frame_mask, hidden_states.dtype)
        for layer in self.encoder.layers:
            # by position: gradient checkpointing with `use_reentrant` sees the tensors among these alone
            states = layer(hidden_states, mask, position_bias, output_attentions=output_attentions)
            hidden_states, position_bias = states[:2]  # older versions of transformers append the attention weights
            outputs.append(hidden_states)
        return BaseModelOutput(hidden_states=tuple(outputs))


def true_lengths(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """
    True lengths of the clips of a batch.

    Args:
        input_values: (B, S).
        attention_mask: (B, S), 1 for samples and 0 for padding; None for no padding.

    Returns:
        (B,) numbers of samples.
    """
    if attention_mask is None:
        batch_size, length = input_values.shape
        return torch.full((batch_size,), length, device=input_values.device)
    return attention_mask.sum(-1).long()


def receptive_field(config: WavLMConfig) -> int:
    """Number of samples that one encoder frame depends on: 400 in WavLM."""
    strides = accumulate(config.conv_stride[:-1], mul, initial=1)  # of the input of each layer
    return 1 + sum((kernel - 1) * stride for kernel, stride in zip(config.conv_kernel, strides, strict=True))

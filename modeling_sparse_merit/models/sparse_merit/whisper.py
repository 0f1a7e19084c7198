# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Log-mel feature encoder and position embeddings of Whisper's encoder (arXiv 2212.04356)."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_sparse_merit import SparseMeritConfig
from .enhancement import frame_range

SAMPLING_RATE, N_FFT, HOP = 16_000, 400, 160
DYNAMIC_RANGE = 8.0  # in powers of ten, below the loudest band of a clip
NUM_POSITIONS = 1500  # 30 s


class WhisperFeatureEncoder(GradientCheckpointingLayer):
    """
    Log-mel bands as in `WhisperFeatureExtractor`, but over the true length of a clip instead of 30 s; then two
    convolutions with GELU, the second of which halves the number of frames: (B, S) -> (B, D, T) with
    T = ceil((S // 160) / 2).

    The power of a band is at least 1e-8 of the loudest band of its clip. Padding is replaced by zeros before the bands
    and before each convolution, so outputs do not depend on it. The spectrum is in fp32.

    The input is the unscaled waveform, from -1 to 1: the feature extractor has `normalization="corpus"` with mean 0
    and standard deviation 1.
    """

    filters: torch.Tensor

    def __init__(self, config: SparseMeritConfig):
        super().__init__()
        (bands,), width = config.conv_dim, config.hidden_size
        self.bands = bands
        self.register_buffer("filters", self.mel_filters())  # (bins, bands)
        self.conv1 = nn.Conv1d(bands, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)

    def mel_filters(self) -> torch.Tensor:
        """Mel filters with slaney normalisation, (bins, bands) in fp32."""
        bins = N_FFT // 2 + 1
        filters = mel_filter_bank(bins, self.bands, 0.0, 8000.0, SAMPLING_RATE, norm="slaney", mel_scale="slaney")
        return torch.from_numpy(filters.astype(np.float32))

    def forward(self, input_values: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_values: (B, S) waveforms, 0 in the padding.
            num_samples: (B,) true lengths.

        Returns:
            (B, D, T).
        """
        num_frames = num_samples // HOP
        valid = frame_range(input_values.shape[1] // HOP, num_frames)  # (B, F)
        mel = self.log_mel(input_values, valid).to(self.conv1.weight.dtype)
        if torch.compiler.is_compiling() or mel.device.type != "cpu":
            return self._convolve(mel, valid[:, None])
        # Clip by clip: a CPU selects the algorithm by the length, and the fourth layer of Whisper-base amplifies a
        # difference of 4e-7 to 2e-5.
        clips = [self._convolve(clip[None, :, :length]) for clip, length in zip(mel, num_frames.tolist(), strict=True)]
        longest = (mel.shape[-1] + 1) // 2  # T
        return torch.cat([F.pad(clip, (0, longest - clip.shape[-1])) for clip in clips])

    def _convolve(self, mel: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """(B, bands, F), and where it is padded its mask (B, 1, F) -> (B, D, T)."""
        hidden_states = F.gelu(self.conv1(mel))  # (B, D, F)
        return F.gelu(self.conv2(hidden_states if valid is None else hidden_states * valid))

    def log_mel(self, input_values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_values: (B, S) waveforms, 0 in the padding.
            valid: Boolean (B, F), true for the mel frames that belong to each clip.

        Returns:
            (B, bands, F) in fp32, 0 in the padding.
        """
        with torch.autocast(input_values.device.type, enabled=False):
            left = input_values[:, 1 : N_FFT // 2 + 1].flip(1)  # reflected
            if not torch.compiler.is_compiling():  # a window may be shorter than half a transform
                left = F.pad(left, (N_FFT // 2 - left.shape[1], 0))
            padded = F.pad(torch.cat([left, input_values], dim=1).float(), (0, N_FFT // 2))
            frames = padded.unfold(-1, N_FFT, HOP)[:, : valid.shape[1]]  # (B, F, n_fft)
            bands = _power(frames) @ self.filters.float()  # (B, F, bands)
            bands = bands.clamp(min=1e-10).log10().masked_fill(~valid[..., None], -math.inf)
            loudest = bands.amax((1, 2), keepdim=True)
            bands = torch.maximum(bands, loudest - DYNAMIC_RANGE) / 4 + 1
            return bands.masked_fill(~valid[..., None], 0.0).transpose(1, 2)  # (B, F, bands) -> (B, bands, F)

    def _freeze_parameters(self) -> None:
        """Called by `freeze_feature_encoder`, as in WavLM."""
        self.requires_grad_(False)


class SinusoidalPositions(nn.Module):
    """
    Sinusoidal position embeddings of Whisper, in place of WavLM's convolution. Those of the first 30 s are rounded to
    fp16, as in the checkpoints of OpenAI. They are not part of a state dict.
    """

    weight: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weight", whisper_positions(width), persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (1, T, D)."""
        _, length, width = hidden_states.shape
        if not torch.compiler.is_compiling() and length <= NUM_POSITIONS:
            return self.weight[None, :length].to(hidden_states.dtype)
        time = torch.arange(length, device=hidden_states.device)
        rounded = self.weight[time.clamp(max=NUM_POSITIONS - 1)].float()  # (T, D)
        positions = torch.where((time < NUM_POSITIONS)[:, None], rounded, sinusoids(time.float(), width))
        return positions[None].to(hidden_states.dtype)


def whisper_positions(width: int) -> torch.Tensor:
    """The positions of the first 30 s, (1500, width), in fp32."""
    return sinusoids(torch.arange(NUM_POSITIONS, dtype=torch.float64), width).half().float()


def sinusoids(time: torch.Tensor, width: int) -> torch.Tensor:
    """
    Sinusoidal position embeddings: sines, then cosines, with wavelengths from 2 pi to 20,000 pi frames.

    Args:
        time: (T,) positions in frames.
        width: D, an even number.

    Returns:
        (T, D) in the dtype of `time`.
    """
    place = torch.arange(width // 2, device=time.device, dtype=time.dtype)
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * place)  # (width / 2,)
    angles = time[:, None] * rates  # (T, width / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class IdentityProjection(nn.Module):
    """Replaces WavLM's feature projection: Whisper's convolutions already have the width of the encoder."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D) -> the same tensor, twice."""
        return hidden_states, hidden_states


def _power(frames: torch.Tensor) -> torch.Tensor:
    """Power of the spectrum of windowed frames: (B, F, n_fft) -> (B, F, bins). An exported graph multiplies matrices:
    the Fourier transform of ONNX is slow and inexact for a length that is no power of two."""
    window = torch.hann_window(N_FFT, device=frames.device)
    if torch.compiler.is_exporting():
        angles = torch.arange(N_FFT)[:, None] * torch.arange(N_FFT // 2 + 1) % N_FFT * (2 * math.pi / N_FFT)
        angles = angles.to(frames.device)  # (n_fft, bins)
        windowed = frames * window
        return (windowed @ angles.cos()).square() + (windowed @ angles.sin()).square()
    spectrum = torch.fft.rfft(frames * window)  # (B, F, n_fft) -> (B, F, bins)
    return spectrum.real.square() + spectrum.imag.square()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Wave-U-Net: an encoder and a decoder of convolutions in the time domain with skip connections (arXiv 1806.03185)."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_audio_enhancer import AudioEnhancerConfig
from .spectrogram import frame_range

DECODER_KERNEL = 5
LEAKY_SLOPE = 0.2


class OutputConv(nn.Conv1d):
    """A convolution of size 1 whose last input channel passes through at first, with little of the others."""


class WaveUNet(nn.Module):
    """
    Every level of the encoder halves the sampling rate, and every level of the decoder doubles it by linear
    interpolation. The output is a linear combination of the last features and the input. Clips of any length are
    processed: what lies beyond the end of a clip is 0 at every level, as it is for the clip alone.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__()
        widths = [config.channels * (level + 1) for level in range(config.depth + 1)]
        self.encoder = nn.ModuleList(
            nn.Conv1d(narrow, wide, config.kernel_size, padding=config.kernel_size // 2)
            for narrow, wide in zip([1, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            nn.Conv1d(wide + narrow, narrow, DECODER_KERNEL, padding=DECODER_KERNEL // 2)
            for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.output = OutputConv(config.channels + 1, 1, 1)

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform: (B, S), padded with 0.
            num_samples: (B,) true lengths.

        Returns:
            (B, S).
        """
        hidden, lengths, skipped = waveform[:, None], num_samples, []  # (B, 1, S)
        *levels, bottom = self.encoder
        for convolution in levels:
            hidden = _activate(convolution(hidden), lengths)
            skipped.append((hidden, lengths))
            hidden, lengths = hidden[..., ::2], (lengths + 1) // 2
        hidden = _activate(bottom(hidden), lengths)
        for convolution, (skip, lengths) in zip(self.decoder, reversed(skipped), strict=True):
            hidden = _mask(_double(hidden, skip.shape[-1]), lengths)
            hidden = _activate(convolution(torch.cat([hidden, skip], dim=1)), lengths)
        return self.output(torch.cat([hidden, waveform[:, None]], dim=1))[:, 0]  # (B, C + 1, S) -> (B, S)


def _activate(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU of (B, C, T), and 0 beyond the valid lengths (B,)."""
    return _mask(F.leaky_relu(hidden, LEAKY_SLOPE), lengths)


def _mask(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return hidden * frame_range(hidden.shape[-1], lengths)[:, None]


def _double(hidden: torch.Tensor, length: int) -> torch.Tensor:
    """Linear interpolation (B, C, T) -> (B, C, length), where length is 2 T or 2 T - 1."""
    between = (hidden + F.pad(hidden[..., 1:], (0, 1))) / 2
    return torch.stack([hidden, between], dim=-1).flatten(-2)[..., :length]

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The generator of CMGAN: two-stage conformers on the compressed complex spectrum (arXiv 2209.11112).

It differs from the publication where that depends on padding: instance norm counts the frames of the clip alone, and
layer norm takes the place of batch norm. Attention has no relative positions; the convolutions tell them.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_audio_enhancer import AudioEnhancerConfig
from .spectrogram import Spectrogram, compress, frame_range

DILATIONS = (1, 2, 4)
QUIETEST = 1e-8  # power below which a bin counts as silent, which keeps the gradient finite


class MaskedInstanceNorm(nn.Module):
    """
    Instance norm over the valid frames and all bins of each channel, with learned scale and shift.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, C, T, F).
            valid: (B, T), true for the frames of the clip.
        """
        mask = valid[:, None, :, None]  # (B, 1, T, 1)
        count = valid.sum(-1)[:, None, None, None] * hidden.shape[-1]
        mean = (hidden * mask).sum((2, 3), keepdim=True) / count
        centred = hidden - mean
        variance = (centred.square() * mask).sum((2, 3), keepdim=True) / count
        scale = self.weight[:, None, None] * (variance + 1e-5).rsqrt()
        return (centred * scale + self.bias[:, None, None]) * mask


class NormedConv(nn.Module):
    """
    Convolution, masked instance norm, PReLU.

    Args:
        convolution: Maps (B, C, T, F) to as many frames.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.norm = MaskedInstanceNorm(convolution.out_channels)
        self.activation = nn.PReLU(convolution.out_channels)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, C, T, F).
            valid: (B, T), true for the frames of the clip.
        """
        return self.activation(self.norm(self.convolution(hidden), valid))


class DenseBlock(nn.Module):
    """
    Dilated convolutions, each on the outputs of all before it. They are causal in time.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.ModuleList(
            NormedConv(nn.Conv2d(channels * (place + 1), channels, (2, 3), dilation=(dilation, 1)))
            for place, dilation in enumerate(DILATIONS)
        )

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, C, T, F).
            valid: (B, T), true for the frames of the clip.
        """
        inputs = hidden
        for dilation, layer in zip(DILATIONS, self.layers, strict=True):
            hidden = layer(F.pad(inputs, (1, 1, dilation, 0)), valid)
            inputs = torch.cat([hidden, inputs], dim=1)
        return hidden


class ConformerConvolution(nn.Module):
    """
    The convolution module of a conformer, with layer norm in place of batch norm.

    Args:
        channels: Number of channels.
        kernel_size: Kernel of the depthwise convolution.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(channels), nn.LayerNorm(2 * channels)
        self.gate = nn.Linear(channels, 4 * channels)
        self.depthwise = nn.Conv1d(
            2 * channels, 2 * channels, kernel_size, padding=kernel_size // 2, groups=2 * channels
        )
        self.output = nn.Linear(2 * channels, channels)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (N, T, C).
            valid: (N, T), true for what belongs to the sequence.
        """
        gated = F.glu(self.gate(self.norm(hidden)), dim=-1) * valid[..., None]  # (N, T, 2 C)
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.output(F.silu(self.inner_norm(convolved)))


class Conformer(nn.Module):
    """
    A conformer block: half a feed-forward layer, attention, convolution, half a feed-forward layer, layer norm.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__()
        channels = config.channels
        self.before, self.after = _feed_forward(channels), _feed_forward(channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, config.num_attention_heads, batch_first=True)
        self.convolution = ConformerConvolution(channels, config.kernel_size)
        self.norm = nn.LayerNorm(channels)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (N, T, C).
            valid: (N, T), true for what belongs to the sequence; its first place always is.
        """
        hidden = hidden + self.before(hidden) / 2
        queries = self.attention_norm(hidden)
        attended = self.attention(queries, queries, queries, key_padding_mask=~valid, need_weights=False)[0]
        hidden = hidden + attended
        hidden = hidden + self.convolution(hidden, valid)
        return self.norm(hidden + self.after(hidden) / 2)


def _feed_forward(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
    )


class TwoStageConformer(nn.Module):
    """
    A conformer over time for every bin, then one over bins for every frame.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__()
        self.time, self.frequency = Conformer(config), Conformer(config)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, C, T, F).
            valid: (B, T), true for the frames of the clip.
        """
        batch, channels, frames, bins = hidden.shape
        rows = hidden.permute(0, 3, 2, 1).reshape(batch * bins, frames, channels)  # (B * F, T, C)
        rows = rows + self.time(rows, valid.repeat_interleave(bins, dim=0))
        rows = rows.reshape(batch, bins, frames, channels).transpose(1, 2)  # (B, T, F, C)
        rows = rows.reshape(batch * frames, bins, channels)
        everywhere = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        rows = rows + self.frequency(rows, everywhere)
        return rows.reshape(batch, frames, bins, channels).permute(0, 3, 1, 2)


class Decoder(nn.Module):
    """
    A dense block, and a sub-pixel convolution that doubles the number of bins.

    Args:
        channels: Number of channels of the input.
        outputs: Number of channels of the output.
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.dense = DenseBlock(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, (1, 3), padding=(0, 1))
        self.norm, self.activation = MaskedInstanceNorm(channels), nn.PReLU(channels)
        self.output = nn.Conv2d(channels, outputs, (1, 2))

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, C, T, F).
            valid: (B, T), true for the frames of the clip.

        Returns:
            (B, outputs, T, 2 F - 1).
        """
        expanded = self.expand(self.dense(hidden, valid))  # (B, 2 C, T, F)
        even, odd = expanded.chunk(2, dim=1)
        hidden = torch.stack([even, odd], dim=-1).flatten(-2)  # (B, C, T, 2 F)
        return self.output(self.activation(self.norm(hidden, valid)))


class CMGAN(nn.Module):
    """
    The spectrum with its magnitude to the power of 0.3 is multiplied by a mask, and a complex residual is added.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__()
        channels = config.channels
        self.spectrogram = Spectrogram(config.n_fft, config.hop_length, config.n_fft)
        self.input = NormedConv(nn.Conv2d(3, channels, 1))
        self.dense = DenseBlock(channels)
        self.halve = NormedConv(nn.Conv2d(channels, channels, (1, 3), stride=(1, 2), padding=(0, 1)))
        self.conformers = nn.ModuleList(TwoStageConformer(config) for _ in range(config.depth))
        self.mask_decoder, self.complex_decoder = Decoder(channels, 1), Decoder(channels, 2)

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform: (B, S), padded with 0.
            num_samples: (B,) true lengths.

        Returns:
            (B, S).
        """
        spectrum, magnitude = compress(self.spectrogram.transform(waveform, num_samples))  # (B, T, bins)
        valid = frame_range(spectrum.shape[1], self.spectrogram.num_frames(num_samples))  # (B, T)
        hidden = torch.stack([magnitude, spectrum.real, spectrum.imag], dim=1)  # (B, 3, T, bins)
        hidden = self.halve(self.dense(self.input(hidden, valid), valid), valid)  # (B, C, T, F)
        for conformer in self.conformers:
            hidden = conformer(hidden, valid)
        mask = self.mask_decoder(hidden, valid)[:, 0]  # (B, T, bins)
        real, imaginary = self.complex_decoder(hidden, valid).float().unbind(1)
        enhanced = _expand(mask * spectrum + torch.complex(real, imaginary))
        return self.spectrogram.inverse(enhanced, num_samples, waveform.shape[1])


def _expand(spectrum: torch.Tensor) -> torch.Tensor:
    """The inverse of `compress`: magnitudes to the power of 1 / 0.3."""
    power = spectrum.real.square() + spectrum.imag.square() + QUIETEST
    return spectrum * power.pow((1 / 0.3 - 1) / 2)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A mask on the noisy spectrum by a bidirectional LSTM: the enhancement head of Sparse MERIT without an encoder."""

import torch
from torch import nn

from .configuration_audio_enhancer import AudioEnhancerConfig
from .spectrogram import Spectrogram


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement.BidirectionalLSTM
class BidirectionalLSTM(nn.Module):
    """
    Bidirectional LSTM layers over padded clips; the backward direction starts at the end of each clip.

    Each direction is a plain LSTM on padded data, for which torch has fused kernels on every device; packed sequences
    would run step by step on a CPU.

    Args:
        hidden_size: H, width of the input and of each direction.
        num_layers: Number of layers.
    """

    def __init__(self, hidden_size: int, num_layers: int):
        super().__init__()
        sizes = [hidden_size] + [2 * hidden_size] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)
        self.backward_layers = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)

    def forward(self, hidden: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden: (B, F, H).
            num_frames: (B,) valid frames of each clip.

        Returns:
            (B, F, H), the sum of both directions of the last layer.
        """
        time = torch.arange(hidden.shape[1], device=hidden.device)  # (F,)
        mirrored = num_frames[:, None] - 1 - time  # (B, F), negative in the padding
        order = torch.where(mirrored >= 0, mirrored, time)[..., None]
        for ahead_layer, back_layer in zip(self.forward_layers, self.backward_layers, strict=True):
            ahead = ahead_layer(hidden)[0]
            back = back_layer(hidden.gather(1, order.expand_as(hidden)))[0]
            back = back.gather(1, order.expand_as(back))
            hidden = torch.cat([ahead, back], dim=-1)  # (B, F, 2 * H)
        return ahead + back


class MaskLSTM(nn.Module):
    """
    Linear, bidirectional LSTM whose directions are added, Linear, sigmoid: a mask on the noisy spectrum, from its
    compressed magnitude.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__()
        bins = config.n_fft // 2 + 1
        self.spectrogram = Spectrogram(config.n_fft, config.hop_length, config.n_fft)
        self.input_dense = nn.Linear(bins, config.channels)
        self.lstm = BidirectionalLSTM(config.channels, config.depth)
        self.output_dense = nn.Linear(config.channels, bins)

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform: (B, S), padded with 0.
            num_samples: (B,) true lengths.

        Returns:
            (B, S).
        """
        spectrum = self.spectrogram.transform(waveform, num_samples)  # (B, F, bins)
        hidden = self.input_dense(self.spectrogram.compressed_magnitude(spectrum).to(self.input_dense.weight.dtype))
        hidden = self.lstm(hidden, self.spectrogram.num_frames(num_samples))  # (B, F, C)
        mask = self.output_dense(hidden).float().sigmoid()  # (B, F, bins)
        return self.spectrogram.inverse(mask * spectrum, num_samples, waveform.shape[1])

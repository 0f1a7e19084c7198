# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Initialisation of a new encoder for training on little speech: a convolution with windowed sines."""

import math

import torch
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from ..models.sparse_merit.audio import SAMPLING_RATE


@torch.no_grad()
def initialize_spectral_feature_encoder(
    convolution: torch.nn.Conv1d, lowest: float = 60.0, highest: float = 7600.0
) -> None:
    """
    Fills a Conv1d(1, 4 * bands, kernel) with Hann-windowed cosines and sines, each with both signs, on a mel scale.

    After a ReLU the four filters of a band add up to about its magnitude, so the next layer receives a spectrogram
    from the first step on. The gain rises with frequency (+3 dB per octave), to compensate for the spectrum of speech.

    Args:
        convolution: The first convolution of the encoder, on samples at 16 kHz.
        lowest, highest: Centre frequencies of the first and last band in Hz.

    Raises:
        ValueError: The number of filters can't be divided by 4, or there are several input channels.
    """
    filters, channels, kernel = convolution.weight.shape
    if filters % 4 or channels != 1:
        raise ValueError(
            f"The first convolution has the shape {(filters, channels, kernel)}; expected (4 * bands, 1, kernel)."
        )
    mel = torch.linspace(float(hertz_to_mel(lowest)), float(hertz_to_mel(highest)), filters // 4)
    frequency = torch.tensor([mel_to_hertz(float(value)) for value in mel])[:, None]  # (bands, 1)
    time = (torch.arange(kernel) - (kernel - 1) / 2) / SAMPLING_RATE
    angle = 2 * math.pi * frequency * time  # (bands, kernel)
    waves = torch.stack([angle.cos(), -angle.cos(), angle.sin(), -angle.sin()], dim=1)  # (bands, 4, kernel)
    waves = waves * torch.hann_window(kernel, periodic=False) * frequency.sqrt()[:, None]
    convolution.weight.copy_(waves.flatten(0, 1)[:, None] / waves.flatten(0, 1).norm(dim=-1).mean())

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of the audio enhancer."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

STRUCTURES = ("mask_lstm", "wave_u_net", "cmgan")
LOSSES = ("magnitude", "complex", "waveform", "snr")


LARGEST = {
    "channels": 2**12,
    "depth": 64,
    "kernel_size": 2**12 - 1,
    "num_attention_heads": 2**12,
    "n_fft": 2**20,
    "hop_length": 2**20,
}
"""Largest valid values of sizes, far beyond what is useful: they refuse files that would fill the memory."""


@strict
class AudioEnhancerConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AudioEnhancerModel`].

    Args:
        structure: `"mask_lstm"`, a mask on the spectrum by a bidirectional LSTM, the cheapest; `"wave_u_net"`
            (arXiv 1806.03185), convolutions in the time domain; `"cmgan"`, the generator of CMGAN (arXiv 2209.11112),
            two-stage conformers on the spectrum.
        channels: Width of the LSTM; channels that each level of the Wave-U-Net adds; channels of CMGAN.
        depth: Number of LSTM layers, of levels of the Wave-U-Net, or of two-stage conformers.
        kernel_size: Kernel of the convolutions in the encoder of the Wave-U-Net, or over time in a conformer.
        num_attention_heads: Heads of the attention of CMGAN.
        n_fft: Size of the transform and of its window, in samples.
        hop_length: Samples between frames.
        sampling_rate: In Hz.
        magnitude_weight: Weight of the squared distance of the magnitudes to the power of 0.3.
        complex_weight: Weight of the squared distance of the spectra with these magnitudes.
        waveform_weight: Weight of the L1 distance of the waveforms.
        snr_weight: Weight of one decibel by which the SNR falls short of 30 dB.
        initializer_range: Standard deviation of the initial weights of linear layers.

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.

    Example:
        >>> from modeling_sparse_merit import AudioEnhancerConfig
        >>> AudioEnhancerConfig(structure="wave_u_net", channels=8).loss_weights
        {'magnitude': 0.9, 'complex': 0.1, 'waveform': 0.2, 'snr': 0.0}
    """

    model_type = "audio_enhancer"
    keys_to_ignore_at_inference = ["losses"]

    structure: str = "mask_lstm"
    channels: int = 64
    depth: int = 2
    kernel_size: int = 15
    num_attention_heads: int = 4
    n_fft: int = 512
    hop_length: int = 128
    sampling_rate: int = 16_000
    magnitude_weight: float | int = 0.9
    complex_weight: float | int = 0.1
    waveform_weight: float | int = 0.2
    snr_weight: float | int = 0.0
    initializer_range: float | int = 0.02

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each of the model's `losses` in its `loss`."""
        return {name: float(getattr(self, f"{name}_weight")) for name in LOSSES}

    def validate_audio_enhancer(self) -> None:
        """Part of the validation that `transformers` runs when a configuration is made or saved."""
        if self.structure not in STRUCTURES:
            raise ValueError(f"`structure` is {self.structure!r}; expected one of {list(STRUCTURES)}.")
        for name, limit in LARGEST.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a whole number from 1 to {limit}.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` is {self.kernel_size}; expected an odd number.")
        if self.n_fft % 4 or self.hop_length > self.n_fft // 2:
            raise ValueError(
                f"`n_fft`, `hop_length` are {self.n_fft}, {self.hop_length}; expected a multiple of 4, and a hop of "
                "at most half of it."
            )
        for name, weight in self.loss_weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"`{name}_weight` is {weight}; expected a finite number of at least 0.")
        if self.structure == "cmgan" and self.channels % self.num_attention_heads:
            raise ValueError(
                f"`channels` is {self.channels}, `num_attention_heads` {self.num_attention_heads}; expected a "
                "multiple of the number of heads."
            )


AudioEnhancerConfig.register_for_auto_class()

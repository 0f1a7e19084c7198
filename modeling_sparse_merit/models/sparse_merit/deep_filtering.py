# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech enhancement by a gain and a deep filter: a complex filter over the frames around each bin."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .enhancement import EnhancementHead, Spectrogram, compress, frame_range, spectral_distance, spectral_loss

INITIAL_GAIN = 2.0  # before the sigmoid: an untrained model changes its input little
RESOLUTIONS = (256, 1024)  # samples: further window lengths at which the loss compares spectra
QUIETEST = 1e-7  # RMS below which a recording is not amplified further


class FilterLinear(nn.Linear):
    """A linear layer for filter coefficients; its weights are initialised to 0."""


class DeepFilterHead(EnhancementHead):
    """
    Enhancement in two steps on one recurrent network (after DeepFilterNet, arXiv 2110.05588): a gain between 0 and 1
    for every bin; then, for the bins below `deep_filter_bins`, a complex filter over `deep_filter_taps` frames around
    each, which also corrects the phase:

        Y(t, f) = G(t, f) X(t, f)
        S(t, f) = Y(t, f) + sum_k W_k(t, f) Y(t + k, f),   |k| <= deep_filter_taps // 2

    Every recording is scaled to an RMS of 1 before and back afterwards, so the output follows the level of the input.
    """

    inputs_per_bin = 3

    def __init__(self, config: Any):
        super().__init__(config)
        self.taps = config.deep_filter_taps
        self.num_filtered = min(config.deep_filter_bins, config.n_fft // 2 + 1)
        self.filter_dense = FilterLinear(config.enhancement_hidden_size, 2 * self.taps * self.num_filtered)
        self.resolutions = [Spectrogram(size, size // 4, size) for size in RESOLUTIONS]

    def forward(
        self,
        features: torch.Tensor,
        frame_mask: torch.Tensor,
        input_values: torch.Tensor,
        num_samples: torch.Tensor,
        clean_values: torch.Tensor | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """
        Args:
            features: (B, T, D), the task's frames at the encoder's rate.
            frame_mask: (B, T), true for the frames that belong to the recording.
            input_values: (B, S) noisy waveform.
            num_samples: (B,) true lengths.
            clean_values: (B, S) clean waveform in the scale of `input_values`; None for no loss.

        Returns:
            {"enhanced_values": (B, S)}, 0 in the padding; and the loss, a scalar, or None.
        """
        level = _level(input_values, num_samples)  # (B, 1)
        spectrum = self.spectrogram.transform(input_values / level, num_samples)  # (B, F, bins)
        num_frames = self.spectrogram.num_frames(num_samples)
        compressed, magnitude = compress(spectrum)
        noisy = torch.cat([magnitude, compressed.real, compressed.imag], dim=-1)  # (B, F, 3 * bins)
        hidden = self._recur(noisy, features, num_frames, frame_mask.sum(-1))
        gain = (self.output_dense(hidden).float() + INITIAL_GAIN).sigmoid()
        valid = frame_range(spectrum.shape[1], num_frames)[..., None]  # (B, F, 1)
        enhanced = self._filter(gain * spectrum * valid, self.filter_dense(hidden).float())
        values = self.spectrogram.inverse(enhanced, num_samples, input_values.shape[1])
        loss = None
        if clean_values is not None:
            loss = self._loss(enhanced, values, clean_values / level, num_samples)
        return {"enhanced_values": values * level}, loss

    def _filter(self, spectrum: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Complex (B, F, bins), 0 beyond a recording, and real (B, F, 2 * taps * filtered) -> complex (B, F, bins)."""
        parts = coefficients.unflatten(-1, (2 * self.taps, -1)).unbind(2)  # 2 * taps of (B, F, filtered)
        reach, length = self.taps // 2, spectrum.shape[1]
        filtered = spectrum[..., : self.num_filtered]
        padded_real, padded_imaginary = (F.pad(part, (0, 0, reach, reach)) for part in (filtered.real, filtered.imag))
        new_real, new_imaginary = filtered.real, filtered.imag
        for tap, (real, imaginary) in enumerate(zip(parts[: self.taps], parts[self.taps :], strict=True)):
            at_real, at_imaginary = padded_real[:, tap : tap + length], padded_imaginary[:, tap : tap + length]
            new_real = new_real + real * at_real - imaginary * at_imaginary
            new_imaginary = new_imaginary + real * at_imaginary + imaginary * at_real
        return torch.cat([torch.complex(new_real, new_imaginary), spectrum[..., self.num_filtered :]], dim=-1)

    def _loss(
        self, enhanced: torch.Tensor, values: torch.Tensor, clean_values: torch.Tensor, num_samples: torch.Tensor
    ) -> torch.Tensor:
        """[`spectral_loss`], and half the distance of compressed spectra in each of the further `RESOLUTIONS`."""
        clean = self.spectrogram.transform(clean_values, num_samples)
        num_frames = self.spectrogram.num_frames(num_samples)
        loss = spectral_loss(enhanced, clean, num_frames, values, clean_values, num_samples)
        for resolution in self.resolutions:
            estimate, target = (resolution.transform(each, num_samples) for each in (values, clean_values))
            loss = loss + 0.5 * spectral_distance(estimate, target, resolution.num_frames(num_samples))
        return loss


def build_enhancement_head(config: Any) -> EnhancementHead:
    """The head that `config.enhancement_mask` names."""
    return DeepFilterHead(config) if config.enhancement_mask == "deep_filter" else EnhancementHead(config)


def _level(waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
    """RMS (B, 1) of padded waveforms (B, S), at least `QUIETEST`."""
    valid = frame_range(waveform.shape[1], num_samples)  # (B, S)
    power = (waveform.float().square() * valid).sum(-1, keepdim=True) / num_samples[:, None]
    return power.sqrt().clamp(min=QUIETEST)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech enhancement: short-time Fourier transform, mask estimator, inverse transform, and the losses."""

from typing import Any

import torch
from torch import nn

from .processes import shared_count

MAGNITUDE_FLOOR = 1e-6


class Spectrogram:
    """
    The transform of BSSE-SE: periodic Hamming window, centred frames, reflected edges, log1p of the magnitude.

    Every clip of a padded batch is transformed as if it were alone: its own right edge is reflected, and it has no
    frames that lie entirely in the padding. All arithmetic is in fp32, also under autocast.

    Args:
        n_fft, hop_length, win_length: In samples.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int):
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Number of frames of clips, by their numbers of samples; any shape."""
        return (num_samples - self.n_fft % 2) // self.hop_length + 1

    def transform(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform: (B, S), padded.
            num_samples: (B,) true lengths.

        Returns:
            The complex spectrum (B, F, n_fft // 2 + 1).
        """
        with torch.autocast(waveform.device.type, enabled=False):
            return self._analyse(self._reflect(waveform.float(), num_samples))

    def compressed_magnitude(self, spectrum: torch.Tensor) -> torch.Tensor:
        """(|X| + 1e-6)^0.3, the same shape."""
        return _loudness(_magnitude(spectrum) + MAGNITUDE_FLOOR)

    def log_magnitude(self, spectrum: torch.Tensor) -> torch.Tensor:
        """log1p(|X| + 1e-6), the same shape."""
        return torch.log1p(_magnitude(spectrum) + MAGNITUDE_FLOOR)

    def with_phase(self, log_magnitude: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """
        Args:
            log_magnitude: (B, F, bins), as `log_magnitude` gives it.
            phase: (B, F, bins), in radians.

        Returns:
            The complex spectrum (B, F, bins).
        """
        return torch.polar(log_magnitude.float().expm1() - MAGNITUDE_FLOOR, phase)

    def inverse(self, spectrum: torch.Tensor, num_samples: torch.Tensor, length: int) -> torch.Tensor:
        """
        Args:
            spectrum: Complex (B, F, bins).
            num_samples: (B,) true lengths of the waveforms.
            length: Number of samples of the result.

        Returns:
            Waveforms (B, length), 0 in the padding.
        """
        valid = frame_range(spectrum.shape[1], self.num_frames(num_samples))[..., None]  # (B, F, 1)
        with torch.autocast(spectrum.device.type, enabled=False):
            waveform = self._synthesise(spectrum, valid)
        start = self.n_fft // 2
        return waveform[:, start : start + length] * frame_range(length, num_samples)

    def _analyse(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, S + n_fft) -> complex (B, F, bins)."""
        sizes, window = (self.n_fft, self.hop_length, self.win_length), self._window(padded.device)
        spectrum = torch.stft(padded, *sizes, window, center=False, return_complex=True)
        return spectrum.transpose(1, 2)  # (B, bins, F) -> (B, F, bins)

    def _synthesise(self, spectrum: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Complex (B, F, bins), and which frames count, (B, F, 1) -> (B, n_fft + (F - 1) * hop_length)."""
        window = nn.functional.pad(self._window(spectrum.device), self._window_margin())  # (n_fft,)
        frames = torch.fft.irfft(spectrum, self.n_fft).mul_(window).mul_(valid)  # (B, F, n_fft)
        return self._overlap_add(frames) / self._overlap_add(window.square() * valid).clamp(min=1e-11)

    def _window(self, device: torch.device) -> torch.Tensor:
        return torch.hamming_window(self.win_length, periodic=True, device=device)

    def _window_margin(self) -> tuple[int, int]:
        left = (self.n_fft - self.win_length) // 2
        return left, self.n_fft - self.win_length - left

    def _reflect(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        margin = self.n_fft // 2
        position = torch.arange(-margin, waveform.shape[1] + margin, device=waveform.device).abs()  # (S + n_fft,)
        last = num_samples[:, None] - 1  # (B, 1)
        index = torch.minimum(position, 2 * last - position)  # mirrored at both ends; negative beyond the mirror image
        reflected = waveform.gather(1, index.clamp(min=0))
        return reflected * (index >= 0)

    def _overlap_add(self, frames: torch.Tensor) -> torch.Tensor:
        parts = frames.split(self.hop_length, dim=-1)  # each (B, F, hop_length), the last one less wide perhaps
        count = frames.shape[1]
        added = frames.new_zeros(len(frames), count + len(parts) - 1, self.hop_length)
        for later, part in enumerate(parts):
            added[:, later : later + count, : part.shape[-1]] += part
        return added.flatten(1)[:, : self.n_fft + (count - 1) * self.hop_length]


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


class EnhancementHead(nn.Module):
    """
    Enhancement of the noisy spectrum by a mask (BSSE-SE; paper, section III-C): Linear, bidirectional LSTM whose
    directions are added, Linear, sigmoid, on the noisy magnitude and the features of the task.
    """

    inputs_per_bin = 1
    """Number of input values of the network for each bin."""

    def __init__(self, config: Any):
        super().__init__()
        bins, hidden = config.n_fft // 2 + 1, config.enhancement_hidden_size
        self.mask = config.enhancement_mask
        self.frame_ratio = (config.hop_length, config.inputs_to_logits_ratio)
        self.spectrogram = Spectrogram(config.n_fft, config.hop_length, config.win_length)
        self.input_dense = nn.Linear(self.inputs_per_bin * bins + config.hidden_size, hidden)
        self.lstm = BidirectionalLSTM(hidden, config.enhancement_num_layers)
        self.output_dense = nn.Linear(hidden, bins)

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
            clean_values: (B, S) clean waveform in the scale of `input_values`.

        Returns:
            The outputs by name: "enhanced_values" (B, S), 0 in the padding, and, with the mask "log1p",
            "enhanced_log_magnitude" (B, F, bins). In training with this mask and a target, only the latter, which is
            all that the loss needs. And the loss, a scalar, or None without a clean waveform.
        """
        spectrum = self.spectrogram.transform(input_values, num_samples)  # (B, F, bins)
        clean = None if clean_values is None else self.spectrogram.transform(clean_values, num_samples)
        num_frames, num_features = self.spectrogram.num_frames(num_samples), frame_mask.sum(-1)
        if self.mask == "log1p":
            noisy = self.spectrogram.log_magnitude(spectrum)
            log_magnitude = self.estimate_mask(noisy, features, num_frames, num_features) * noisy
            outputs, loss = {"enhanced_log_magnitude": log_magnitude}, None
            if clean is not None:
                loss = enhancement_loss(log_magnitude, self.spectrogram.log_magnitude(clean), num_frames)
                if self.training:
                    return outputs, loss
            enhanced = self.spectrogram.with_phase(log_magnitude, spectrum.angle())
            values = self.spectrogram.inverse(enhanced, num_samples, input_values.shape[1])
            return {"enhanced_values": values, **outputs}, loss
        noisy = self.spectrogram.compressed_magnitude(spectrum)
        enhanced = self.estimate_mask(noisy, features, num_frames, num_features) * spectrum
        values = self.spectrogram.inverse(enhanced, num_samples, input_values.shape[1])
        if clean is None or clean_values is None:
            return {"enhanced_values": values}, None
        loss = spectral_loss(enhanced, clean, num_frames, values, clean_values, num_samples)
        return {"enhanced_values": values}, loss

    def estimate_mask(
        self, noisy: torch.Tensor, features: torch.Tensor, num_frames: torch.Tensor, num_features: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            noisy: (B, F, bins), the noisy magnitude, compressed.
            features: (B, T, D), the task's frames at the encoder's rate.
            num_frames: (B,) valid spectrogram frames of each clip.
            num_features: (B,) valid encoder frames of each clip.

        Returns:
            The mask (B, F, bins), between 0 and 1, in fp32.
        """
        return self.output_dense(self._recur(noisy, features, num_frames, num_features)).float().sigmoid()

    def _recur(
        self, noisy: torch.Tensor, features: torch.Tensor, num_frames: torch.Tensor, num_features: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states (B, F, H) of `estimate_mask`, with inputs (B, F, I) of any width in place of `noisy`."""
        noisy = noisy.to(features.dtype)
        aligned = self._align(features, noisy.shape[1], num_features)
        hidden = self.input_dense(torch.cat([noisy, aligned], dim=-1))  # (B, F, I + D) -> (B, F, H)
        return self.lstm(hidden, num_frames)

    def _align(self, features: torch.Tensor, num_frames: int, num_features: torch.Tensor) -> torch.Tensor:
        hop_length, stride = self.frame_ratio
        nearest = torch.arange(num_frames, device=features.device) * hop_length // stride  # (F,)
        index = torch.minimum(nearest[None], num_features[:, None] - 1)  # (B, F): the last frame stands for the rest
        return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))  # (B, T, D) -> (B, F, D)


def enhancement_loss(predicted: torch.Tensor, clean: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """
    L1 distance of log1p magnitudes (B, F, bins), averaged over the bins of all frames that belong to a recording.

    Args:
        predicted, clean: (B, F, bins).
        num_frames: (B,) valid frames of each clip.

    Returns:
        A scalar in fp32.
    """
    valid = frame_range(predicted.shape[1], num_frames)[..., None]
    distance = (predicted.float() - clean.float()).abs() * valid
    return distance.sum() / (shared_count(valid.sum()) * predicted.shape[-1])


def spectral_loss(
    predicted: torch.Tensor,
    clean: torch.Tensor,
    num_frames: torch.Tensor,
    predicted_values: torch.Tensor,
    clean_values: torch.Tensor,
    num_samples: torch.Tensor,
) -> torch.Tensor:
    """
    Distance of compressed spectra, with and without phase, and the shortfall of the SNR from 30 dB:

        mean (|P|^0.3 - |C|^0.3)^2 + mean |P |P|^-0.7 - C |C|^-0.7|^2 + 0.03 * mean (30 - min(30, SNR in dB))

    over the bins of all frames that belong to a recording, and over recordings. The first two terms follow perceived
    loudness (Ephrat et al., arXiv 1804.03619; Braun and Tashev, arXiv 2009.12286); the SNR is that of the waveforms,
    level included.

    Args:
        predicted, clean: Complex (B, F, bins).
        num_frames: (B,) valid frames of each clip.
        predicted_values, clean_values: (B, S) the same as waveforms.
        num_samples: (B,) true lengths.

    Returns:
        A scalar in fp32, at least 0.
    """
    valid = frame_range(clean_values.shape[1], num_samples)  # (B, S)
    signal = (clean_values * valid).square().sum(-1)
    noise = ((predicted_values - clean_values) * valid).square().sum(-1)
    snr = 10 * torch.log10((signal + 1e-6) / (noise + 1e-6))  # (B,)
    shortfall = (30.0 - snr).clamp(min=0.0).sum() / shared_count(snr.new_tensor(len(snr)))
    return spectral_distance(predicted, clean, num_frames) + 0.03 * shortfall


def spectral_distance(predicted: torch.Tensor, clean: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """
    The first two terms of [`spectral_loss`], the distance of compressed spectra with and without phase.

    Args:
        predicted, clean: Complex (B, F, bins).
        num_frames: (B,) valid frames of each clip.

    Returns:
        A scalar in fp32, at least 0.
    """
    valid = frame_range(predicted.shape[1], num_frames)[..., None]  # (B, F, 1)
    (predicted, loudness), (clean, clean_loudness) = compress(predicted), compress(clean)
    distance = (loudness - clean_loudness).square() + (predicted - clean).abs().square()
    return (distance * valid).sum() / (shared_count(valid.sum()) * predicted.shape[-1])


def compress(spectrum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectrum with its magnitude to the power of 0.3, and this magnitude; 1e-8 keeps the gradient finite."""
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
    compressed = _loudness(magnitude)
    return spectrum * (compressed / magnitude), compressed


def _magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    """|X|, three times faster on a CPU than `abs` of complex numbers."""
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()


def _loudness(magnitude: torch.Tensor) -> torch.Tensor:
    """magnitude ** 0.3 for positive numbers, five times faster on a CPU than `pow`."""
    return (0.3 * magnitude.log()).exp()


def frame_range(length: int, valid: torch.Tensor) -> torch.Tensor:
    """
    Args:
        length: Number of columns.
        valid: (B,) numbers of valid places.

    Returns:
        Boolean (B, length), true for the first `valid[b]` places of row b.
    """
    return torch.arange(length, device=valid.device) < valid[:, None]

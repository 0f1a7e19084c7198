# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Short-time Fourier transform of padded clips, and its inverse."""

import torch
from torch import nn

MAGNITUDE_FLOOR = 1e-6


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement.Spectrogram
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


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement.compress
def compress(spectrum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectrum with its magnitude to the power of 0.3, and this magnitude; 1e-8 keeps the gradient finite."""
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
    compressed = _loudness(magnitude)
    return spectrum * (compressed / magnitude), compressed


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement._magnitude
def _magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    """|X|, three times faster on a CPU than `abs` of complex numbers."""
    return (spectrum.real.square() + spectrum.imag.square()).sqrt()


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement._loudness
def _loudness(magnitude: torch.Tensor) -> torch.Tensor:
    """magnitude ** 0.3 for positive numbers, five times faster on a CPU than `pow`."""
    return (0.3 * magnitude.log()).exp()


# Copied from modeling_sparse_merit.models.sparse_merit.enhancement.frame_range
def frame_range(length: int, valid: torch.Tensor) -> torch.Tensor:
    """
    Args:
        length: Number of columns.
        valid: (B,) numbers of valid places.

    Returns:
        Boolean (B, length), true for the first `valid[b]` places of row b.
    """
    return torch.arange(length, device=valid.device) < valid[:, None]

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of CNN14."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

MOST_BLOCKS, MOST_CHANNELS, MOST_LABELS, MOST_MASKS, MOST_SECONDS = 32, 2**14, 100_000, 2**16, 3_600
LARGEST = {"hidden_size": 2**16, "num_mel_bins": 2**12, "n_fft": 2**20, "hop_length": 2**20}
"""Largest valid values of sizes, far beyond what is useful: they refuse files that would fill the memory."""


@strict
class Cnn14Config(PreTrainedConfig):
    r"""
    Configuration of a [`Cnn14ForAudioClassification`]: the CNN14 of PANNs (arXiv 1912.10211) at 16 kHz. Classes are
    those of `id2label`.

    Args:
        channels: Channels of each block of two convolutions.
        hidden_size: Width of the layer before the classifier.
        num_mel_bins, min_frequency, max_frequency: Number of mel bands, and their range in Hz.
        n_fft, hop_length: Window and hop of the spectrogram, in samples.
        sampling_rate: In Hz.
        seconds: Clips are repeated, or cropped, to this length.
        fade_seconds: Length of the linear fade at each joint of a repeated clip.
        conv_dropout, head_dropout: Dropout after each block, and around the hidden layer.
        mixup_alpha: Parameter of the Beta distribution of mixup in training (arXiv 1710.09412); 0 mixes nothing.
        time_masks, time_width: Number of masks over time in training (SpecAugment, arXiv 1904.08779), and their
            largest width in frames.
        frequency_masks, frequency_width: The same over mel bands.
        class_weights: Weight of each class in the cross entropy.

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.

    Example:
        >>> from modeling_sparse_merit import Cnn14Config
        >>> Cnn14Config(channels=[16, 32], id2label={0: "normal", 1: "crackle"}).num_labels
        2
    """

    model_type = "cnn14"

    channels: list[int] | tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    hidden_size: int = 2048
    num_mel_bins: int = 64
    min_frequency: float | int = 50
    max_frequency: float | int = 8000
    n_fft: int = 512
    hop_length: int = 160
    sampling_rate: int = 16_000
    seconds: float | int = 8.0
    fade_seconds: float | int = 0.0625
    conv_dropout: float | int = 0.2
    head_dropout: float | int = 0.5
    mixup_alpha: float | int = 0.2
    time_masks: int = 2
    time_width: int = 64
    frequency_masks: int = 2
    frequency_width: int = 8
    class_weights: list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_labels", 0) > MOST_LABELS:
            raise ValueError(f"`num_labels` is {kwargs['num_labels']}; expected at most {MOST_LABELS}.")
        super().__post_init__(**kwargs)

    def validate_cnn14(self) -> None:
        """Part of the validation that `transformers` runs when a configuration is made or saved."""
        if not 1 <= len(self.channels) <= MOST_BLOCKS or not all(1 <= size <= MOST_CHANNELS for size in self.channels):
            raise ValueError(
                f"`channels` is {self.channels}; expected 1 to {MOST_BLOCKS} numbers from 1 to {MOST_CHANNELS}."
            )
        for name, limit in LARGEST.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a whole number from 1 to {limit}.")
        for name in ("mixup_alpha", "fade_seconds", "time_masks", "time_width", "frequency_masks", "frequency_width"):
            if not 0 <= getattr(self, name) <= MOST_MASKS:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a number from 0 to {MOST_MASKS}.")
        if not 0 < self.seconds <= MOST_SECONDS:
            raise ValueError(f"`seconds` is {self.seconds}; expected more than 0 and at most {MOST_SECONDS}.")
        for name in ("conv_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected at least 0 and less than 1.")
        if not 0 <= self.min_frequency < self.max_frequency <= self.sampling_rate / 2:
            raise ValueError(
                f"`min_frequency`, `max_frequency` are {self.min_frequency}, {self.max_frequency}; expected a range "
                f"of at most {self.sampling_rate / 2:g} Hz, half the sampling rate."
            )
        shrunk = 2 ** (len(self.channels) - 1)  # every block but the last halves frames and bands
        if self.seconds * self.sampling_rate / self.hop_length < shrunk or self.num_mel_bins < shrunk:
            raise ValueError(
                f"`seconds`, `num_mel_bins` are {self.seconds}, {self.num_mel_bins}; expected at least {shrunk} "
                f"frames and {shrunk} bands for {len(self.channels)} blocks."
            )
        weights = self.class_weights
        if weights is not None and (
            len(weights) != self.num_labels or not all(0 < each < math.inf for each in weights)
        ):
            raise ValueError(
                f"`class_weights` has {len(weights)} numbers; expected a positive one for each of the "
                f"{self.num_labels} classes."
            )


Cnn14Config.register_for_auto_class()

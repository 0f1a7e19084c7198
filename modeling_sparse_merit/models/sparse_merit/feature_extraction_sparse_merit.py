# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scales recordings for the model, pads them into batches, and denormalizes enhanced speech."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, Wav2Vec2FeatureExtractor
from transformers.utils import logging

from .audio import as_float32

logger = logging.get_logger(__name__)

MIN_SAMPLES = 400  # one frame of the encoder, one window of the spectrogram


class SparseMeritFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Scales mono 16 kHz recordings for `SparseMeritModel` and pads them, with a mask, into a batch.

    Args:
        normalization: `"recording"` scales each recording to zero mean and unit variance over its own length,
            (x - mean) / sqrt(variance + 1e-7). `"corpus"` computes (x - corpus_mean) / corpus_std, as published.
        corpus_mean: mean of the samples of the training corpus; for `"corpus"` only.
        corpus_std: standard deviation of the samples of the training corpus, above 0; for `"corpus"` only.
        feature_size, sampling_rate, padding_value, return_attention_mask, kwargs: as in `Wav2Vec2FeatureExtractor`.

    Raises:
        ValueError: `normalization` is unknown, the corpus statistics do not match it, or padding is on the left.
    """

    def __init__(
        self,
        normalization: str = "recording",
        corpus_mean: float | None = None,
        corpus_std: float | None = None,
        feature_size: int = 1,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ):
        _check_normalization(normalization, corpus_mean, corpus_std)
        if not kwargs.get("do_normalize", True):
            raise ValueError(
                '`do_normalize=False` is not supported; use normalization="corpus" with mean 0 and std 1.'
            )
        if kwargs.get("padding_side", "right") != "right":
            raise ValueError(f"`padding_side` is {kwargs['padding_side']!r}; expected 'right'. Leave it out.")
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.normalization = normalization
        self.corpus_mean = corpus_mean
        self.corpus_std = corpus_std

    # The parameters differ from those of `Wav2Vec2FeatureExtractor`: `clean_speech` and `scale_like` are added.
    def __call__(  # type: ignore[override]
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        clean_speech: Any = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        scale_like: list[np.ndarray] | None = None,
    ) -> BatchFeature:
        """Scales and pads one recording or a list of them.

        The statistics are those of a whole recording, also where `truncation` cuts it to `max_length`; padding is
        added after scaling, so it is 0 for the model.

        Args:
            raw_speech: mono array, tensor or list of floats (samples,), or a list of such. Integers are scaled to
                [-1, 1).
            sampling_rate: its rate in Hz, checked against `self.sampling_rate`.
            clean_speech: clean target of each recording, of the same length; scaled with the noisy one's statistics.
            scale_like: for each recording, the mono float32 waveform (samples,) whose statistics scale it; by default
                the recording itself.
            padding, max_length, truncation, pad_to_multiple_of, return_attention_mask, return_tensors: as in
                `Wav2Vec2FeatureExtractor`.

        Returns:
            `input_values` (B, S) float32, `attention_mask` (B, S) int32 with 1 on the recording, and `clean_values`
            (B, S) float32 where `clean_speech` is given.

        Raises:
            ValueError: wrong rate; a recording that is empty, shorter than 400 samples, not finite or not mono;
                targets that do not match the recordings.
        """
        self._check_rate(sampling_rate)
        noisy = _clips(raw_speech, "raw_speech")
        scales = [self._scale(clip) for clip in scale_like or noisy]
        pad_arguments = {
            "padding": padding,
            "max_length": max_length,
            "truncation": truncation,
            "pad_to_multiple_of": pad_to_multiple_of,
            "return_attention_mask": return_attention_mask,
        }
        features = self._padded(noisy, scales, pad_arguments)
        if clean_speech is not None:
            clean = _clips(clean_speech, "clean_speech")
            _check_lengths(clean, noisy)
            features["clean_values"] = self._padded(clean, scales, pad_arguments)["input_values"]
        return features.convert_to_tensors(return_tensors)

    def denormalize(
        self, enhanced_values: Any, raw_speech: Any, scale_like: list[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Enhanced speech at the level and length of its recording.

        Args:
            enhanced_values: the model's output (B, S'), or (S',) of one recording, S' at least the recording's length.
            raw_speech, scale_like: the arguments that were passed to the feature extractor.

        Returns:
            One float32 array (samples,) for each recording.

        Raises:
            ValueError: the numbers of recordings differ, or enhanced speech is shorter than its recording.
        """
        noisy = _clips(raw_speech, "raw_speech")
        values = as_float32(enhanced_values, "`enhanced_values`")
        values = np.atleast_2d(values)  # (B, S')
        lengths = [len(clip) for clip in noisy]
        if values.ndim != 2 or len(values) != len(noisy) or values.shape[1] < max(lengths):
            raise ValueError(
                f"`enhanced_values` of shape {values.shape} do not cover {len(noisy)} recordings of {lengths} "
                "samples. Pass the same recordings as to the feature extractor, uncut."
            )
        speech = []
        for row, clip, scaled_like in zip(values, noisy, scale_like or noisy, strict=True):
            mean, std = self._scale(scaled_like)
            speech.append((row[: len(clip)] * std + mean).astype(np.float32))
        return speech

    def _scale(self, clip: np.ndarray) -> tuple[float, float]:
        """Mean and divisor of one recording."""
        if self.normalization == "corpus":
            assert self.corpus_mean is not None and self.corpus_std is not None  # `_check_normalization`
            return self.corpus_mean, self.corpus_std
        return float(clip.mean(dtype=np.float64)), math.sqrt(clip.var(dtype=np.float64) + 1e-7)

    def _padded(
        self, clips: list[np.ndarray], scales: list[tuple[float, float]], pad_arguments: dict[str, Any]
    ) -> BatchFeature:
        scaled = [((clip - mean) / std).astype(np.float32) for clip, (mean, std) in zip(clips, scales, strict=True)]
        return self.pad(BatchFeature({"input_values": scaled}), **pad_arguments)

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            logger.warning_once(
                f"Pass `sampling_rate` to {type(self).__name__}: at any other rate than {self.sampling_rate} Hz, the "
                "results are wrong without an error."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The recording is at {sampling_rate} Hz, but the model takes {self.sampling_rate} Hz. Resample it "
                f"first, `soxr.resample(recording, {sampling_rate}, {self.sampling_rate})`, or use the pipeline, "
                "which takes any rate."
            )


def _check_normalization(normalization: str, corpus_mean: float | None, corpus_std: float | None) -> None:
    if normalization == "corpus":
        if (
            corpus_mean is None
            or corpus_std is None
            or not math.isfinite(corpus_mean)
            or not 0 < corpus_std < math.inf
        ):
            raise ValueError(
                'normalization="corpus" needs a finite `corpus_mean` and a finite `corpus_std` above 0; '
                f"got {corpus_mean} and {corpus_std}."
            )
    elif normalization != "recording":
        raise ValueError(f'`normalization` must be "recording" or "corpus"; got {normalization!r}.')
    elif corpus_mean is not None or corpus_std is not None:
        raise ValueError(
            '`corpus_mean` and `corpus_std` need normalization="corpus": set it, or leave both numbers out.'
        )


def _clips(speech: Any, role: str) -> list[np.ndarray]:
    """One recording or several as a list of float32 (samples,), each checked."""
    is_list = isinstance(speech, list | tuple)
    if is_list and len(speech) == 0:
        raise ValueError(f"`{role}` is an empty list; expected at least one recording.")
    clips: Sequence[Any] = speech if is_list and np.ndim(speech[0]) > 0 else [speech]
    return [_clip(clip, f"Recording {index} of `{role}`") for index, clip in enumerate(clips)]


def _clip(clip: Any, name: str) -> np.ndarray:
    clip = as_float32(clip, name)
    if clip.ndim == 2 and clip.shape[0] == 1:
        clip = clip[0]  # one channel, or a batch of one: the same samples (samples,)
    if clip.ndim != 1:
        raise ValueError(
            f"{name} has the shape {clip.shape}; expected (samples,). If the rows are channels, average them: "
            "`array.mean(axis=0)`. If they are recordings, pass a list: `list(array)`."
        )
    if len(clip) < MIN_SAMPLES:
        raise ValueError(
            f"{name} has {len(clip)} samples; the model needs at least {MIN_SAMPLES}, one frame. Leave this recording "
            "out."
        )
    if not np.isfinite(clip).all():
        raise ValueError(f"{name} holds NaN or infinite samples. Repair it, for example with `numpy.nan_to_num`.")
    return clip


def _check_lengths(clean: list[np.ndarray], noisy: list[np.ndarray]) -> None:
    given, expected = [len(clip) for clip in clean], [len(clip) for clip in noisy]
    if given != expected:
        raise ValueError(f"`clean_speech` has {given} samples, `raw_speech` {expected}; expected the same lengths.")


SparseMeritFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

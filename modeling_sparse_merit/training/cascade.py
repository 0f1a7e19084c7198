# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The enhancement model of a cascade: it is frozen, and enhances each mixture before the model in training."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig

from ..data.mixing import SAMPLING_RATE
from ..evaluation.enhancers import ENHANCERS
from ..inference.features import sha256_of_weights
from ..models.audio_enhancer.configuration_audio_enhancer import AudioEnhancerConfig
from ..models.audio_enhancer.modeling_audio_enhancer import AudioEnhancerModel
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, load_checked
from ..models.sparse_merit.sources import locate
from ..models.sparse_merit.tasks import ENHANCEMENT
from .dataset import Collator, decoded

NO_FEATURES = (None, None)


class Enhancement(Protocol):
    """
    The enhancement of a cascade.

    Attributes:
        fingerprint: Depends on everything that the enhanced speech depends on, as text.
    """

    fingerprint: str

    def __call__(self, recordings: list[np.ndarray]) -> list[np.ndarray]:
        """Enhances noisy recordings, each (samples,) at 16 kHz."""


def build_enhancement(cleaned_by: str, device: torch.device) -> Enhancement:
    """
    The enhancement of a cascade, by another package or by a checkpoint.

    Args:
        cleaned_by: A name in `evaluation.enhancers.ENHANCERS`, or a checkpoint as in [`EnhancementModel`] or in
            [`AudioEnhancement`].
        device: The device that a checkpoint runs on.

    Raises:
        ValueError: The checkpoint has no enhancement task.
        ImportError: The other package is not installed; the message says how to install it.
    """
    if cleaned_by in ENHANCERS:
        return EnhancementPackage(cleaned_by)
    fields, _ = PreTrainedConfig.get_config_dict(locate(cleaned_by))
    is_audio_enhancer = fields.get("model_type") == AudioEnhancerConfig.model_type
    return AudioEnhancement(cleaned_by, device) if is_audio_enhancer else EnhancementModel(cleaned_by, device)


class EnhancementPackage:
    """
    An enhancer of another package.

    Args:
        name: A name in `evaluation.enhancers.ENHANCERS`.

    Attributes:
        fingerprint: Depends on everything that the enhanced speech depends on, as text.

    Raises:
        ImportError: The package is not installed; the message says how to install it.
    """

    def __init__(self, name: str):
        self.enhancer = ENHANCERS[name]()
        self.fingerprint = json.dumps(self.enhancer.describe(), sort_keys=True)

    def __call__(self, recordings: list[np.ndarray]) -> list[np.ndarray]:
        """Enhances noisy recordings, each (samples,) at 16 kHz, one by one. Their lengths are kept."""
        return [self.enhancer.enhance(recording) for recording in recordings]


class EnhancementModel:
    """
    A Sparse MERIT checkpoint that only enhances, as [`SpeechEnhancementAndEmotionPipeline`] does.

    Args:
        checkpoint: A name, a folder or a Hub id.
        device: The device that it runs on.

    Attributes:
        fingerprint: Depends on everything that the enhanced speech depends on, as text.

    Raises:
        ValueError: The checkpoint has no enhancement task.
    """

    def __init__(self, checkpoint: str, device: torch.device):
        source = locate(checkpoint)
        self.feature_extractor = SparseMeritFeatureExtractor.from_pretrained(source)
        load = partial(SparseMeritForSpeechEnhancementAndEmotion.from_pretrained, source, output_loading_info=True)
        self.model = load_checked(load, str(source)).to(device).eval()
        if ENHANCEMENT not in self.model.config.tasks:
            raise ValueError(
                f"`cleaned_by` is {checkpoint}, which has the tasks {self.model.config.tasks}; expected one with "
                "enhancement."
            )
        settings = [self.model.config.to_diff_dict(), self.feature_extractor.to_dict()]
        self.fingerprint = f"{json.dumps(settings, sort_keys=True, default=str)} {sha256_of_weights(self.model)}"

    @torch.inference_mode()
    def __call__(self, recordings: list[np.ndarray]) -> list[np.ndarray]:
        """Enhances noisy recordings, each (samples,) at 16 kHz, in one batch. Their levels and lengths are kept."""
        inputs = self.feature_extractor(recordings, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        outputs = self.model(**inputs.to(self.model.device), tasks=(ENHANCEMENT,))
        return self.feature_extractor.denormalize(outputs.enhanced_values.float().cpu(), recordings)


class AudioEnhancement:
    """
    An [`AudioEnhancerModel`] as the enhancement of a cascade.

    Args:
        checkpoint: A folder or a Hub id.
        device: The device that it runs on.

    Attributes:
        fingerprint: Depends on everything that the enhanced sounds depend on, as text.
    """

    def __init__(self, checkpoint: str, device: torch.device):
        source = locate(checkpoint)
        load = partial(AudioEnhancerModel.from_pretrained, source, output_loading_info=True)
        self.model = load_checked(load, str(source)).eval()
        self.model.to(device)
        settings = json.dumps(self.model.config.to_diff_dict(), sort_keys=True, default=str)
        self.fingerprint = f"{settings} {sha256_of_weights(self.model)}"

    @torch.inference_mode()
    def __call__(self, recordings: list[np.ndarray]) -> list[np.ndarray]:
        """Enhances noisy recordings, each (samples,) at 16 kHz, in one batch. Their levels and lengths are kept."""
        waveforms = [torch.from_numpy(recording) for recording in recordings]
        mask = pad_sequence([torch.ones_like(waveform) for waveform in waveforms], batch_first=True)  # (B, S)
        values = pad_sequence(waveforms, batch_first=True)
        enhanced = self.model(values.to(self.model.device), mask.to(self.model.device)).enhanced_values.cpu()
        return [row[: len(waveform)].numpy() for row, waveform in zip(enhanced, waveforms, strict=True)]


class CleanedLoader:
    """
    Batches whose noisy speech was enhanced by another model, except that of examples with cached features.

    Args:
        loader: Lists of examples, as `build_loader` makes them with `cleaned_by`; prepared by accelerate.
        enhance: The enhancement, from `build_enhancement`.
        feature_extractor: The feature extractor of the model in training.
        device: The device of the batches.
    """

    def __init__(
        self, loader: Any, enhance: Enhancement, feature_extractor: SparseMeritFeatureExtractor, device: torch.device
    ):
        self.loader, self.enhance, self.collate, self.device = loader, enhance, Collator(feature_extractor), device
        self.dataset, self.set_epoch = loader.dataset, loader.set_epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for examples in self.loader:
            batch = self.collate(self._cleaned(decoded(examples)))
            yield send_to_device(batch, self.device)

    def _cleaned(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = [row for row, example in enumerate(examples) if example.get("features", NO_FEATURES)[1] is None]
        enhanced = self.enhance([examples[row]["noisy"] for row in rows]) if rows else []
        cleaned = list(examples)
        for row, noisy in zip(rows, enhanced, strict=True):
            cleaned[row] = examples[row] | {"noisy": noisy}
        return cleaned

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
The hidden states of a frozen encoder on disk: computed when a mixture is first used, read when it is used again.

Mixtures then repeat after some epochs. A clip needs T x L x D numbers, 50 x L x D per second: 2.6 MB per second of
speech for the 25 hidden states of WavLM-Large in bf16, 0.1 MB for sparse-merit-tiny in fp32.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence

from .. import __version__
from ..inference.features import FeatureFolder, update_digest
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, encoder_fields
from .lora import TrainedModel, without_adapters

PRECISION_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class CachedLoader:
    """
    Batches with "encoder_outputs", read from disk or computed and written. The model then skips its encoder.

    Args:
        loader: A loader of local clips, as `build_loader` makes it, prepared by accelerate.
        model: A model with a frozen encoder that does not mask its input (SpecAugment).
        feature_extractor: The feature extractor of `loader`.
        folder: Folder for the features; each encoder, precision and input scale has a subfolder of its own.
        accelerator: Has the device and the precision.
        rounds: Epochs after which the mixtures repeat: those of epoch `rounds` are those of epoch 0.
        dtype: Type of the features on disk; by default that of the accelerator's precision.
        preprocessing: Fingerprint of what the mixtures pass through before the encoder, if anything.

    Raises:
        ValueError: The encoder masks its input (SpecAugment), or its output exceeds the range of `dtype`.
    """

    def __init__(
        self,
        loader: Any,
        model: TrainedModel,
        feature_extractor: SparseMeritFeatureExtractor,
        folder: Path,
        accelerator: Accelerator,
        rounds: int = 1,
        dtype: torch.dtype | None = None,
        preprocessing: str | None = None,
    ):
        plain = without_adapters(model)
        config = plain.config
        if config.apply_spec_augment and (config.mask_time_prob or config.mask_feature_prob):
            raise ValueError(
                f"`feature_cache` is {folder}, but SpecAugment masks the input of the encoder differently in each "
                "epoch; expected `config: {apply_spec_augment: false}`, or no `feature_cache`."
            )
        self.loader, self.encoder, self.accelerator = loader, plain.model.encoder, accelerator
        self.computed_in = PRECISION_DTYPES[accelerator.mixed_precision]
        self.dtype = dtype or self.computed_in
        self.folder = FeatureFolder(folder / self._fingerprint(plain, feature_extractor, preprocessing), rounds)
        self.dataset, self.epoch = loader.dataset, 0

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order of the clips and the round of their mixtures."""
        self.epoch = epoch
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.dataset.features = self.folder  # for the workers, which start now
        self.dataset.set_epoch(self.epoch)
        try:
            for batch in self.loader:
                yield self._with_encoder_outputs(**batch)
        finally:
            self.dataset.features = None

    def _with_encoder_outputs(self, features: list[tuple[Path, torch.Tensor | None]], **batch: Any) -> dict[str, Any]:
        known = [read for _, read in features]
        missing = [row for row, read in enumerate(known) if read is None]
        if missing:
            computed = self._encode(batch["input_values"][missing], batch["attention_mask"][missing])
            for row, states in zip(missing, computed, strict=True):
                self.folder.write(features[row][0], states)
                known[row] = states
        padded = pad_sequence([states for states in known if states is not None], batch_first=True).to(
            self.computed_in
        )  # (B, T, L, D)
        frame_mask = self.encoder._get_feature_vector_attention_mask(padded.shape[1], batch["attention_mask"])
        return {**batch, "encoder_outputs": (padded.unbind(2), frame_mask)}

    @torch.no_grad()
    def _encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """Runs the encoder: (B, S) and (B, S) -> (T, L, D) for each clip, without padding."""
        with self.accelerator.autocast():
            layer_outputs, frame_mask = self.encoder(input_values, attention_mask)
        exact = torch.stack(layer_outputs, dim=2)  # (B, T, L, D)
        stacked = exact.to(self.dtype)
        if not stacked.isfinite().all():
            raise ValueError(
                f"The hidden states of the encoder reach {exact.abs().max():.6g}, beyond the range of {self.dtype}; "
                "expected `feature_cache_dtype` bfloat16 or float32."
            )
        return [clip[:length] for clip, length in zip(stacked, frame_mask.sum(-1).tolist(), strict=True)]

    def _fingerprint(
        self,
        model: SparseMeritForSpeechEnhancementAndEmotion,
        feature_extractor: SparseMeritFeatureExtractor,
        preprocessing: str | None,
    ) -> str:
        """A hash of everything that the features of a mixture depend on: 16 hexadecimal digits."""
        precision = "" if self.computed_in == torch.float32 else f" of {self.computed_in}"
        settings = [
            __version__,
            f"{self.dtype}{precision}",
            encoder_fields(model.config),
            feature_extractor.to_dict(),
            *([preprocessing] if preprocessing else []),
        ]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        update_digest(digest, model.model.encoder)
        return digest.hexdigest()[:16]

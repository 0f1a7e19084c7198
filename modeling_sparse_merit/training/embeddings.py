# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of clips by frozen encoders, which are computed once, and may be kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import __version__
from ..inference.features import FeatureFolder, sha256_of_weights
from ..models.sparse_merit.configuration_speech_text import SPEECH
from ..models.sparse_merit.modeling_speech_text import SpeechTextForEmotion
from ..models.sparse_merit.processing_speech_text import SpeechTextProcessor
from .speech_text_clips import ClipDataset, prepare

CLIPS_AT_ONCE = 16


class EmbeddingFolder:
    """
    Embeddings on disk: a file for each recording or text, which is named by its SHA-256, in a folder for each encoder.

    Args:
        path: The folder.
        model: The model, whose encoders are frozen.
        processor: Its processor.
    """

    def __init__(self, path: Path, model: SpeechTextForEmotion, processor: SpeechTextProcessor):
        self.folders = {
            modality: FeatureFolder(path / _fingerprint(model, processor, modality))
            for modality in model.config.embedding_sizes
        }

    def read(self, modality: str, clip: Any) -> torch.Tensor | None:
        """
        The embedding of a clip, (D,); None if there is none yet.

        Args:
            modality: "speech" or "text".
            clip: Recording, float32 (samples,), or text.
        """
        return self.folders[modality].read(self._file(modality, clip))

    def write(self, modality: str, clip: Any, embedding: torch.Tensor) -> None:
        """
        Writes an embedding atomically.

        Args:
            modality, clip: As in `read`.
            embedding: (D,).
        """
        self.folders[modality].write(self._file(modality, clip), embedding)

    def _file(self, modality: str, clip: Any) -> Path:
        folder = self.folders[modality]
        if modality == SPEECH:
            return folder.file_of(clip)
        return folder.path / f"{hashlib.sha256(clip.encode()).hexdigest()}.safetensors"


@torch.inference_mode()
def embed_clips(
    model: SpeechTextForEmotion,
    processor: SpeechTextProcessor,
    clips: ClipDataset,
    folder: EmbeddingFolder | None = None,
) -> dict[str, torch.Tensor]:
    """
    Embeddings of all clips.

    Args:
        model: The model, in whose device they are computed.
        processor: Its processor.
        clips: The clips.
        folder: Where embeddings are read from, and new ones are written to.

    Returns:
        {"speech_embeddings" or "text_embeddings": (clips, D) on the CPU}, NaN for a missing recording or text.
    """
    was_training = model.training
    model.eval()
    sizes = model.config.embedding_sizes
    embeddings = {name: torch.full((len(clips), size), torch.nan) for name, size in sizes.items()}
    order = clips.by_length()
    for start in tqdm(range(0, len(clips), CLIPS_AT_ONCE), "embeddings", disable=None):
        rows = order[start : start + CLIPS_AT_ONCE]
        for modality, values in embeddings.items():
            given = {row: clip for row in rows if (clip := clips.clip(row)[modality]) is not None}
            missing = []
            for row, clip in given.items():
                known = None if folder is None else folder.read(modality, clip)
                if known is None:
                    missing.append(row)
                else:
                    values[row] = known
            computed = _embed(model, processor, modality, [given[row] for row in missing])
            for row, embedding in zip(missing, computed, strict=True):
                values[row] = embedding
                if folder is not None:
                    folder.write(modality, given[row], embedding)
    model.train(was_training)
    return {f"{modality}_embeddings": values for modality, values in embeddings.items()}


def _embed(
    model: SpeechTextForEmotion, processor: SpeechTextProcessor, modality: str, clips: Sequence[Any]
) -> list[torch.Tensor]:
    """Embeddings (D,) of recordings or texts, on the CPU."""
    if not clips:
        return []
    inputs = prepare(processor, [{modality: clip} for clip in clips])
    embed = model.embed_speech if modality == SPEECH else model.embed_text
    return list(embed(*(value.to(model.device) for value in inputs.values())).float().cpu())


def _fingerprint(model: SpeechTextForEmotion, processor: SpeechTextProcessor, modality: str) -> str:
    """A hash of everything that an embedding depends on except the clip: 16 hexadecimal digits."""
    part = processor.feature_extractor if modality == SPEECH else processor.tokenizer
    settings = [
        __version__,
        getattr(model.config, f"{modality}_config").to_dict(),
        part.to_dict() if modality == SPEECH else [processor.max_tokens, part.get_vocab(), type(part).__name__],
        *(sha256_of_weights(getattr(model, name)) for name in (modality, f"{modality}_pooling")),
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]

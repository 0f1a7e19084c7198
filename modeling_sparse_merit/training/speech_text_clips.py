# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Clips with speech and text, and their batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio
from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT
from ..models.sparse_merit.processing_speech_text import SpeechTextProcessor
from ..models.sparse_merit.tasks import EMOTION, UNLABELLED
from .targets import Target, collate_targets


class ClipDataset(torch.utils.data.Dataset):
    """
    Clips with their recordings and texts, or with embeddings in place of them.

    Args:
        rows: Rows of a dataset.
        targets: {task: target} of every row.
        modalities: "speech" and "text", as far as the model has them.
        max_seconds: Recordings that are longer are cropped at a random position; None keeps them whole.

    Attributes:
        described: All columns of the rows.
        embeddings: {"speech_embeddings" or "text_embeddings": (clips, D)}, which replace recordings and texts.
    """

    def __init__(
        self,
        rows: Dataset,
        targets: list[dict[str, Target]],
        modalities: Sequence[str],
        max_seconds: float | None = None,
    ):
        columns = {SPEECH: "audio", TEXT: "text"}
        self.described, self.rows = rows, rows.select_columns([columns[name] for name in modalities])
        self.targets, self.modalities, self.max_seconds = targets, modalities, max_seconds
        self.embeddings: dict[str, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labels(self) -> list[int]:
        """The emotion class of every clip, -100 without one."""
        return [int(targets.get(EMOTION, UNLABELLED)) for targets in self.targets]

    def by_length(self) -> list[int]:
        """All rows, the shortest text or recording first, as far as lengths are known without decoding."""
        name = "text" if TEXT in self.modalities else "duration"
        known = self.described[name] if name in self.described.features else []
        lengths = [len(value or "") if name == "text" else value or 0.0 for value in known]
        return np.argsort(lengths, kind="stable").tolist() if lengths else list(range(len(self.described)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index % len(self.targets)
        example: dict[str, Any] = {"targets": self.targets[row]}
        if self.embeddings is not None:
            return example | {name: values[row] for name, values in self.embeddings.items()}
        return example | self.clip(row)

    def clip(self, row: int) -> dict[str, Any]:
        """Recording, float32 (samples,) at 16 kHz, and text of a row; None where it has none."""
        stored, clip = self.rows[row], {}
        if SPEECH in self.modalities:
            clip[SPEECH] = None if stored["audio"] is None else self._cropped(load_audio(stored["audio"]))
        if TEXT in self.modalities:
            clip[TEXT] = stored["text"]
        return clip

    def _cropped(self, recording: np.ndarray) -> np.ndarray:
        length = None if self.max_seconds is None else int(self.max_seconds * SAMPLING_RATE)
        if length is None or len(recording) <= length:
            return recording
        start = int(torch.randint(len(recording) - length + 1, ()))  # torch seeds each worker
        return recording[start : start + length]


class Collator:
    """Collates clips into arguments of the model."""

    def __init__(self, processor: SpeechTextProcessor):
        self.processor = processor

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        targets = collate_targets([example.pop("targets") for example in examples])
        if any(name in examples[0] for name in ("speech_embeddings", "text_embeddings")):
            return {name: torch.stack([example[name] for example in examples]) for name in examples[0]} | targets
        return {**prepare(self.processor, examples), **targets}


def prepare(processor: SpeechTextProcessor, clips: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """
    Inputs of the model.

    Args:
        processor: That of the model.
        clips: As [`ClipDataset.clip`] returns them.
    """
    inputs: dict[str, Any] = {}
    if SPEECH in clips[0]:
        inputs |= {"audio": [clip[SPEECH] for clip in clips], "sampling_rate": SAMPLING_RATE}
    if TEXT in clips[0]:
        inputs["text"] = [clip[TEXT] for clip in clips]
    return dict(processor(**inputs, return_tensors="pt"))

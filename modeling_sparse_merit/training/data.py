# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""From tables to batches: clips are decoded, cropped and mixed in worker processes."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Table
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..audio import load_audio
from ..mixing import SAMPLING_RATE, MixingRecipe
from ..tables import TableError, concatenate_tables
from .settings import TrainingSettings

UNLABELLED = -100


class MixedClips(Dataset):
    """
    Noisy and clean clips of a speech table.

    Args:
        table: Speech table with `audio`, `emotion` and `duration`.
        recipe: How noise is mixed.
        labels: The emotions that are classes, in the order of the model; all others are unlabelled.
        max_seconds: Longer clips are cropped at a place drawn from (seed, epoch, index); None keeps them whole.
        fixed: Whether every epoch has the same mixtures, as a dev set must; else they are drawn anew.
    """

    def __init__(
        self,
        table: Table,
        recipe: MixingRecipe,
        labels: list[str],
        max_seconds: float | None = None,
        fixed: bool = False,
    ):
        self.table, self.recipe, self.max_seconds, self.fixed = table, recipe, max_seconds, fixed
        self.labels = class_indices(table, labels)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.table)

    def set_epoch(self, epoch: int) -> None:
        """Another epoch is another draw of every mixture, unless they are fixed."""
        self.epoch = 0 if self.fixed else epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        audio = self.table[index]["audio"]
        speech = self._crop(load_audio(audio), index)
        mixture = self.recipe.apply(speech, self.recipe.draw(index, self.epoch), name=str(audio.get("path") or index))
        return {"noisy": mixture.noisy, "clean": mixture.clean, "label": self.labels[index], "index": index}

    def lengths(self) -> list[float]:
        """Seconds of each clip, as far as it is used."""
        durations = np.asarray(self.table["duration"], dtype=np.float64)
        return np.minimum(durations, self.max_seconds or np.inf).tolist()

    def _crop(self, speech: np.ndarray, index: int) -> np.ndarray:
        surplus = 0 if self.max_seconds is None else len(speech) - int(self.max_seconds * SAMPLING_RATE)
        if surplus <= 0:
            return speech
        start = np.random.default_rng([self.recipe.seed, self.epoch, index, 1]).integers(surplus + 1)
        return speech[start : len(speech) - surplus + start]


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Clips of like length share a batch; the order depends on (seed, epoch) alone, also when resumed."""

    def __init__(self, batch_size: int, lengths: list[float], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        return super().__iter__()


class Collator:
    """Examples to the model's arguments; a class of its own so that worker processes can receive it."""

    def __init__(self, feature_extractor: Any):
        self.feature_extractor = feature_extractor

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.feature_extractor(
            [example["noisy"] for example in examples],
            sampling_rate=SAMPLING_RATE,
            clean_speech=[example["clean"] for example in examples],
            padding=True,
            return_tensors="pt",
        )
        return {**batch, "labels": torch.tensor([example["label"] for example in examples])}


def class_indices(table: Table, labels: list[str]) -> list[int]:
    """The class of every row: its emotion's place in `labels`, or -100 where it has none or one that is no class."""
    names = table.features["emotion"].names
    place = {names.index(label): index for index, label in enumerate(labels) if label in names}
    return [place.get(emotion, UNLABELLED) for emotion in table["emotion"]]


def class_weights(indices: list[int], labels: list[str]) -> list[float]:
    """
    n / (classes * n_class) over the labelled clips (paper, section IV).

    Raises:
        TableError: A class has no clip.
    """
    counts = Counter(index for index in indices if index != UNLABELLED)
    missing = [label for index, label in enumerate(labels) if not counts[index]]
    if missing:
        raise TableError(f"No training clip has the label {missing}; expected at least one for each of {labels}.")
    return [counts.total() / (len(labels) * counts[index]) for index in range(len(labels))]


def load_clips(settings: TrainingSettings, split: str) -> MixedClips:
    """The clips of one split, `train` with all that is drawn, any other with fixed mixtures."""
    train = split == "train"
    recipe = MixingRecipe(
        concatenate_tables(settings.noise, split=split),
        rooms=concatenate_tables(settings.rooms, split="train") if settings.rooms and train else None,
        snr_db=tuple(settings.snr_db if train else settings.eval_snr_db),
        level_db=tuple(settings.level_db),
        speed=tuple(settings.speed) if train else None,
        room_probability=settings.room_probability if train else 0.0,
        seed=settings.seed,
    )
    speech = concatenate_tables(settings.speech, split=split)
    return MixedClips(speech, recipe, settings.labels, settings.max_seconds if train else None, fixed=not train)


def build_loader(clips: MixedClips, feature_extractor: Any, settings: TrainingSettings, shuffle: bool) -> DataLoader:
    """Batches of clips of like length; drawn anew each epoch when shuffled, else in the order of length."""
    if shuffle:
        sampler = EpochLengthGroupedSampler(settings.batch_size, clips.lengths(), settings.seed)
    else:
        sampler = np.argsort(clips.lengths(), kind="stable").tolist()
    return DataLoader(
        clips,
        settings.batch_size,
        sampler=sampler,
        collate_fn=Collator(feature_extractor),
        num_workers=settings.workers,
    )

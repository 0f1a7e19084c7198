# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""From tables to batches: clips are decoded, cropped and mixed in worker processes.

The training speech is a table on this machine (`MixedClips`), or is read from the Hub on the way (`StreamedClips`).
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, IterableDataset
from datasets import Dataset as Table
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..audio import load_audio
from ..mixing import SAMPLING_RATE, MixingRecipe, audible_stretch
from ..tables import TableError, concatenate_tables, stream_tables
from .settings import TrainingSettings

UNLABELLED = -100


class Clips(Dataset):
    """
    Noisy and clean clips, wherever the speech comes from.

    Args:
        recipe: How noise is mixed.
        labels: The class of every clip, -100 where it has none.
        max_seconds: Longer clips are cropped at a place drawn from (seed, epoch, index); None keeps them whole.
        fixed: Whether every epoch has the same mixtures, as a dev set must; else they are drawn anew.
    """

    def __init__(self, recipe: MixingRecipe, labels: list[int], max_seconds: float | None = None, fixed: bool = False):
        self.recipe, self.labels, self.max_seconds, self.fixed = recipe, labels, max_seconds, fixed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Another epoch is another draw of every mixture, unless they are fixed."""
        self.epoch = 0 if self.fixed else epoch

    def mix(self, index: int, audio: dict[str, Any], label: int) -> dict[str, Any]:
        """The example of one recording; `index` is what its mixture is drawn from."""
        name = str(audio.get("path") or f"clip {index}")
        speech = self._crop(load_audio(audio), index)
        mixture = self.recipe.apply(speech, self.recipe.draw(index, self.epoch), name)
        return {"noisy": mixture.noisy, "clean": mixture.clean, "label": label, "index": index}

    def _crop(self, speech: np.ndarray, index: int) -> np.ndarray:
        if self.max_seconds is None or len(speech) <= self.max_seconds * SAMPLING_RATE:
            return speech
        offset = np.random.default_rng([self.recipe.seed, self.epoch, index, 1]).random()
        cropped = audible_stretch(speech, int(self.max_seconds * SAMPLING_RATE), offset)
        return speech if cropped is None else cropped  # the recipe names a recording that is all silent


class MixedClips(Clips):
    """
    The clips of a speech table.

    Args:
        table: Speech table with `audio`, `emotion` and `duration`.
        labels: The emotions that are classes, in the order of the model; all others are unlabelled.
        recipe, max_seconds, fixed: As for [`Clips`].
    """

    def __init__(
        self,
        table: Table,
        recipe: MixingRecipe,
        labels: list[str],
        max_seconds: float | None = None,
        fixed: bool = False,
    ):
        super().__init__(recipe, class_indices(table, labels), max_seconds, fixed)
        self.table = table

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.mix(index, self.table[index]["audio"], self.labels[index])

    def lengths(self) -> list[float]:
        """Seconds of each clip, as far as it is used."""
        durations = np.asarray(self.table["duration"], dtype=np.float64)
        return np.minimum(durations, self.max_seconds or np.inf).tolist()


class StreamedClips(Clips):
    """
    The clips of speech that is read on the way: each is asked for together with its recording.

    Args:
        rows: What is asked for, in the order of the stream.
        recipe, max_seconds: As for [`Clips`].
    """

    def __init__(self, rows: "StreamedRows", recipe: MixingRecipe, max_seconds: float | None = None):
        super().__init__(recipe, [label for labels in rows.labels for label in labels], max_seconds)
        self.rows = rows

    def __getitem__(self, row: tuple[int, dict[str, Any], int]) -> dict[str, Any]:
        return self.mix(*row)


class StreamedRows(Sampler):
    """
    The training rows of tables on the Hub: (place in the stream, recording, class).

    This is a sampler because a loader asks its sampler in one process, whatever the number of its workers, which then
    decode and mix. So the stream is read once, and a mixture depends on its place in the stream alone. The tables take
    turns in proportion to their sizes; the order follows from (seed, epoch).

    Args:
        tables: Names of datasets on the Hub. Their labels are read at once, since they say how much there is to train
            on, and of what.
        labels: The emotions that are classes.
        seed: Another seed is another order.
        buffer_size: Rows of each table that are held, to draw the next one from.
    """

    def __init__(self, tables: list[str], labels: list[str], seed: int, buffer_size: int):
        self.streams = stream_tables(tables, "train", ["audio", "emotion"])
        self.classes = [class_numbers(stream, labels) for stream in self.streams]
        self.labels = [class_indices(stream, labels) for stream in stream_tables(tables, "train", ["emotion"])]
        self.seed, self.buffer_size, self.epoch = seed, buffer_size, 0

    def __len__(self) -> int:
        return sum(map(len, self.labels))

    def set_epoch(self, epoch: int) -> None:
        """Another epoch is another order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any], int]]:
        generator = np.random.default_rng([self.seed, self.epoch, 0, 2])
        turns = np.repeat(np.arange(len(self.streams)), [len(labels) for labels in self.labels])  # (rows,)
        generator.shuffle(turns)
        rows = [self._shuffled(stream, generator) for stream in self.streams]
        for index, table in enumerate(turns.tolist()):
            row = next(rows[table])
            yield index, row["audio"], self.classes[table].get(row["emotion"], UNLABELLED)

    def _shuffled(self, stream: IterableDataset, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        """The rows of one table. `IterableDataset.shuffle` would give other orders in other versions of `datasets`."""
        files = generator.permutation(stream.num_shards).tolist()
        held = []
        for row in chain.from_iterable(stream.shard(stream.num_shards, file) for file in files):
            held.append(row)
            if len(held) == self.buffer_size:
                yield held.pop(generator.integers(self.buffer_size))
        generator.shuffle(held)
        yield from held


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


def class_indices(table: Table | IterableDataset, labels: list[str]) -> list[int]:
    """The class of every row: its emotion's place in `labels`, or -100 where it has none or one that is no class."""
    classes = class_numbers(table, labels)
    return [classes.get(emotion, UNLABELLED) for emotion in table["emotion"]]


def class_numbers(table: Table | IterableDataset, labels: list[str]) -> dict[int, int]:
    """
    The place in `labels` of each number in the column `emotion` that stands for one of them.

    Raises:
        TableError: The column does not say what its numbers stand for.
    """
    feature = table.features["emotion"]
    if not isinstance(feature, ClassLabel):
        raise TableError(f"The column 'emotion' is {feature}; expected ClassLabel, as dataset scripts write it.")
    return {feature.names.index(label): index for index, label in enumerate(labels) if label in feature.names}


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


def load_clips(settings: TrainingSettings, split: str) -> MixedClips | StreamedClips:
    """The clips of one split, `train` with all that is drawn and perhaps streamed, any other with fixed mixtures."""
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
    if settings.streaming and train:
        rows = StreamedRows(settings.speech, settings.labels, settings.seed, settings.shuffle_buffer)
        return StreamedClips(rows, recipe, settings.max_seconds)
    speech = concatenate_tables(settings.speech, split=split, download_all=not settings.streaming)
    if train and settings.tasks == ["emotion"]:  # all other clips have nothing to teach
        indices = class_indices(speech, settings.labels)
        speech = speech.select([row for row, index in enumerate(indices) if index != UNLABELLED])
    return MixedClips(speech, recipe, settings.labels, settings.max_seconds if train else None, fixed=not train)


def build_loader(
    clips: MixedClips | StreamedClips, feature_extractor: Any, settings: TrainingSettings, shuffle: bool
) -> DataLoader:
    """Batches of clips of like length, drawn anew each epoch when shuffled, else in the order of length; those of a
    stream as they come."""
    if isinstance(clips, StreamedClips):
        sampler = clips.rows
    elif shuffle:
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

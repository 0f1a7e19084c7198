# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Conversations from a dataset with embeddings, and their batches."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from ..data.datasets import DatasetError
from ..data.labels import class_numbers
from ..models.mister_e.losses import UNLABELLED
from .embed_dataset import EMBEDDINGS


@dataclass(frozen=True)
class Conversation:
    """
    The utterances of a dialogue, in the order of their turns.

    Attributes:
        name: Of the dialogue.
        rows: (U,), the rows of the dataset.
        labels: (U,) emotion classes, -100 without one.
        embeddings: {"speech" or "text": (U, D)}, 0 where an utterance does not have it.
        present: {"speech" or "text": (U,)}, whether it has it.
    """

    name: str
    rows: np.ndarray
    labels: torch.Tensor
    embeddings: Mapping[str, torch.Tensor]
    present: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.rows)


def embedding_sizes(rows: Dataset) -> dict[str, int]:
    """
    Width of the embeddings of each modality that a dataset has: "speech_size", "text_size", 0 for none.

    Raises:
        DatasetError: There are no embeddings, or they have several widths.
    """
    sizes = {}
    for modality, column in EMBEDDINGS.items():
        values = rows[column][:] if column in rows.features else []
        widths = sorted({len(value) for value in values if value is not None})
        if len(widths) > 1:
            raise DatasetError(f"{column} has the widths {widths}; embed all conversations with the same model")
        sizes[f"{modality}_size"] = widths[0] if widths else 0
    if not any(sizes.values()):
        raise DatasetError(
            f"the dataset has no embeddings in {' and '.join(EMBEDDINGS.values())}; `sparse-merit embed` adds them"
        )
    return sizes


def read_conversations(rows: Dataset, labels: Sequence[str], sizes: Mapping[str, int]) -> list[Conversation]:
    """
    The conversations of a dataset. Every utterance stays in its conversation, with or without a label.

    Args:
        rows: Rows with `dialogue`, `turn`, `emotion` and embeddings.
        labels: The emotions that are classes, in the order of the model.
        sizes: Width of the embeddings of each modality that the model has, "speech" and "text".

    Raises:
        DatasetError: A column is missing, a row has no dialogue or no turn, or two rows have the same one.
    """
    names = [EMBEDDINGS[modality] for modality in sizes]
    if missing := [name for name in ("dialogue", "turn", "emotion", *names) if name not in rows.features]:
        raise DatasetError(f"the dataset has no column {', '.join(map(repr, missing))}, which conversations need")
    classes = class_numbers(rows, list(labels))
    emotions = [classes.get(value, UNLABELLED) for value in rows["emotion"]]
    values = {modality: rows[EMBEDDINGS[modality]][:] for modality in sizes}
    conversations = []
    for name, turns in _ordered(rows).items():
        embeddings, present = {}, {}
        for modality, size in sizes.items():
            own = [values[modality][row] for row in turns]
            present[modality] = torch.tensor([value is not None for value in own])
            filled = [np.zeros(size, np.float32) if value is None else np.asarray(value, np.float32) for value in own]
            embeddings[modality] = torch.from_numpy(np.stack(filled))
        chosen = torch.tensor([emotions[row] for row in turns])
        conversations.append(Conversation(name, np.array(turns), chosen, embeddings, present))
    return conversations


def collate(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Arguments of the model for some conversations, padded on the right."""
    lengths = torch.tensor([len(conversation) for conversation in conversations])
    batch = {
        "utterance_mask": torch.arange(int(lengths.max())) < lengths[:, None],  # (B, U)
        "labels": pad_sequence([each.labels for each in conversations], batch_first=True, padding_value=UNLABELLED),
    }
    for modality in conversations[0].embeddings:
        for kind, name in (("embeddings", f"{modality}_embeddings"), ("present", f"{modality}_mask")):
            batch[name] = pad_sequence([getattr(each, kind)[modality] for each in conversations], batch_first=True)
    return batch


def _ordered(rows: Dataset) -> dict[str, list[int]]:
    """The rows of each dialogue in the order of their turns, some of whose numbers may be missing."""
    places: dict[str, dict[int, int]] = defaultdict(dict)
    for row, (dialogue, turn) in enumerate(zip(rows["dialogue"], rows["turn"], strict=True)):
        if dialogue is None or turn is None:
            raise DatasetError(f"row {row} has the dialogue {dialogue!r} and the turn {turn}; every row needs both")
        if turn in places[dialogue]:
            raise DatasetError(f"the dialogue {dialogue!r} has two rows with the turn {turn}; number them in order")
        places[dialogue][turn] = row
    return {dialogue: [turns[turn] for turn in sorted(turns)] for dialogue, turns in places.items()}

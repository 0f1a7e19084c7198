# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotions of a dataset as class numbers, and the weights of classes."""

from collections import Counter

from datasets import ClassLabel, IterableDataset
from datasets import Dataset as Table

from ..models.sparse_merit.tasks import UNLABELLED
from .datasets import DatasetError


def class_indices(table: Table | IterableDataset, labels: list[str]) -> list[int]:
    """The class of every row: its emotion's place in `labels`, or -100 where it has none or one that is no class."""
    classes = class_numbers(table, labels)
    return [classes.get(emotion, UNLABELLED) for emotion in table["emotion"]]


def class_numbers(
    table: Table | IterableDataset, labels: list[str], column: str = "emotion"
) -> dict[int, int] | dict[str, int]:
    """
    The place in `labels` of each value of a column that stands for one of them.

    Raises:
        DatasetError: The column holds neither class numbers that say what they stand for nor, but for the emotion,
            text.
    """
    feature = table.features[column]
    if isinstance(feature, ClassLabel):
        return {feature.names.index(label): index for index, label in enumerate(labels) if label in feature.names}
    if column == "emotion" or feature.dtype not in ("string", "large_string"):
        raise DatasetError(f"The column {column!r} is {feature}; expected ClassLabel, as dataset scripts write it.")
    return {label: index for index, label in enumerate(labels)}


def class_weights(
    indices: list[int], labels: list[str], kind: str = "inverse_frequency", beta: float = 0.999
) -> list[float] | None:
    """
    Weight of each class in the cross entropy, from the n labelled clips.

    Args:
        indices: The class of each clip, -100 where it has none.
        labels: The classes.
        kind: "inverse_frequency", n / (classes * n_class) (paper, section IV); "effective_number", in proportion to
            (1 - beta) / (1 - beta ** n_class), 1 on average (Cui et al., CVPR 2019); "none", which gives None.
        beta: The nearer to 1, the more a rare class counts.

    Raises:
        DatasetError: A class has no clip.
    """
    counts = Counter(index for index in indices if index != UNLABELLED)
    missing = [label for index, label in enumerate(labels) if not counts[index]]
    if missing:
        raise DatasetError(f"No training clip has the label {missing}; expected at least one for each of {labels}.")
    if kind == "none":
        return None
    if kind == "inverse_frequency":
        return [counts.total() / (len(labels) * counts[index]) for index in range(len(labels))]
    weights = [(1 - beta) / (1 - beta ** counts[index]) for index in range(len(labels))]
    return [len(labels) * weight / sum(weights) for weight in weights]

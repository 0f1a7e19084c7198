# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Class numbers of a dataset's emotions, and class weights."""

from collections import Counter

from datasets import ClassLabel, Dataset, IterableDataset

from ..models.sparse_merit.tasks import UNLABELLED
from .datasets import DatasetError


def class_indices(dataset: Dataset | IterableDataset, labels: list[str]) -> list[int]:
    """The class number of each row: the index of its emotion in `labels`, or -100 for unlabelled clips and other
    emotions.

    Args:
        dataset: a speech dataset with the column `emotion`.
        labels: the emotion classes.

    Raises:
        DatasetError: the emotion is not a `ClassLabel`.
    """
    classes = class_numbers(dataset, labels)
    return [classes.get(emotion, UNLABELLED) for emotion in dataset["emotion"]]


def class_numbers(
    dataset: Dataset | IterableDataset, labels: list[str], column: str = "emotion"
) -> dict[int, int] | dict[str, int]:
    """Maps the values of a column to indices in `labels`; other values are left out.

    Args:
        dataset: a dataset with the column.
        labels: the classes.
        column: name of the column.

    Raises:
        DatasetError: the column is not a `ClassLabel`; columns other than the emotion may also hold text.
    """
    feature = dataset.features[column]
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

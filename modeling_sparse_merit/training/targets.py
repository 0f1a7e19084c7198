# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Targets of the tasks from the columns of a speech dataset: classes and ratings of each clip."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset

from ..data.datasets import DatasetError
from ..data.labels import class_numbers
from ..models.sparse_merit.tasks import (
    EMOTION,
    TASKS,
    UNLABELLED,
    ClassificationTask,
    EmbeddingTask,
    RegressionTask,
    Task,
    columns_of,
)

Target = int | np.ndarray
"""A class, -100 for none; or ratings, float32 (K,), NaN for none."""


class Targets:
    """
    Reads the targets of some tasks from the rows of a dataset.

    Args:
        speech: The dataset, or a stream of one.
        tasks: Names of the tasks. Those of the kind waveform have no columns: their target is the clean speech.
        labels: The emotions that are classes, in the order of the model.

    Attributes:
        columns: Columns that a row must have.

    Raises:
        DatasetError: A column is missing or has the wrong type.
    """

    def __init__(self, speech: Dataset | IterableDataset, tasks: Sequence[str], labels: Sequence[str]):
        named = {name: TASKS[name] for name in tasks if TASKS[name].columns}
        self.columns = columns_of(tasks)
        missing = [column for column in self.columns if column not in speech.features]
        if missing:
            raise DatasetError(
                f"the dataset has no column {', '.join(map(repr, missing))}, which the tasks {list(named)} learn "
                f"from; its columns are {', '.join(speech.features)}"
            )
        self.readers = {name: _reader(speech, name, task, labels) for name, task in named.items()}

    def of(self, row: Mapping[str, Any]) -> dict[str, Target]:
        """The target of each task that has columns."""
        return {name: read(row) for name, read in self.readers.items()}


def has_target(targets: Mapping[str, Target]) -> bool:
    """Whether a clip has a target for at least one task."""
    return any(
        bool(np.isfinite(target).any()) if isinstance(target, np.ndarray) else target != UNLABELLED
        for target in targets.values()
    )


def collate_targets(targets: Sequence[Mapping[str, Target]]) -> dict[str, Any]:
    """
    Collates the targets of clips into arguments of the model: one argument for each task that has its own, such as
    `labels`, and `task_labels`, {task: targets}, for the others. Targets are (B,) classes or (B, K) ratings.
    """
    batch: dict[str, Any] = {}
    for name in targets[0]:
        values = torch.from_numpy(np.stack([target[name] for target in targets]))  # (B,) or (B, K)
        if (argument := TASKS[name].target) is None:
            batch.setdefault("task_labels", {})[name] = values
        else:
            batch[argument] = values
    return batch


def batch_targets(batch: Mapping[str, Any], name: str) -> torch.Tensor | None:
    """
    The targets of a task in a batch.

    Args:
        batch: Arguments of the model.
        name: Name of the task.

    Returns:
        (B,) classes, (B, K) ratings or (B, S) clean speech; None if there are none.
    """
    task = TASKS[name]
    return batch.get("task_labels", {}).get(name) if task.target is None else batch.get(task.target)


def _reader(
    speech: Dataset | IterableDataset, name: str, task: Task, labels: Sequence[str]
) -> Callable[[Mapping[str, Any]], Target]:
    if isinstance(task, RegressionTask):
        return lambda row: np.array([np.nan if row[key] is None else row[key] for key in task.columns], np.float32)
    assert isinstance(task, ClassificationTask | EmbeddingTask)
    (column,) = task.columns
    classes = class_numbers(speech, list(labels if name == EMOTION else task.labels or ()), column)
    return lambda row: classes.get(row[column], UNLABELLED)

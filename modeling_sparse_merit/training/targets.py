# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Targets of the tasks from the columns of a speech dataset: classes and ratings of each clip."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from datasets import ClassLabel, Dataset, IterableDataset

from ..data.datasets import DatasetError, read_datasets
from ..data.labels import class_numbers
from ..models.sparse_merit.clip_tasks import define_tasks
from ..models.sparse_merit.tasks import (
    EMOTION,
    ENHANCEMENT,
    TASKS,
    UNLABELLED,
    ClassificationTask,
    EmbeddingTask,
    RegressionTask,
    Task,
    columns_of,
    with_columns,
)

LEAST_CLIPS = 32
"""Clips in a batch that a CCC loss needs if gradients are accumulated: the CCC of few clips is biased towards 0."""

Target = int | np.ndarray
"""A class, -100 for none; or ratings, float32 (K,), NaN for none."""


class TaskSettings(Protocol):
    """Fields of the settings of a run that decide on its tasks, see [`TrainingSettings`]."""

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def tasks(self) -> list[str] | None: ...

    @property
    def task_columns(self) -> Mapping[str, Any]: ...

    @property
    def speech(self) -> list[str]: ...

    @property
    def streaming(self) -> bool: ...

    @property
    def gradient_accumulation_steps(self) -> int: ...


class Targets:
    """
    Reads the targets of some tasks from the rows of a dataset.

    Args:
        speech: The dataset, or a stream of one.
        tasks: The tasks by name. Those of the kind waveform have no columns: their target is the clean speech.
        labels: The emotions that are classes, in the order of the model.

    Attributes:
        columns: Columns that a row must have.

    Raises:
        DatasetError: A column is missing or has the wrong type.
    """

    def __init__(self, speech: Dataset | IterableDataset, tasks: Mapping[str, Task], labels: Sequence[str]):
        named = {name: task for name, task in tasks.items() if task.columns}
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


def configured_tasks(settings: TaskSettings, tasks: Mapping[str, Task] | None = None) -> dict[str, Task]:
    """
    The tasks of a run, with the columns of the settings.

    Args:
        settings: Settings of the run.
        tasks: Those of the model, by name; by default those that the settings define.

    Raises:
        ValueError: A task to train is not one of them, or `task_columns` do not fit.
    """
    if tasks is None:
        names = settings.config.get("tasks") or settings.tasks or (ENHANCEMENT, EMOTION)
        tasks = define_tasks(list(names), settings.config.get("clip_tasks"))
    unknown = sorted(({*(settings.tasks or ())} | {*settings.task_columns}) - {*tasks})
    if unknown:
        raise ValueError(f"`tasks` or `task_columns` has {unknown}; expected some of the tasks {list(tasks)}.")
    return {name: _with_columns(name, tasks[name], settings) for name in settings.tasks or tasks}


def _with_columns(name: str, task: Task, settings: TaskSettings) -> Task:
    columns = settings.task_columns.get(name)
    if columns is None:
        return task
    if name in TASKS:
        raise ValueError(f"`task_columns` has {name}; expected tasks in `clip_tasks`.")
    return with_columns(name, task, columns)


def add_classes(settings: TaskSettings) -> None:
    """
    Completes `clip_tasks` in the settings' `config`: a classification or an embedding without `labels` gets the
    values of its column in the train split, in alphabetical order.

    Raises:
        DatasetError: A dataset is missing or lacks the column.
    """
    clip_tasks = settings.config.get("clip_tasks") or {}
    open_tasks = [
        name
        for name, definition in clip_tasks.items()
        if definition.get("kind") in ("classification", "embedding") and not definition.get("labels")
    ]
    if not open_tasks or settings.streaming:
        return
    speech = read_datasets(settings.speech, split="train", required="split")
    for name in open_tasks:
        column = settings.task_columns.get(name, name)
        (column,) = [column] if isinstance(column, str) else column
        if column not in speech.features:
            raise DatasetError(f"the dataset has no column {column!r}, which the task {name} learns from")
        feature, values = speech.features[column], {value for value in speech[column] if value is not None}
        named = {feature.int2str(value) for value in values} if isinstance(feature, ClassLabel) else values
        clip_tasks[name] = {**clip_tasks[name], "labels": sorted(map(str, named))}


def compares_clips(settings: TaskSettings, tasks: Mapping[str, Task], clips: int) -> bool:
    """
    Whether the loss of a task compares the clips of a batch, which then needs enough of them.

    Args:
        settings: Settings of the run.
        tasks: The tasks to train, by name.
        clips: Clips in the batches of all processes, which are gathered.

    Raises:
        ValueError: Gradients are accumulated over batches with too few clips.
    """
    comparing = [name for name, task in tasks.items() if task.compares_clips]
    if comparing and settings.gradient_accumulation_steps > 1 and clips < LEAST_CLIPS:
        raise ValueError(
            f"`gradient_accumulation_steps` is {settings.gradient_accumulation_steps} and a batch has {clips} clips, "
            f"too few for the CCC loss of {comparing}; expected at least {LEAST_CLIPS}. Increase "
            "`per_device_train_batch_size`, or do not accumulate."
        )
    return bool(comparing)


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
        if (argument := _argument(name)) is None:
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
    argument = _argument(name)
    return batch.get("task_labels", {}).get(name) if argument is None else batch.get(argument)


def _argument(name: str) -> str | None:
    """The argument of the model with the targets of a task; None for `task_labels`."""
    return TASKS[name].target if name in TASKS else None


def _reader(
    speech: Dataset | IterableDataset, name: str, task: Task, labels: Sequence[str]
) -> Callable[[Mapping[str, Any]], Target]:
    if isinstance(task, RegressionTask):
        return lambda row: np.array([np.nan if row[key] is None else row[key] for key in task.columns], np.float32)
    assert isinstance(task, ClassificationTask | EmbeddingTask)
    (column,) = task.columns
    classes = class_numbers(speech, list(labels if name == EMOTION else task.labels or ()), column)
    if isinstance(task, EmbeddingTask):  # other classes count in the EER of a dev set, and not in the loss
        other = sorted({value for value in speech[column] if value is not None} - set(classes))
        classes = {**classes, **{value: len(task.labels) + place for place, value in enumerate(other)}}
    return lambda row: classes.get(row[column], UNLABELLED)

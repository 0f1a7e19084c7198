# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
The tasks that a model may have. A `Task` defines one: its kind, its head, and the names of its output and targets.
They are the entries of `TASKS`, and those that a configuration defines itself (`clip_tasks.py`). Model, pipelines,
training, evaluation, ONNX export and model card read them from `config.task_definitions`.

A new head is a file of its own with an `nn.Module`, and a line here:

    class ValenceHead(nn.Module):
        def __init__(self, config): ...
        def forward(self, features, frame_mask): ...       # (B, T, D), (B, T) -> (B, K)
        def loss(self, predicted, targets, config): ...    # (B, K) twice -> scalar

    TASKS["valence"] = RegressionTask(ValenceHead, outputs=("valence",), minimum=1.0, maximum=7.0)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from .deep_filtering import build_enhancement_head
from .emotion import EmotionHead


@dataclass(frozen=True)
class TaskInputs:
    """
    Inputs of a task for a batch.

    Attributes:
        features: (B, T, D), 0 in the padding; pooled (B, D) for heads without pooling.
        frame_mask: (B, T), true for the frames that belong to the recording; None for pooled features.
        input_values: (B, S), the input of the model.
        num_samples: (B,), true lengths.
        targets: Targets of the loss; None for no loss.
    """

    features: torch.Tensor
    frame_mask: torch.Tensor | None = None
    input_values: torch.Tensor | None = None
    num_samples: torch.Tensor | None = None
    targets: torch.Tensor | None = None


@dataclass(frozen=True)
class Task:
    """
    A task, without its name, which is its key in `TASKS` or in `clip_tasks` of the configuration.

    Attributes:
        head: Creates the head, an `nn.Module`, from a configuration.
        output: Field of [`SparseMeritOutput`] for the output of the head; None puts it into `task_outputs`.
        target: Argument of the model's `forward` with the targets; None takes them from `task_labels`.
        columns: Columns of a speech dataset that hold the targets.
        weight: Field of the configuration with the weight of the loss; None weighs it 1.
        compares_clips: Whether the loss compares the clips of a batch, so that small or uniform batches bias it.
        kind: "waveform", "classification", "regression" or "embedding".
        metric: The score that checkpoints are chosen by.
        is_regression: Whether a loss of 0 is that of exact predictions (see [`UncertaintyLoss`]).
    """

    head: Callable[[Any], nn.Module]
    output: str | None = None
    target: str | None = None
    columns: tuple[str, ...] = ()
    weight: str | None = None
    compares_clips: bool = False
    kind: ClassVar[str]
    metric: ClassVar[str]
    is_regression: ClassVar[bool] = False

    def run(
        self, name: str, head: Any, inputs: TaskInputs, config: Any
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """
        Runs the head of the task.

        Args:
            name: Name of the task.
            head: The head, which `head(config)` created.
            inputs: Features and targets of a batch.
            config: Configuration of the model.

        Returns:
            The outputs by name, among them that of the task; and the loss, a scalar, or None without targets.
        """
        predicted = self.scaled(head(inputs.features, inputs.frame_mask))
        loss = None if inputs.targets is None else head.loss(predicted, inputs.targets, config)
        return {self.output or name: predicted}, loss

    def scaled(self, predicted: torch.Tensor) -> torch.Tensor:
        """The output of the head in the scale of the targets, of the same shape."""
        return predicted

    def loss_weight(self, config: Any) -> float:
        """Weight of the loss in the sum of all losses."""
        return 1.0 if self.weight is None else getattr(config, self.weight)

    def describe(self, config: Any) -> dict[str, Any]:
        """
        Kind, shape and meaning of the output, JSON-clean.

        Raises:
            NotImplementedError: The kind of task does not define it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class WaveformTask(Task):
    """
    A waveform for a recording. The head is called with the features, the frame mask, the input values, the true
    lengths and the clean waveform or None. It returns its outputs by name, waveforms as (B, S), and its loss or None.
    """

    kind = "waveform"
    metric = "si_sdr"
    is_regression = True

    def run(
        self, name: str, head: Any, inputs: TaskInputs, config: Any
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """
        Runs the head, which returns its outputs by name and its loss.

        Args:
            name, head, inputs, config: As in [`Task`].
        """
        return head(inputs.features, inputs.frame_mask, inputs.input_values, inputs.num_samples, inputs.targets)

    def describe(self, config: Any) -> dict[str, Any]:
        """As in [`Task`]."""
        meaning = "clean speech in the scale of `input_values`, 0 in the padding"
        return {"kind": self.kind, "shape": ["batch", "samples"], "meaning": meaning}


@dataclass(frozen=True)
class ClassificationTask(Task):
    """
    One class for a recording. The head gives logits (B, classes); targets are (B,), -100 for a clip without a class.

    Attributes:
        labels: The classes; None, for the task of `labels` and `logits` alone, takes the configuration's `id2label`.

    Raises:
        ValueError: A task with targets of its own has no distinct classes.
    """

    labels: tuple[str, ...] | None = None
    kind = "classification"
    metric = "macro_f1"

    def __post_init__(self) -> None:
        has_own = self.target is None or self.labels is not None  # else those of the configuration
        if has_own and not len(set(self.labels or ())) == len(self.labels or ()) > 0:
            raise ValueError(f"`labels` is {self.labels}; expected distinct classes, at least one.")

    def classes(self, config: Any) -> list[str]:
        """The classes in the order of the logits."""
        if self.labels is not None:
            return list(self.labels)
        return [config.id2label[index] for index in range(config.num_labels)]

    def describe(self, config: Any) -> dict[str, Any]:
        """As in [`Task`], with the `labels`."""
        labels = self.classes(config)
        meaning = f"before the softmax: {', '.join(labels)}"
        return {"kind": self.kind, "shape": ["batch", len(labels)], "labels": labels, "meaning": meaning}


@dataclass(frozen=True)
class RegressionTask(Task):
    """
    Ratings of a recording. The head gives (B, K) between 0 and 1, which become `minimum` to `maximum`; targets are
    (B, K) in that scale, NaN where a rating is missing.

    Attributes:
        outputs: Names of the K ratings, and of the columns that hold them, unless `columns` says otherwise.
        minimum, maximum: The scale of the ratings. Outputs are not clipped to it, those of the pipeline are.

    Raises:
        ValueError: There is no rating, their names repeat or are not as many as `columns`, or the scale is empty.
    """

    outputs: tuple[str, ...] = ()
    minimum: float = 0.0
    maximum: float = 1.0
    kind = "regression"
    metric = "ccc"
    is_regression = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.columns or self.outputs)
        if not self.outputs or len(set(self.outputs)) != len(self.columns):
            raise ValueError(
                f"`outputs` is {self.outputs}, `columns` {self.columns}; expected distinct names, and a column for "
                "each."
            )
        if not self.minimum < self.maximum:
            raise ValueError(
                f"`minimum`, `maximum` are {self.minimum}, {self.maximum}; expected `minimum` < `maximum`."
            )

    def scaled(self, predicted: torch.Tensor) -> torch.Tensor:
        """Ratings from 0 to 1 -> from `minimum` to `maximum`, (B, K)."""
        return self.minimum + (self.maximum - self.minimum) * predicted

    def describe(self, config: Any) -> dict[str, Any]:
        """As in [`Task`], with the names of the `ratings`."""
        ratings = list(self.outputs)
        meaning = f"{', '.join(ratings)}, from {self.minimum:g} to {self.maximum:g}"
        return {"kind": self.kind, "shape": ["batch", len(ratings)], "ratings": ratings, "meaning": meaning}


@dataclass(frozen=True)
class EmbeddingTask(Task):
    """
    A vector for a recording, near those of the same class, for instance of the same speaker. The head gives (B, size);
    targets are (B,) as for a classification.

    Attributes:
        labels: The classes of the training data. Embeddings of other classes can be compared as well.
    """

    labels: tuple[str, ...] = ()
    kind = "embedding"
    metric = "eer"

    def describe(self, config: Any) -> dict[str, Any]:
        """As in [`Task`]."""
        meaning = "nearer, by cosine similarity, for recordings of one class"
        return {"kind": self.kind, "shape": ["batch", "size"], "meaning": meaning}


UNLABELLED = -100
"""Class of a clip without one, as in `torch.nn.CrossEntropyLoss`."""

ENHANCEMENT, EMOTION = "enhancement", "emotion"
TASKS: dict[str, Task] = {
    ENHANCEMENT: WaveformTask(build_enhancement_head, "enhanced_values", "clean_values", weight="enhancement_weight"),
    EMOTION: ClassificationTask(EmotionHead, "logits", "labels", ("emotion",)),
}
"""Tasks that every configuration may name."""


def further_tasks(tasks: Mapping[str, Task]) -> list[str]:
    """The clip tasks among some tasks that have no field of their own in outputs, results and reports."""
    return [name for name, task in tasks.items() if task.kind != "waveform" and name != EMOTION]


def columns_of(tasks: Mapping[str, Task]) -> list[str]:
    """The columns of a speech dataset that some tasks learn from, each once."""
    return list(dict.fromkeys(column for task in tasks.values() for column in task.columns))


def with_columns(name: str, task: Task, columns: str | Sequence[str]) -> Task:
    """
    The task with targets in other columns.

    Args:
        name: Its name.
        task: A task with one output per recording.
        columns: One column, or as many as the task has.

    Raises:
        ValueError: Their number differs.
    """
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if len(names) != len(task.columns):
        raise ValueError(f"`task_columns` has {list(names)} for {name}; expected {len(task.columns)} columns.")
    return replace(task, columns=names)


def tasks_of_kind(tasks: Mapping[str, Task], *kinds: str) -> list[str]:
    """
    The tasks that are of one of some kinds, in their order.

    Args:
        tasks: Tasks by name.
        kinds: Kinds of tasks, such as "waveform".
    """
    return [name for name, task in tasks.items() if task.kind in kinds]


def targets_of(
    tasks: Mapping[str, Task], task_labels: dict[str, torch.Tensor], **arguments: torch.Tensor | None
) -> dict[str, torch.Tensor | None]:
    """
    The targets of each task, from the argument of `forward` that the task names, or from `task_labels`.

    Args:
        tasks: Tasks of the model by name.
        task_labels: {task: targets} of tasks without an argument of their own.
        arguments: The arguments that tasks name.

    Raises:
        ValueError: `task_labels` has a key that is not a task without an argument of its own.
    """
    expected = [name for name, task in tasks.items() if task.target is None]
    if unknown := sorted(set(task_labels) - set(expected)):
        raise ValueError(f"`task_labels` has {unknown}; expected some of the tasks {expected} of this model.")
    named = {name: task.target for name, task in tasks.items()}
    return task_labels | {name: arguments[target] for name, target in named.items() if target is not None}


def weighted_sum(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor | None:
    """
    The sum of some losses, a scalar; None if there is none.

    Args:
        losses: Scalars by name.
        weights: Weight of each.
    """
    weighted = [weights[name] * loss for name, loss in losses.items()]
    return sum(weighted[1:], start=weighted[0]) if weighted else None

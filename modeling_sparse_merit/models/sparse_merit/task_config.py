# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the configurations of models with tasks share: labels, definitions, weights, and settings of the heads."""

import math
from typing import Any

from transformers.activations import ACT2FN

from .clip_tasks import define_tasks
from .tasks import Task

PUBLISHED_LABELS = ("angry", "sad", "happy", "neutral")
MOST_LABELS = 100_000


class TaskConfig:
    """
    Mixed into a configuration with the fields `tasks`, `clip_tasks`, `task_weights`, `head_activation`,
    `class_weights`, `focal_gamma` and `label_smoothing`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Converts the keys of labels to integers. New labels reset `class_weights`, which belong to the old ones."""
        if name == "id2label" and value is not None:
            value = {int(index): label for index, label in value.items()}
            before = self.__dict__.get("id2label")
            if before is not None and before != value and self.__dict__.get("class_weights") is not None:
                super().__setattr__("class_weights", None)
        super().__setattr__(name, value)

    def to_diff_dict(self: Any) -> dict[str, Any]:
        """As in `PreTrainedConfig`, but always with the labels, whose default is another one."""
        fields = super().to_diff_dict()  # type: ignore[misc]  # of the configuration that this is mixed into
        return {**fields, "id2label": self.id2label, "label2id": self.label2id}

    @property
    def loss_weights(self: Any) -> dict[str, float]:
        """The weight of each of the model's `losses` in its `loss`."""
        weights = {name: task.loss_weight(self) for name, task in self.task_definitions.items()}
        return {**weights, **(self.task_weights or {})}

    @property
    def task_definitions(self: Any) -> dict[str, Task]:
        """The `tasks` by name: entries of `TASKS`, and those of `clip_tasks`."""
        return define_tasks(list(self.tasks), self.clip_tasks)


def set_label_defaults(config: Any, given: dict[str, Any]) -> None:
    """
    Gives the labels their defaults, before `__post_init__` of `PreTrainedConfig`.

    Args:
        config: A [`TaskConfig`].
        given: Arguments of the configuration that are not fields, among them perhaps `num_labels`.

    Raises:
        ValueError: There are too many labels.
    """
    if isinstance(given.get("num_labels"), int) and given["num_labels"] > MOST_LABELS:
        raise ValueError(f"`num_labels` is {given['num_labels']}; expected at most {MOST_LABELS}.")
    if config.id2label is None and "num_labels" not in given:
        config.id2label = dict(enumerate(PUBLISHED_LABELS))
    if config.id2label is not None and config.label2id is None:
        config.label2id = {label: int(index) for index, label in config.id2label.items()}
    config.tasks = list(config.tasks)


def check_sizes(config: Any, largest: dict[str, int]) -> None:
    """
    Checks fields that are sizes. The limits, far beyond what is useful, refuse files that would fill the memory.

    Args:
        config: The configuration.
        largest: {field: its largest valid value}.

    Raises:
        ValueError: A size is below 1 or too large.
    """
    for name, limit in largest.items():
        if not 1 <= getattr(config, name) <= limit:
            raise ValueError(f"`{name}` is {getattr(config, name)}; expected a whole number from 1 to {limit}.")


def check_heads(config: Any) -> None:
    """
    Checks the fields of a [`TaskConfig`].

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.
    """
    definitions = config.task_definitions  # which checks them
    weights = config.task_weights or {}
    weighted = [name for name, task in definitions.items() if task.weight is None]
    if not set(weights) <= set(weighted) or not all(0 <= weight < math.inf for weight in weights.values()):
        raise ValueError(
            f"`task_weights` is {weights}; expected finite numbers of at least 0 for some of {weighted}. The weight "
            "of the enhancement is `enhancement_weight`."
        )
    if config.head_activation not in ACT2FN:
        raise ValueError(f"`head_activation` is {config.head_activation!r}; expected one of {sorted(ACT2FN)}.")
    if not 0 <= config.focal_gamma < math.inf:
        raise ValueError(f"`focal_gamma` is {config.focal_gamma}; expected a finite number of at least 0.")
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"`label_smoothing` is {config.label_smoothing}; expected at least 0 and less than 1.")
    if config.problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"`problem_type` is {config.problem_type!r}; expected 'single_label_classification': the emotion head "
            "predicts one class per clip. Leave the field out."
        )
    class_weights = config.class_weights
    if class_weights is not None and (
        len(class_weights) != config.num_labels or not all(0 < weight < math.inf for weight in class_weights)
    ):
        raise ValueError(
            f"`class_weights` is {class_weights}; expected {config.num_labels} positive numbers, one per label."
        )

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Distress over time: the sum of the scores of some emotions, smoothed over the segments of a recording."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..models.sparse_merit.tasks import EMOTION, Task

TIME_CONSTANT = 10.0  # seconds of speech


def task_with_labels(tasks: Mapping[str, Task], config: Any, labels: Sequence[str]) -> str:
    """The first classification that has all of some labels.

    Args:
        tasks: the tasks of a model by name.
        config: its configuration.
        labels: the labels.

    Raises:
        ValueError: there is none; the message lists the labels of each task.
    """
    classes = {name: task.describe(config)["labels"] for name, task in tasks.items() if task.kind == "classification"}
    for name, known in classes.items():
        if labels and set(labels) <= set(known):
            return name
    given = "; ".join(f"{name} has {', '.join(known)}" for name, known in classes.items()) or "it has no classes"
    raise ValueError(f"--distress is {','.join(labels)}; expected labels of one task of the model: {given}.")


def distress_curve(
    segments: Iterable[Mapping[str, Any]], task: str, labels: Sequence[str], time_constant: float = TIME_CONSTANT
) -> list[float]:
    """The smoothed distress at the end of each segment, from 0 to 1.

    The distress of a segment is the sum of the scores of the labels. The curve is an exponentially weighted moving
    average, in which a segment of `d` seconds has the weight `1 - exp(-d / time_constant)`; pauses have none.

    Args:
        segments: segments of a pipeline in temporal order, with `start`, `end`, and `scores` or `task_outputs`.
        task: the task whose scores are used.
        labels: some of its labels.
        time_constant: in seconds of speech.
    """
    curve: list[float] = []
    for segment in segments:
        scores = segment["scores"]
        if task != EMOTION:
            scores = {entry["label"]: entry["score"] for entry in segment["task_outputs"][task]}
        distress = sum(scores[label] for label in labels)
        before = curve[-1] if curve else distress
        weight = 1 - math.exp(-(segment["end"] - segment["start"]) / time_constant)
        curve.append(before + weight * (distress - before))
    return [round(value, 6) for value in curve]

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Tasks that a configuration defines, with one output per recording: `clip_tasks`, {name: definition}.

    {"attributes": {"kind": "regression", "outputs": ["arousal", "valence"], "minimum": 1, "maximum": 7},
     "intent": {"kind": "classification", "labels": ["order", "question"]},
     "speaker": {"kind": "embedding", "size": 192, "labels": ["anna", "ben"]}}
"""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from .clip_heads import RATING_LOSSES, ClassificationHead, EmbeddingHead, RatingHead
from .tasks import TASKS, ClassificationTask, EmbeddingTask, RegressionTask, Task

RESERVED = {
    *("balance", "loss", "losses", "logits", "features", "audio", "sampling_rate", "transcript"),
    *(*TASKS, *dir(nn.ModuleDict())),
}
"""Names that outputs, results or modules already have."""
FIELDS: dict[str, dict[str, Any]] = {  # of each kind, with their defaults; None where there is none
    "regression": {"outputs": None, "minimum": None, "maximum": None, "loss": "ccc"},
    "classification": {"labels": None, "class_weights": None, "focal_gamma": 0.0, "label_smoothing": 0.0},
    "embedding": {"size": 192, "labels": (), "margin": 0.2, "scale": 30.0},
}
OPTIONAL = ("class_weights",)
SIZES = {"hidden_size": "emotion_hidden_size", "pooling_heads": "emotion_pooling_heads"}
"""Optional fields of every kind, and the fields of the configuration that they take the place of."""


def define_tasks(names: list[str], clip_tasks: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Task]:
    """
    The tasks of a configuration.

    Args:
        names: Its `tasks`.
        clip_tasks: Its `clip_tasks`.

    Returns:
        {name: task} in the order of `names`.

    Raises:
        ValueError: A name or a definition is not valid.
    """
    own = {name: clip_task(name, definition) for name, definition in (clip_tasks or {}).items()}
    known = {**TASKS, **own}
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"`tasks` is {names}; expected distinct names out of {list(known)}, at least one. Define further tasks in "
            "`clip_tasks`."
        )
    if unused := [name for name in own if name not in names]:
        raise ValueError(
            f"`clip_tasks` defines {unused}, but `tasks` is {names}. Add them to `tasks`, or remove them."
        )
    return {name: known[name] for name in names}


def clip_task(name: str, definition: Mapping[str, Any]) -> Task:
    """
    A task of one of the kinds in `FIELDS`.

    Args:
        name: Its name.
        definition: `kind` and fields of this kind. "regression": `outputs`, names of the ratings; `minimum`,
            `maximum`, their scale; `loss`, "ccc" or "mse". "classification": `labels`; `class_weights`, `focal_gamma`,
            `label_smoothing`. "embedding": `size`; `labels`, the classes of the training data; `margin` in radians,
            `scale`. All: `hidden_size` and `pooling_heads` of the head, by default those of the emotion head.

    Raises:
        ValueError: The name, a field or its value is not valid; the message names the task.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in RESERVED:
        raise ValueError(
            f"`clip_tasks` has the name {name!r}; expected lower-case letters, digits and underscores, the first a "
            f"letter, and none of the names {sorted(TASKS)} or of fields of outputs."
        )
    if not isinstance(definition, Mapping) or definition.get("kind") not in FIELDS:
        raise ValueError(f"`clip_tasks` defines {name} as {definition}; expected a `kind` out of {list(FIELDS)}.")
    fields = FIELDS[definition["kind"]]
    unknown = sorted(set(definition) - {"kind", *fields, *SIZES})
    sizes = {key: definition[key] for key in SIZES if definition.get(key) is not None}
    given = {**fields, **{key: value for key, value in definition.items() if key not in ("kind", *SIZES)}}
    missing = [key for key, value in given.items() if value is None and key not in OPTIONAL]
    if unknown or missing:
        fault = f"with the unknown fields {unknown}" if unknown else f"without {missing}"
        raise ValueError(
            f"`clip_tasks` defines {name}, of the kind {definition['kind']}, {fault}; its fields are "
            f"{[*fields, *SIZES]}."
        )
    try:
        return _with_sizes(_KINDS[definition["kind"]](name, **given), sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`clip_tasks` defines {name} as {dict(definition)}: {error}") from error


def _with_sizes(task: Task, sizes: dict[str, int]) -> Task:
    if not all(isinstance(size, int) and size >= 1 for size in sizes.values()):
        raise ValueError(f"expected whole numbers of at least 1 for {' and '.join(SIZES)}.")
    return replace(task, head=partial(_resized, task.head, sizes)) if sizes else task


def _resized(head: Callable[[Any], nn.Module], sizes: dict[str, int], config: Any) -> nn.Module:
    """The head of a configuration with other sizes."""
    changed = copy.copy(config)
    for field, size in sizes.items():
        setattr(changed, SIZES[field], size)
    return head(changed)


def _regression(name: str, outputs: list[str], minimum: float, maximum: float, loss: str) -> Task:
    if loss not in RATING_LOSSES:
        raise ValueError(f"`loss` is {loss!r}; expected one of {list(RATING_LOSSES)}.")
    head = partial(RatingHead, size=len(outputs), minimum=minimum, maximum=maximum, loss=loss)
    names = tuple(outputs)
    return RegressionTask(head, outputs=names, minimum=minimum, maximum=maximum, compares_clips=loss == "ccc")


def _classification(
    name: str, labels: list[str], class_weights: list[float] | None, focal_gamma: float, label_smoothing: float
) -> Task:
    weights = class_weights or [1.0] * len(labels)
    if len(labels) < 2 or len(weights) != len(labels) or not all(0 < weight < math.inf for weight in weights):
        raise ValueError("expected at least two `labels`, and a positive number in `class_weights` for each.")
    if not 0 <= focal_gamma < math.inf or not 0 <= label_smoothing < 1:
        raise ValueError("expected `focal_gamma` of at least 0, and `label_smoothing` of at least 0 and below 1.")
    head = partial(
        ClassificationHead,
        size=len(labels),
        class_weights=class_weights,
        focal_gamma=focal_gamma,
        label_smoothing=label_smoothing,
    )
    return ClassificationTask(head, columns=(name,), labels=tuple(labels))


def _embedding(name: str, size: int, labels: list[str], margin: float, scale: float) -> Task:
    if size < 1 or not 0 <= margin < math.pi / 2 or not 0 < scale < math.inf or len(set(labels)) != len(labels):
        raise ValueError(
            "expected `size` of at least 1, `margin` of at least 0 and below pi / 2, `scale` above 0, and distinct "
            "`labels`."
        )
    head = partial(EmbeddingHead, size=size, classes=len(labels), margin=margin, scale=scale)
    return EmbeddingTask(head, columns=(name,), labels=tuple(labels))


_KINDS: dict[str, Callable[..., Task]] = {
    "regression": _regression,
    "classification": _classification,
    "embedding": _embedding,
}

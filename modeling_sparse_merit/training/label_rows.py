# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The labels of a run that starts from a checkpoint: it copies the rows of the emotion classifier by label."""

import logging

import torch
from torch import nn

from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .settings import TrainingSettings

logger = logging.getLogger("train_accelerate")

CLASSIFIER = "heads.emotion.classifier"


def replace_labels(
    model: SparseMeritForSpeechEnhancementAndEmotion, settings: TrainingSettings, is_loaded: bool = True
) -> None:
    """
    Sets the labels of the model, in place. The rows of the emotion classifier (weight and bias) are copied for labels
    that the checkpoint has, or that start from one that it has; all other rows are initialised.

    Args:
        model: The model, as loaded from `settings.model`, with the labels of that checkpoint.
        settings: `labels` are the new labels, in their order; `labels_from` are the labels that they start from.
        is_loaded: Whether the checkpoint contains the classifier; otherwise all rows are initialised.

    Raises:
        ValueError: A label starts from one that the checkpoint does not have.
    """
    rows: dict[str, int] = {
        label: index for index, label in enumerate(TASKS[EMOTION].describe(model.config)["labels"])
    }
    sources = settings.label_sources
    unknown = {own: label for own, label in settings.labels_from.items() if label not in rows}
    if unknown:
        given = ", ".join(f"{own}={label}" for own, label in unknown.items())
        raise ValueError(
            f"`labels` has {given}, but {settings.model} does not have that emotion; expected one of {list(rows)}."
        )
    model.config.id2label = dict(enumerate(sources))
    model.config.label2id = {label: index for index, label in enumerate(sources)}
    if "emotion" not in model.heads:
        return
    known = {own: rows[label] for own, label in sources.items() if label in rows and is_loaded}
    if list(known.values()) != list(range(len(rows))) or len(known) < len(sources):
        model.heads["emotion"].classifier = _with_rows(model, [known.get(own) for own in sources])
    _log(settings, known)


@torch.no_grad()
def _with_rows(model: SparseMeritForSpeechEnhancementAndEmotion, rows: list[int | None]) -> nn.Linear:
    """A classifier with these rows of the model's classifier; None stands for a row that is initialised."""
    old = model.get_submodule(CLASSIFIER)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, len(rows)).to(old.weight)
    model._init_weights(new)
    for place, row in enumerate(rows):
        if row is not None:
            new.weight[place], new.bias[place] = old.weight[row], old.bias[row]
    return new


def _log(settings: TrainingSettings, known: dict[str, int]) -> None:
    """Logs which labels start from a row of the checkpoint, and which do not."""
    sources = settings.label_sources
    taken = [own if sources[own] == own else f"{own} (from {sources[own]})" for own in known]
    new = [own for own in sources if own not in known]
    logger.info(
        "Emotion classifier: rows of %s: %s; new rows: %s",
        settings.model,
        ", ".join(taken) or "none",
        ", ".join(new) or "none",
    )

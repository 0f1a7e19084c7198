# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model, its feature extractor, and the parameter groups, optimizer and schedule of each stage."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from ..models.sparse_merit.adapters import read_adapter_config
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import (
    SparseMeritForSpeechEnhancementAndEmotion,
    SparseMeritModel,
    encoder_fields,
    load_encoder,
)
from ..models.sparse_merit.sources import locate
from .label_rows import CLASSIFIER, replace_labels
from .lora import TrainedModel, add_adapters, set_adapters_trainable, without_adapters
from .settings import TrainingSettings
from .spectral_encoder import initialize_spectral_feature_encoder


@dataclass(frozen=True)
class Stage:
    """
    A part of the training with its own optimizer and schedule.

    Args:
        first_epoch: Number of its first epoch, from 0, counted over the whole run.
        epochs: Number of its epochs.
        encoder_frozen: Whether the encoder, or its adapters, are frozen.
    """

    first_epoch: int
    epochs: int
    encoder_frozen: bool


def stages(settings: TrainingSettings) -> list[Stage]:
    """The stages that have epochs: experts and heads on a frozen encoder, then everything (paper, section IV)."""
    first = Stage(0, settings.frozen_epochs, encoder_frozen=True)
    second = Stage(settings.frozen_epochs, settings.epochs, encoder_frozen=False)
    return [stage for stage in (first, second) if stage.epochs]


def load_feature_extractor(checkpoint: str) -> SparseMeritFeatureExtractor:
    """The feature extractor of a checkpoint: a name, a folder or a Hub id."""
    return SparseMeritFeatureExtractor.from_pretrained(locate(checkpoint))


def build_feature_extractor(settings: TrainingSettings) -> SparseMeritFeatureExtractor:
    """The feature extractor of the checkpoint to start from, or a new one with the normalization of the settings."""
    if checkpoint := settings.model or settings.encoder:
        return load_feature_extractor(checkpoint)
    return SparseMeritFeatureExtractor(
        normalization=settings.normalization, corpus_mean=settings.corpus_mean, corpus_std=settings.corpus_std
    )


def build_model(settings: TrainingSettings) -> TrainedModel:
    """
    The model to train: a Sparse MERIT checkpoint, a new model with the encoder of one or of a WavLM, or a new model,
    with the labels and the configuration of the settings, and with adapters if they have a `lora_rank`.

    Raises:
        ValueError: The settings do not fit the checkpoint.
    """
    id2label = dict(enumerate(settings.labels))
    changes = {
        "id2label": id2label,
        "label2id": {label: index for index, label in id2label.items()},
        **settings.config,
    }
    if settings.model:
        model = _from_checkpoint(settings.model, settings)
    elif settings.encoder:
        model = _around_encoder(locate(settings.encoder), changes)
    elif settings.wavlm:
        model = SparseMeritForSpeechEnhancementAndEmotion.from_wavlm(settings.wavlm, **changes)
    else:
        model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**changes))
        if settings.spectral_feature_encoder:
            initialize_spectral_feature_encoder(model.model.encoder.feature_extractor.conv_layers[0].conv)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return add_adapters(model, settings) if settings.lora_rank else model


def _from_checkpoint(checkpoint: str, settings: TrainingSettings) -> SparseMeritForSpeechEnhancementAndEmotion:
    """A checkpoint, with the settings' labels and configuration."""
    model, loading = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        _whole(checkpoint), ignore_mismatched_sizes=True, output_loading_info=True, **settings.config
    )
    drawn = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    replace_labels(model, settings, is_loaded=f"{CLASSIFIER}.weight" not in drawn)
    return model


def _whole(model: str) -> str:
    """
    The folder or the Hub id of a checkpoint.

    Raises:
        ValueError: It holds adapters.
    """
    source = locate(model)
    if read_adapter_config(source) is not None:
        raise ValueError(
            f"`model` is {model}, which holds adapters: merge them first, `sparse-merit export DIR --model {model}`, "
            "and go on with DIR."
        )
    return source


def _around_encoder(checkpoint: str, changes: dict[str, Any]) -> SparseMeritForSpeechEnhancementAndEmotion:
    """
    A fresh model with the encoder of a Sparse MERIT checkpoint.

    Raises:
        ValueError: The changes do not fit the encoder.
    """
    source = SparseMeritModel.from_pretrained(checkpoint)
    model = SparseMeritForSpeechEnhancementAndEmotion(
        SparseMeritConfig(**{**encoder_fields(source.config), **changes})
    )
    try:
        load_encoder(model.model.encoder, source.encoder.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"`encoder` is {checkpoint}, and `config` contradicts its architecture. Remove the fields that describe "
            f"the encoder from `config`. {error}"
        ) from error
    return model


def set_trainable(
    model: TrainedModel, stage: Stage, train_feature_encoder: bool, only_tasks: Sequence[str] = ()
) -> None:
    """
    Freezes the encoder, or its adapters, in the first stage, and the convolutional feature encoder in both.

    Args:
        model: The model, or a model with adapters.
        stage: The stage that begins.
        train_feature_encoder: Train the convolutional feature encoder in the second stage, too.
        only_tasks: Freeze everything but the heads and the routers of these tasks.
    """
    if isinstance(model, PeftModel):
        set_adapters_trainable(model, not stage.encoder_frozen)
        return
    model.model.encoder.requires_grad_(not stage.encoder_frozen)
    if not train_feature_encoder:
        model.freeze_feature_encoder()
    if only_tasks:
        model.requires_grad_(False)
    for task in only_tasks:
        model.heads[task].requires_grad_(True)
        model.model.integration.routers[task].requires_grad_(True)


def set_training_mode(model: TrainedModel, encoder_frozen: bool) -> None:
    """
    Sets training mode, except in the layers of a frozen encoder: its features then have no dropout, as at inference,
    and it keeps no activations. SpecAugment, which masks the input, still follows the configuration.

    Args:
        model: The model, or a model with adapters.
        encoder_frozen: Whether the encoder is frozen.
    """
    model.train()
    if encoder_frozen:
        for part in without_adapters(model).model.encoder.children():
            part.eval()


def build_optimizer(
    model: torch.nn.Module, settings: TrainingSettings, extra: Iterable[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """
    AdamW. The encoder and the log variances of the tasks have learning rates of their own; vectors (biases and norms)
    and scalars have no weight decay.

    Args:
        model: The model; parameters that require a gradient are trained.
        settings: Settings of the run.
        extra: Parameters that are not part of the model. Scalars among them are log variances.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = settings.encoder_learning_rate_factor if "model.encoder." in name else 1.0
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((settings.peak_learning_rate * factor, decay), []).append(parameter)
    for parameter in extra:
        rate = settings.peak_learning_rate if parameter.ndim else settings.uncertainty_learning_rate
        groups.setdefault((rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW([{"params": params, "lr": lr, "weight_decay": wd} for (lr, wd), params in groups.items()])


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    """
    A linear warm-up, then the schedule of the settings.

    Args:
        optimizer: The optimizer.
        settings: Settings of the run.
        steps: Optimizer steps of the stage, times the number of processes.
    """
    return get_scheduler(settings.lr_scheduler_type, optimizer, round(settings.warmup_ratio * steps), steps)

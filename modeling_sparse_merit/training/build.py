# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model, its feature extractor, and what trains it: parameter groups, optimizer and schedule of each stage."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
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
from .lora import add_adapters, set_adapters_trainable
from .settings import TrainingSettings
from .spectral_encoder import initialize_spectral_feature_encoder


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own schedule. `first_epoch` counts over the whole run."""

    first_epoch: int
    epochs: int
    encoder_frozen: bool


def stages(settings: TrainingSettings) -> list[Stage]:
    """The stages that have epochs: heads and experts on a frozen encoder, then everything (paper, section IV)."""
    first = Stage(0, settings.frozen_epochs, encoder_frozen=True)
    second = Stage(settings.frozen_epochs, settings.epochs, encoder_frozen=False)
    return [stage for stage in (first, second) if stage.epochs]


def load_feature_extractor(checkpoint: str) -> SparseMeritFeatureExtractor:
    """That of a checkpoint, a folder or a Hub id."""
    return SparseMeritFeatureExtractor.from_pretrained(locate(checkpoint))


def build_feature_extractor(settings: TrainingSettings) -> SparseMeritFeatureExtractor:
    """That of the checkpoint to start from, or a new one with the settings' normalization."""
    if settings.model or settings.encoder:
        return load_feature_extractor(settings.model or settings.encoder)
    return SparseMeritFeatureExtractor(
        normalization=settings.normalization, corpus_mean=settings.corpus_mean, corpus_std=settings.corpus_std
    )


def build_model(settings: TrainingSettings) -> SparseMeritForSpeechEnhancementAndEmotion | PeftModel:
    """
    From a Sparse MERIT checkpoint, around the encoder of one, around a WavLM, or from scratch, with the settings'
    labels and configuration; with adapters where the settings ask for them.
    """
    id2label = dict(enumerate(settings.labels))
    changes = {
        "id2label": id2label,
        "label2id": {label: index for index, label in id2label.items()},
        **settings.config,
    }
    if settings.model:
        model = _from_checkpoint(settings)
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


def _from_checkpoint(settings: TrainingSettings) -> SparseMeritForSpeechEnhancementAndEmotion:
    """The checkpoint `settings.model`, with the settings' labels and configuration."""
    model, loading = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        _whole(settings.model), ignore_mismatched_sizes=True, output_loading_info=True, **settings.config
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
            f"`encoder` is {checkpoint}, and `config` says otherwise of its architecture; leave out of `config` what "
            f"describes the encoder. {error}"
        ) from error
    return model


def set_trainable(
    model: SparseMeritForSpeechEnhancementAndEmotion | PeftModel, stage: Stage, train_feature_encoder: bool
) -> None:
    """
    Freezes the encoder, or its adapters, in the first stage and, unless it is to learn, the convolutional front end in
    the second.
    """
    if isinstance(model, PeftModel):
        set_adapters_trainable(model, not stage.encoder_frozen)
        return
    model.model.encoder.requires_grad_(not stage.encoder_frozen)
    if not train_feature_encoder:
        model.freeze_feature_encoder()


def set_training_mode(model: SparseMeritForSpeechEnhancementAndEmotion | PeftModel, encoder_frozen: bool) -> None:
    """
    Training mode, but for the dropout of a frozen encoder: its features are what they will be in use, and nothing of
    it is kept for a gradient. SpecAugment, which changes what is heard, is left to the configuration.
    """
    model.train()
    if encoder_frozen:
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        for part in plain.model.encoder.children():
            part.eval()


def build_optimizer(
    model: torch.nn.Module, settings: TrainingSettings, extra: Iterable[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """
    AdamW over what is trainable, and what is learned beside the model: the encoder and the tasks' log variances, which
    are numbers, at their own rates, no weight decay on vectors (biases and norms) and numbers.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = settings.encoder_learning_rate_factor if "model.encoder." in name else 1.0
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((settings.learning_rate * factor, decay), []).append(parameter)
    for parameter in extra:
        rate = settings.learning_rate if parameter.ndim else settings.uncertainty_learning_rate
        groups.setdefault((rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW([{"params": params, "lr": lr, "weight_decay": wd} for (lr, wd), params in groups.items()])


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int):
    """Warm-up, then the settings' schedule, over `steps` optimizer steps."""
    return get_scheduler(settings.lr_scheduler_type, optimizer, round(settings.warmup_ratio * steps), steps)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Low-rank adapters (arXiv 2106.09685) for fine-tuning: every attention and feed-forward layer of the encoder learns a
product of two thin matrices; experts, routers and heads, whichever are to learn, are trained whole and saved beside.
"""

from collections.abc import Iterator
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.tasks import EMOTION
from .settings import TrainingSettings

# A pattern, for experts have layers of like names.
ENCODER_LAYERS = (
    r"model\.encoder\.encoder\.layers\.\d+\."
    r"(attention\.(q_proj|k_proj|v_proj|out_proj)|feed_forward\.(intermediate_dense|output_dense))"
)


def add_adapters(model: SparseMeritForSpeechEnhancementAndEmotion, settings: TrainingSettings) -> PeftModel:
    """
    Freezes the model, but for fresh adapters on its encoder and for `settings.lora_train_modules`.

    Raises:
        ValueError: The classifier is not that of the checkpoint, and the emotion head is not to learn it.
    """
    known = list(SparseMeritConfig.from_pretrained(settings.model).id2label.values())
    if list(settings.label_sources.values()) != known and EMOTION not in settings.lora_train_modules:
        raise ValueError(
            f"`lora_train_modules` is {settings.lora_train_modules}, without 'emotion', but `labels` is "
            f"{settings.labels} and that of the checkpoint is {known}: the emotion head has to learn new labels, and "
            "to be saved with their order. Add 'emotion'."
        )
    adapters = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=ENCODER_LAYERS,
        modules_to_save=list(whole_modules(model, settings.lora_train_modules)),
    )
    model.freeze_feature_encoder()  # else one of WavLM's own asks for a gradient of its input, and keeps all of itself
    return get_peft_model(model, adapters)


def whole_modules(model: SparseMeritForSpeechEnhancementAndEmotion, parts: list[str]) -> Iterator[str]:
    """
    Names of the modules that make up some `parts` of the model: "routers"; "experts", with the layer norms and layer
    weights that feed them; and tasks, whose heads are meant.
    """
    for name, module in model.model.integration.named_children():
        if ("routers" if name == "routers" else "experts") in parts:
            yield from _outermost(module, f"model.integration.{name}")
    for task in model.heads:
        if task in parts:
            yield f"heads.{task}"


def set_adapters_trainable(model: PeftModel, trainable: bool) -> None:
    """Whether the encoder's adapters learn; what is trained whole does in any case."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(trainable)


def load_adapted(folder: str | Path, base: str | None = None) -> PeftModel:
    """
    A model with the adapters of `folder`, and with its labels.

    Args:
        folder: Written by a training run with adapters.
        base: The checkpoint that was fine-tuned, where it is no longer at the place that `folder` names.

    Raises:
        OSError: There are no adapters, or the fine-tuned checkpoint is not there.
    """
    base = base or PeftConfig.from_pretrained(folder).base_model_name_or_path
    config = SparseMeritConfig.from_pretrained(folder)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True
    )
    return PeftModel.from_pretrained(model, folder).eval()


def _outermost(module: nn.Module, name: str) -> Iterator[str]:
    """The module, or, as peft takes no lists and dictionaries of modules, what is in it."""
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield name
        return
    for child_name, child in module.named_children():
        yield from _outermost(child, f"{name}.{child_name}")

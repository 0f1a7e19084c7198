# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Low-rank adapters (arXiv 2106.09685) for fine-tuning: every attention and feed-forward layer of the encoder learns a
product of two thin matrices; experts, routers and heads, whichever are to learn, are trained and saved whole.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..files import one_line
from ..hub.adapter_card import render_adapter_card
from ..models.sparse_merit.adapters import base_of
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.sources import locate, portable_name
from ..models.sparse_merit.tasks import EMOTION
from .settings import TrainingSettings

try:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
except ImportError as error:
    raise ImportError(
        f"{one_line(error)}. To train adapters, or to load them unmerged: pip install 'modeling-sparse-merit[train]'"
    ) from error

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
    known = list(SparseMeritConfig.from_pretrained(locate(settings.model)).id2label.values())
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
    adapted = get_peft_model(model, adapters)
    adapters.base_model_name_or_path = portable_name(locate(settings.model))
    return adapted


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


def save_adapters(model: PeftModel, folder: Path) -> None:
    """Writes the adapters, what was trained whole, and the configuration, whose labels adapters do not hold."""
    model.save_pretrained(folder, save_embedding_layers=False)  # else peft asks the Hub for the checkpoint
    model.get_base_model().config.save_pretrained(folder)


def describe_adapters(folder: Path, settings: TrainingSettings) -> None:
    """Writes `training.yaml`, the settings that differ from the defaults, and the card, in a folder of adapters."""
    record = yaml.safe_dump(recorded(settings), sort_keys=False, allow_unicode=True)
    (folder / "training.yaml").write_text(record, encoding="utf-8")
    (folder / "README.md").write_text(render_adapter_card(folder), encoding="utf-8")


def recorded(settings: TrainingSettings) -> dict[str, Any]:
    """The settings of a run that differ from the defaults, without places of this machine."""
    defaults = asdict(TrainingSettings(model=settings.model))
    changed = {name: value for name, value in asdict(settings).items() if value != defaults[name]}
    values = {"model": _plain_name(portable_name(locate(settings.model))), "labels": settings.labels, **changed}
    for name in ("output_dir", "resume", "dataloader_num_workers", "feature_cache", "cleaned_by"):
        values.pop(name, None)
    for name in ("speech", "unlabelled", "noise", "rirs"):
        if name in values:
            values[name] = [_plain_name(path) for path in values[name]]
    if "sampling_weights" in values:  # of datasets and of labels
        values["sampling_weights"] = {_plain_name(name): weight for name, weight in values["sampling_weights"].items()}
    if "teacher" in values:
        values["teacher"] = _plain_name(portable_name(locate(values["teacher"])))
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}


def _plain_name(path: str) -> str:
    """What is on this machine by the name of its folder alone."""
    return Path(path).name if Path(path).exists() else path


def load_adapted(folder: str | Path, base: str | None = None) -> PeftModel:
    """
    A model with the adapters of `folder`, and with its labels.

    Args:
        folder: Written by a training run with adapters.
        base: The checkpoint that was fine-tuned, where it is no longer at the place that `folder` names.

    Raises:
        OSError: There are no adapters, or the fine-tuned checkpoint is not there.
    """
    base = base or base_of(PeftConfig.from_pretrained(folder).to_dict(), folder)
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

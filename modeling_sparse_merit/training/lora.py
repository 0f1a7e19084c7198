# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Low-rank adapters (LoRA, arXiv 2106.09685) for fine-tuning: every attention and feed-forward layer of the encoder gets
a trainable product of two small matrices. Experts, routers and heads, if they are trained, are trained in full.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from ..files import one_line
from ..hub.adapter_card import ADAPTER_CONFIG, render_adapter_card
from ..hub.files import read_json
from ..models.sparse_merit.adapters import base_of
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.sources import locate, portable_name
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .records import write_settings
from .settings import TrainingSettings

try:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
except ImportError as error:
    raise ImportError(
        f"{one_line(error)}. To train adapters, or to load them unmerged: pip install 'modeling-sparse-merit[train]'"
    ) from error

# A pattern, since layers of experts have the same names.
ENCODER_LAYERS = (
    r"model\.encoder\.encoder\.layers\.\d+\."
    r"(attention\.(q_proj|k_proj|v_proj|out_proj)|feed_forward\.(intermediate_dense|output_dense))"
)


AUTO_MAPPING = {"base_model_class": "AutoModel", "parent_library": "transformers"}
"""How `peft.AutoPeftModel` loads the checkpoint: with the code of its repository, not with that of this package."""

TrainedModel = SparseMeritForSpeechEnhancementAndEmotion | PeftModel


def without_adapters(model: TrainedModel) -> SparseMeritForSpeechEnhancementAndEmotion:
    """The model itself: what adapters are added to, if it has any."""
    if not isinstance(model, PeftModel):
        return model
    plain = model.get_base_model()
    assert isinstance(plain, SparseMeritForSpeechEnhancementAndEmotion)
    return plain


def add_adapters(model: SparseMeritForSpeechEnhancementAndEmotion, settings: TrainingSettings) -> PeftModel:
    """
    Freezes the model, and adds trainable adapters to its encoder and copies of `settings.lora_train_modules`.

    Args:
        model: A model with the labels of `settings`.
        settings: Settings of the run.

    Raises:
        ValueError: The labels are not those of the checkpoint, and the emotion head is not among the trained modules;
            or these are not parts of the model.
    """
    known = ["experts", "routers", *dict.fromkeys([*TASKS, *model.tasks])]
    if unknown := sorted(set(settings.lora_train_modules) - set(known)):
        raise ValueError(f"`lora_train_modules` has {unknown}; expected some of {known}.")
    assert settings.model is not None  # adapters need one
    source = locate(settings.model)
    emotions = TASKS[EMOTION].describe(SparseMeritConfig.from_pretrained(source))["labels"]
    if list(settings.label_sources.values()) != emotions and EMOTION not in settings.lora_train_modules:
        raise ValueError(
            f"`lora_train_modules` is {settings.lora_train_modules}, without 'emotion', but `labels` is "
            f"{settings.labels} and that of the checkpoint is {emotions}: new labels are trained and saved with the "
            "emotion head. Add 'emotion'."
        )
    adapters = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=ENCODER_LAYERS,
        modules_to_save=list(whole_modules(model, settings.lora_train_modules)),
    )
    model.freeze_feature_encoder()  # otherwise it requires a gradient of its input, and keeps activations
    adapted = get_peft_model(model, adapters)
    adapters.base_model_name_or_path = portable_name(source)
    return adapted


def whole_modules(model: SparseMeritForSpeechEnhancementAndEmotion, parts: list[str]) -> Iterator[str]:
    """
    Names of the modules that make up some parts of a model.

    Args:
        model: The model.
        parts: "routers"; "experts", with the layer norms and layer weights that feed them; names of tasks, for their
            heads.
    """
    for name, module in model.model.integration.named_children():
        if ("routers" if name == "routers" else "experts") in parts:
            yield from _outermost(module, f"model.integration.{name}")
    for task in model.heads:
        if task in parts:
            yield f"heads.{task}"


def set_adapters_trainable(model: PeftModel, trainable: bool) -> None:
    """
    Freezes or unfreezes the adapters of the encoder. Modules that are trained in full stay trainable.

    Args:
        model: A model with adapters.
        trainable: Whether its adapters are trained.
    """
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(trainable)


def save_adapters(model: PeftModel, folder: Path) -> None:
    """
    Writes the adapters, the modules that were trained in full, and the configuration, which has the labels.

    Args:
        model: A model with adapters.
        folder: Folder to write to.
    """
    # otherwise peft looks for the checkpoint on the Hub
    model.save_pretrained(str(folder), save_embedding_layers=False)
    config = read_json(folder / ADAPTER_CONFIG) | {"auto_mapping": AUTO_MAPPING}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    without_adapters(model).config.save_pretrained(folder)


def describe_adapters(folder: Path, settings: TrainingSettings) -> None:
    """
    Writes `training.yaml`, the settings that differ from the defaults, and the card.

    Args:
        folder: Folder of the adapters.
        settings: Settings of the run that trained them.

    Raises:
        FileNotFoundError: There are no adapters in the folder.
    """
    write_settings(folder, settings)
    (folder / "README.md").write_text(render_adapter_card(folder), encoding="utf-8")


def load_adapted(folder: str | Path, base: str | None = None) -> PeftModel:
    """
    Loads a model with adapters.

    Args:
        folder: Folder of a training run with adapters.
        base: The checkpoint that was fine-tuned, if it is no longer at the path that `folder` names.

    Raises:
        OSError: There are no adapters, or the checkpoint does not exist.
    """
    base = base or base_of(PeftConfig.from_pretrained(str(folder)).to_dict(), folder)
    config = SparseMeritConfig.from_pretrained(folder)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True
    )
    return PeftModel.from_pretrained(model, folder).eval()


def _outermost(module: nn.Module, name: str) -> Iterator[str]:
    """The module, or its children if it is a list or a dictionary of modules, which peft does not accept."""
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield name
        return
    for child_name, child in module.named_children():
        yield from _outermost(child, f"{name}.{child_name}")

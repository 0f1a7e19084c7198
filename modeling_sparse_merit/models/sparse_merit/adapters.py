# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Merges LoRA adapters (arXiv 2106.09685) into their base checkpoint, without the package peft."""

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import cached_file, find_adapter_config_file

from .modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from .sources import locate

WEIGHTS = "adapter_model.safetensors"
PLAIN = {"peft_type": "LORA", "bias": "none"}
NEITHER = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "target_parameters")
_LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def read_adapter_config(source: str | os.PathLike, **where: Any) -> dict[str, Any] | None:
    """The contents of `adapter_config.json`; None if there are no adapters.

    Args:
        source: the folder or the Hub id.
        where: arguments for the Hub: `revision`, `token`, `cache_dir` and `local_files_only`.
    """
    file = find_adapter_config_file(str(source), **where)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def base_of(config: dict[str, Any], source: str | os.PathLike) -> str:
    """The folder or the Hub id of the checkpoint that adapters were trained on.

    Args:
        config: configuration of the adapters, see `read_adapter_config`.
        source: folder or Hub id of the adapters, for the error message.

    Raises:
        FileNotFoundError: the stored path of the checkpoint does not exist.
    """
    name = str(config.get("base_model_name_or_path"))
    try:
        return locate(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The adapters in {source} were trained on {name}, which does not exist here. Set "
            "`base_model_name_or_path` in their adapter_config.json to the folder or Hub id of that checkpoint."
        ) from error


def where_of_base(config: dict[str, Any], where: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the Hub to load the checkpoint that adapters were trained on.

    Args:
        config: configuration of the adapters, see `read_adapter_config`.
        where: those of the adapters; `revision` is theirs alone.
    """
    of_base = {name: value for name, value in where.items() if name != "revision"}
    return {**of_base, "revision": config["revision"]} if config.get("revision") else of_base


def load_merged(
    source: str | os.PathLike, config: dict[str, Any], dtype: Any = None, **where: Any
) -> tuple[SparseMeritForSpeechEnhancementAndEmotion, dict[str, Any]]:
    """Loads a model with its adapters merged, and with their configuration, labels included.

    Args:
        source: folder or Hub id of the adapters.
        config: configuration of the adapters, see `read_adapter_config`.
        dtype: as for `from_pretrained`; the weights are merged in fp32.
        where: as for `read_adapter_config`; `revision` is that of the adapters.

    Returns:
        The model, and the loading info of `output_loading_info`.

    Raises:
        OSError: the adapters or their checkpoint do not exist.
        ValueError: the adapters are not plain LoRA, or do not fit the checkpoint.
    """
    _check_kind(config, source)
    model_class = SparseMeritForSpeechEnhancementAndEmotion
    of_base = where_of_base(config, where)
    base = model_class.from_pretrained(base_of(config, source), dtype=torch.float32, **of_base)
    weights_file = cached_file(str(source), WEIGHTS, **where)
    assert weights_file is not None  # where there is none, it raises
    weights = load_file(weights_file)
    fields = model_class.config_class.from_pretrained(source, **where)
    commit = getattr(fields, "_commit_hash", None)
    model, loading = model_class.from_pretrained(
        None,
        config=fields,
        state_dict=merge(base.state_dict(), weights, config["lora_alpha"] / config["r"]),
        dtype=dtype,
        output_loading_info=True,
    )
    model.name_or_path = model.config.name_or_path = str(source)
    model.config._commit_hash = commit
    return model, loading


@torch.no_grad()
def merge(base: dict[str, torch.Tensor], adapters: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Merges adapters into weights: low-rank pairs give W + scale * B . A (LoRA, section 4.1), and modules that were
    trained as a whole replace W.

    Args:
        base: state dict of the checkpoint, in fp32, which is changed in place.
        adapters: tensors by their names in peft.
        scale: alpha / rank.

    Raises:
        ValueError: an adapter belongs to no weight of the checkpoint, or to one of another shape.
    """
    for name, tensor in adapters.items():
        key = name.removeprefix("base_model.model.")
        pair = _LOW_RANK.fullmatch(key)
        key = f"{pair['module']}.weight" if pair else key
        if key not in base:
            raise ValueError(
                f"The adapters have {name}, but the checkpoint has no {key}; expected their base checkpoint."
            )
        if pair is None:
            base[key] = tensor
        elif pair["side"] == "A":
            change = scale * (adapters[name.replace(".lora_A.", ".lora_B.")].float() @ tensor.float())
            if change.shape != base[key].shape:
                raise ValueError(
                    f"The adapters of {key} have the shape {tuple(change.shape)}, the checkpoint "
                    f"{tuple(base[key].shape)}; expected their base checkpoint."
                )
            base[key] += change
    return base


def _check_kind(config: dict[str, Any], source: str | os.PathLike) -> None:
    """Refuses adapters that `merge` does not support."""
    other = {name: config.get(name) for name, value in PLAIN.items() if config.get(name) != value}
    other |= {name: config[name] for name in NEITHER if config.get(name)}
    if other:
        raise ValueError(
            f"The adapters in {source} have {other}, which this package does not merge; expected plain LoRA. Merge "
            "them with peft: `PeftModel.from_pretrained(base, adapters).merge_and_unload().save_pretrained(folder)`."
        )

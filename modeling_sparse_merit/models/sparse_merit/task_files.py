# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Clip tasks in files of their own: the head and the router of a task, which use encoder and experts of a checkpoint.

A file is small, and adding its task changes no output of the other tasks. `train_only` of the training makes such
tasks, `sparse-merit export --task` writes the file.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from transformers.utils import cached_file

from .calibration import SILENT
from .clip_tasks import clip_task
from .experts import MixtureOfExperts

TASK_FOLDER = "tasks"
FORMAT = "sparse_merit_task"
"""Key of the metadata of a file, with a JSON object: `name`, `definition`, and `experts`, a digest."""


def find_task(source: str | os.PathLike, name: str | os.PathLike, **where: Any) -> Path:
    """
    The file of a task that comes with a checkpoint, `tasks/NAME.safetensors`, or any other file.

    Args:
        source: the folder or the Hub id of the checkpoint.
        name: a name, or the path of a file with the suffix .safetensors.
        where: arguments for the Hub: `revision`, `token`, `cache_dir` and `local_files_only`.

    Raises:
        FileNotFoundError: the checkpoint has no such task.
    """
    if Path(name).suffix == ".safetensors":
        return Path(name)
    is_name = re.fullmatch("[a-z][a-z0-9_]*", str(name)) is not None
    file = cached_file(str(source), f"{TASK_FOLDER}/{name}.safetensors", **where, **SILENT) if is_name else None
    if file is None:
        raise FileNotFoundError(
            f"The checkpoint {source} has no task {str(name)!r} in its folder `{TASK_FOLDER}`: give the name of one, "
            "or a file of `sparse-merit export --task`."
        )
    return Path(file)


def read_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """
    The definitions of the tasks that come with a checkpoint, by name.

    Args:
        folder: the folder of the checkpoint.

    Raises:
        ValueError: a file is damaged.
    """
    contents = [_read(path)[0] for path in sorted((folder / TASK_FOLDER).glob("*.safetensors"))]
    return {content["name"]: content["definition"] for content in contents}


def save_task(model: Any, name: str, path: Path) -> None:
    """
    Writes a task to a file, in fp16.

    Args:
        model: a `SparseMeritForSpeechEnhancementAndEmotion`.
        name: a task of its `clip_tasks`.
        path: the file, which is replaced.

    Raises:
        ValueError: the model has no such task, or no experts.
    """
    definitions = model.config.clip_tasks or {}
    if name not in definitions:
        raise ValueError(f"The model has no task {name!r} of its own; expected one of {sorted(definitions)}.")
    weights = {key: values.half().contiguous() for key, values in _modules(model, name).state_dict().items()}
    content = {"name": name, "definition": definitions[name], "experts": experts_digest(model)}
    path.write_bytes(save(weights, {"format": "pt", FORMAT: json.dumps(content, ensure_ascii=False)}))


def add_task(model: Any, path: Path) -> str:
    """
    Adds a task from a file to a model.

    Args:
        model: a `SparseMeritForSpeechEnhancementAndEmotion` with the encoder and the experts of the training.
        path: the file.

    Returns:
        The name of the task.

    Raises:
        OSError: the file is missing.
        ValueError: it is no task, the model has a task of this name or, in fp32 or fp16, other experts, or weights are
            missing or not finite.
    """
    content, weights = _read(path)
    name, definition = content["name"], content["definition"]
    if name in model.config.tasks:
        raise ValueError(f"{path} holds the task {name!r}, which the model has already.")
    if _has_exact_experts(model) and content["experts"] != experts_digest(model):
        raise ValueError(f"{path} was trained on other experts than those of {model.name_or_path or 'this model'}.")
    task = clip_task(name, definition)
    integration = model.model.integration
    width = integration.routers[model.config.tasks[0]].in_features
    integration.routers[name] = nn.Linear(width, len(integration.experts))
    model.heads[name] = task.head(model.config)
    modules = _modules(model, name)
    try:
        modules.load_state_dict({key: values.float() for key, values in weights.items()})
    except RuntimeError as error:
        del integration.routers[name], model.heads[name]
        raise ValueError(f"{path} does not fit its definition: {error}") from error
    modules.to(device=model.device, dtype=model.dtype).train(model.training)
    model.config.clip_tasks = {**(model.config.clip_tasks or {}), name: definition}
    model.config.tasks = [*model.config.tasks, name]
    model.tasks = {**model.tasks, name: task}
    model.added_tasks = {**model.added_tasks, name: hashlib.sha256(path.read_bytes()).hexdigest()}
    return name


def experts_digest(model: Any) -> str:
    """
    SHA-256 of the experts in fp16, which is the same for a checkpoint that is stored in fp16 or fp32.

    Raises:
        ValueError: the model has no experts.
    """
    integration = model.model.integration
    if not isinstance(integration, MixtureOfExperts):
        raise ValueError(f"`integration` is {model.config.integration!r}; a task in a file needs experts.")
    digest = hashlib.sha256()
    for values in integration.experts.state_dict().values():
        digest.update(values.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _has_exact_experts(model: Any) -> bool:
    """Whether the experts are those of the checkpoint: not in int8 or bf16, in which they have another digest."""
    experts = getattr(model.model.integration, "experts", nn.ModuleList())
    dtypes = {values.dtype for values in experts.state_dict().values()}
    return dtypes <= {torch.float32, torch.float16}


def _modules(model: Any, name: str) -> nn.ModuleDict:
    """Head and router of a task."""
    return nn.ModuleDict({"head": model.heads[name], "router": model.model.integration.routers[name]})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and weights of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file of `sparse-merit export --task`.")
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})[FORMAT])
            weights = {key: file.get_tensor(key) for key in file.keys()}
        is_whole = {"name", "definition", "experts"} <= set(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no file of `sparse-merit export --task`: {error}.") from error
    damaged = [key for key, values in weights.items() if not torch.isfinite(values).all()]
    if not is_whole or damaged:
        raise ValueError(f"{path} is damaged: write it again with `sparse-merit export --task`.")
    return content, weights

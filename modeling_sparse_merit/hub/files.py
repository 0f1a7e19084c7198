# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files of a model repository, shared by export, push and model cards."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..files import sha256_of_file, sha256_of_files
from ..models.mister_e.configuration_mister_e import MisterEConfig
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.configuration_speech_text import SpeechTextConfig, read_config


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds anything else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a folder written by save_pretrained.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Write it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected an object. Write it again.")
    return content


def read_model_config(source: str | Path, **where: Any) -> SparseMeritConfig | SpeechTextConfig | MisterEConfig:
    """The configuration of a checkpoint or of adapters.

    Args:
        source: folder or Hub id.
        where: arguments for the Hub, such as `revision`.

    Raises:
        OSError: there is none.
    """
    if PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type") == MisterEConfig.model_type:
        return MisterEConfig.from_pretrained(source, **where)
    return read_config(source, **where)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint or of adapters: one file, or several shards."""
    names = ("adapter_model*.safetensors", "model*.safetensors")
    return next((files for name in names if (files := sorted(folder.glob(name)))), [])


def weights_sha256(folder: Path) -> str | None:
    """SHA-256 of the weights in a folder (over the digests of several shards); None without weights."""
    files = weight_files(folder)
    if not files:
        return None
    return sha256_of_file(files[0]) if len(files) == 1 else sha256_of_files(files)


def published_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, except hidden ones (`.git`, `.env`) and compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(map(_is_private, path.relative_to(folder).parts)))


def _is_private(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files of a model repository that export, push and model card share."""

import json
from pathlib import Path
from typing import Any

from ..files import sha256_of_file, sha256_of_files


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything else.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: give a folder written by save_pretrained.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}). Write it anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object. Write it anew.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of a checkpoint, or of adapters: one, or several shards."""
    names = ("adapter_model*.safetensors", "model*.safetensors")
    return next((found for name in names if (found := sorted(folder.glob(name)))), [])


def weights_sha256(folder: Path) -> str | None:
    """SHA-256 of the weights in a folder, over those of all shards where there are several; None without weights."""
    files = weight_files(folder)
    if not files:
        return None
    return sha256_of_file(files[0]) if len(files) == 1 else sha256_of_files(files)


def published_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but nothing hidden (`.git`, `.env`) and no compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(map(_is_private, path.relative_to(folder).parts)))


def _is_private(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"

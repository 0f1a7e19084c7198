# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files of a model repository that export, push and model card share."""

import json
import re
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


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


def published_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but nothing hidden (`.git`, `.env`) and no compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(map(_is_private, path.relative_to(folder).parts)))


def _is_private(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"

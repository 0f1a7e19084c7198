# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Calibration of the emotion scores: `calibration.json`, next to the weights that it was fitted for."""

import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .adapters import WEIGHTS, base_of, read_adapter_config, where_of_base

CALIBRATION = "calibration.json"
SILENT = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """
    Calibration of the emotion scores of a checkpoint.

    Args:
        temperature: divides the logits before the softmax (Guo et al., 2017, On calibration of modern neural networks,
            ICML, section 4.2). It does not change the order of the scores.
        thresholds: {emotion: score from which on it is reported}, chosen for a required recall.
    """

    temperature: float
    thresholds: dict[str, float]


def read_calibration(source: str | os.PathLike, **where: Any) -> Calibration | None:
    """
    The calibration of a checkpoint; None if there is none, or, with a warning, if it was fitted for other weights.

    Args:
        source: the folder or the Hub id.
        where: arguments for the Hub: `revision`, `token`, `cache_dir` and `local_files_only`.

    Raises:
        ValueError: the file is damaged.
    """
    file = cached_file(str(source), CALIBRATION, **where, **SILENT)
    if file is None:
        return None
    content = read_calibration_file(Path(file))
    if not _is_of(content["model"]["sha256"], str(source), where):
        logger.warning(
            f"{file} was fitted for other weights than those next to it and is ignored, so the scores are not "
            "calibrated. Calibrate these weights with `sparse-merit calibrate`, or remove the file."
        )
        return None
    thresholds = {label: float(entry["threshold"]) for label, entry in content["thresholds"].items()}
    return Calibration(float(content["temperature"]), thresholds)


def read_calibration_file(path: Path) -> dict[str, Any]:
    """
    The content of a `calibration.json`.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged, or its temperature is not a finite number above 0.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_valid = isinstance(content["model"]["sha256"], str) and 0 < float(content["temperature"]) < math.inf
        is_valid = is_valid and all(0 <= float(entry["threshold"]) <= 1 for entry in content["thresholds"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error
    if not is_valid:
        raise ValueError(
            f"{path} has the temperature {content['temperature']!r} and the thresholds {content['thresholds']!r}; "
            f"expected a finite number above 0, and numbers from 0 to 1. {_REMEDY}"
        )
    return content


_REMEDY = "Write it again with `sparse-merit calibrate`, or pass `calibrated=False`."


def checkpoint_sha256(model: str, **where: Any) -> str:
    """
    SHA-256 of a checkpoint's `model.safetensors`; for adapters, of the digests of their weights and the adapted ones.

    Args:
        model: a folder or a Hub id.
        where: arguments for the Hub: `revision`, `token`, `cache_dir` and `local_files_only`.

    Raises:
        OSError: the checkpoint or its `model.safetensors` is missing.
    """
    adapters = read_adapter_config(model, **where)
    if adapters is None:
        return _sha256(model, SAFE_WEIGHTS_NAME, where)
    base = _sha256(base_of(adapters, model), SAFE_WEIGHTS_NAME, where_of_base(adapters, where))
    return hashlib.sha256((_sha256(model, WEIGHTS, where) + base).encode()).hexdigest()


def _sha256(model: str, name: str, where: dict[str, Any]) -> str:
    path = cached_file(model, name, **where)
    assert path is not None  # where there is none, it raises
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_of(sha256: str, source: str, where: dict[str, Any]) -> bool:
    """Whether the weights of a checkpoint have this SHA-256; those in several files have none."""
    try:
        return checkpoint_sha256(source, **where) == sha256
    except OSError:
        return False

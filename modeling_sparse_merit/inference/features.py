# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Outputs of frozen encoders on disk, and the fingerprints of the weights that they depend on."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import replacing, sha256_of_samples


class FeatureFolder:
    """
    The features of one encoder: a file per mixture, which is named by the SHA-256 of its samples.

    Args:
        path: The folder; it is created when the first features are written.
        rounds: Epochs after which the mixtures repeat.
    """

    def __init__(self, path: Path, rounds: int = 1):
        self.path, self.rounds = path, rounds

    def file_of(self, noisy: np.ndarray) -> Path:
        """The file for the features of a mixture, float32 (samples,)."""
        return self.path / f"{sha256_of_samples(noisy)}.safetensors"

    def read(self, file: Path) -> torch.Tensor | None:
        """The features, (T, L, D), or None if there are none yet."""
        return load_file(file)["features"] if file.exists() else None

    def write(self, file: Path, features: torch.Tensor) -> None:
        """
        Writes features atomically.

        Args:
            file: As `file_of` returns it.
            features: (T, L, D).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            save_file({"features": features.contiguous()}, temporary)


def sha256_of_weights(module: nn.Module) -> str:
    """SHA-256 of the names and values of parameters and buffers."""
    digest = hashlib.sha256()
    update_digest(digest, module)
    return digest.hexdigest()


def update_digest(digest: Any, module: nn.Module) -> None:
    """
    Adds the names and values of parameters and buffers to a digest.

    Args:
        digest: An object of `hashlib`.
        module: The module.
    """
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy())

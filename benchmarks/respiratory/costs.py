# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Parameters, real-time factor and memory of each enhancer, on one thread of a CPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import in_turn, peak_memory
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE
from modeling_sparse_merit.training.cascade import AudioEnhancement

SECONDS = 10
ROUNDS = 5


def measure_costs(models: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """
    Costs of enhancing ten seconds.

    Args:
        models: folder of each enhancer.
    """
    timings = in_turn({name: prepare(str(folder)) for name, folder in models.items()}, rounds=ROUNDS)
    return {
        name: {
            "parameters": AudioEnhancement(str(folder), torch.device("cpu")).model.num_parameters(),
            "real_time_factor": timings[name].median / SECONDS,
            "working_memory_mib": _working_memory(str(folder)),
        }
        for name, folder in models.items()
    }


def prepare(folder: str) -> Callable[[], Any]:
    """Loads an enhancer, and returns a call that enhances ten seconds of noise on one thread."""
    torch.set_num_threads(1)
    enhance = AudioEnhancement(folder, torch.device("cpu"))
    noise = np.random.default_rng(0).standard_normal(SECONDS * SAMPLING_RATE).astype(np.float32)
    return lambda: enhance([noise])


def _working_memory(folder: str) -> float:
    peaks = peak_memory(prepare, folder)
    return peaks["working"]

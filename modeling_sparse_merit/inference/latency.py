# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""How long a model takes for a short recording on this machine."""

import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

RUNS = 5


def measure_latency(
    pipe: "SpeechEnhancementAndEmotionPipeline", threads: list[int], seconds: float = 3.0
) -> dict[int, float]:
    """The median time of the forward pass on the CPU, without reading and preparing the recording.

    Args:
        pipe: a pipeline on the CPU.
        threads: numbers of CPU threads.
        seconds: duration of the recording, which is noise.

    Returns:
        `{threads: seconds}`; the median of 5 runs after a first one that is not counted.
    """
    noise = np.random.default_rng(0).standard_normal(round(seconds * 16_000)).astype(np.float32)
    inputs = pipe.feature_extractor(0.1 * noise, sampling_rate=16_000, return_tensors="pt")
    before = torch.get_num_threads()
    try:
        return {number: _median_seconds(pipe, dict(inputs), number) for number in threads}
    finally:
        torch.set_num_threads(before)


def _median_seconds(
    pipe: "SpeechEnhancementAndEmotionPipeline", inputs: dict[str, torch.Tensor], threads: int
) -> float:
    torch.set_num_threads(threads)
    durations = []
    with torch.inference_mode():
        for _ in range(RUNS + 1):
            start = time.perf_counter()
            pipe.model(**inputs)
            durations.append(time.perf_counter() - start)
    return median(durations[1:])

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What is evaluated: a system predicts clean speech and emotions of recordings."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Prediction:
    """One clip's result.

    Attributes:
        enhanced: (samples,) in the recording's level and length; None without the enhancement task.
        probabilities: (labels,), summing to 1; None without the emotion task.
        task_outputs: `{task: class, ratings (K,) or embedding (size,)}` of all tasks but waveforms and the emotion.
        expert_use: `{task: (experts,) share of the clip's frames}`; empty without a sparse router.
        num_frames: encoder frames of the clip.
    """

    enhanced: np.ndarray | None
    probabilities: np.ndarray | None
    expert_use: dict[str, np.ndarray] = field(default_factory=dict)
    num_frames: int = 0
    task_outputs: dict[str, str | list[float]] = field(default_factory=dict)


class System(Protocol):
    """What can be evaluated."""

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report, JSON-able."""

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Answers for recordings of shape (samples,) at 16 kHz."""

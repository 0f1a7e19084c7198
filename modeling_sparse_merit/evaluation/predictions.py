# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The interface of evaluated systems, which predict clean speech and emotions of recordings."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass
class Prediction:
    """The outputs of a system for one clip.

    Attributes:
        enhanced: (samples,) with level and length of the recording; None without the enhancement task.
        probabilities: (labels,), with sum 1, and NaN for labels that the system does not know; None without the
            emotion task.
        task_outputs: `{task: class, ratings (K,) or embedding (size,)}` of all tasks except waveforms and emotion.
        expert_use: `{task: (experts,) share of the clip's frames}`; empty without a sparse router.
        num_frames: number of encoder frames of the clip.
    """

    enhanced: np.ndarray | None
    probabilities: np.ndarray | None
    expert_use: dict[str, np.ndarray] = field(default_factory=dict)
    num_frames: int = 0
    task_outputs: dict[str, str | list[float]] = field(default_factory=dict)


class System(Protocol):
    """A system that can be evaluated."""

    def describe(self) -> dict[str, Any]:
        """Description of the system for the report, JSON-serializable."""

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz."""


class Reference(System, Protocol):
    """A system outside this package, which has one task."""

    @property
    def name(self) -> str:
        """Its name in configurations."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """`("enhancement",)`, `("emotion",)` or the name of a regression task."""

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Facts about a request, for metrics and logs."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OUTCOMES = {
    200: "ok",
    400: "invalid",
    401: "unauthorized",
    408: "slow",
    413: "large",
    422: "invalid",
    499: "disconnected",
    500: "failed",
    503: "busy",
    504: "timeout",
}
"""The outcome of a request by the status of its response."""
STAGES = ("decode", "queue", "model", "total")


@dataclass
class Call:
    """A request to analyse a recording.

    Args:
        id: a random name, which the response states.
        status: status of the response.
        stages: seconds in each stage; "total" is the time from the end of the upload to the complete response.
        records: the records of the response.
        audio_seconds: duration of the audio that the model processed.
        expert_frames: {task: (N,)}, the frames that each expert processed.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: int = 500
    stages: dict[str, float] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    audio_seconds: float = 0.0
    expert_frames: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """The outcome; one of `OUTCOMES`."""
        return OUTCOMES.get(self.status, "failed")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = time.perf_counter() - begun

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Facts about a request, for metrics and logs."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..models.sparse_merit.audio import SAMPLING_RATE, Channel
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .tracks import Track

OUTCOMES = {
    200: "ok",
    202: "accepted",
    400: "invalid",
    401: "unauthorized",
    408: "slow",
    413: "large",
    422: "invalid",
    499: "disconnected",
    500: "failed",
    502: "died",
    503: "busy",
    504: "timeout",
    507: "memory",
}
"""The outcome of a request by the status of its response; 502 and 507 are those of the candidate of shadow mode."""
CANDIDATE_OUTCOMES = {"ok", "invalid", "large", "failed", "timeout", "memory", "died"}
"""The outcomes of copies."""
STAGES = ("decode", "queue", "model", "total")


OUTLINE = ("channel", "emotion", "reason", "scores", "level_dbfs", "clipped_ratio")
"""What shadow mode and monitoring need of a record."""


@dataclass(frozen=True)
class Received:
    """What a request contained.

    Args:
        content: the file.
        channel, min_score, tasks: options of the request.
        tracks: the tracks after the analysis; none if there is no primary model.
    """

    content: bytes
    channel: Channel
    min_score: float
    tasks: Sequence[str] | None
    tracks: Sequence[Track] = ()


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
        work_seconds: seconds of decoding and of the model for this request alone, without waiting.
        received: what the request contained; None unless it was analysed or accepted.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: int = 500
    stages: dict[str, float] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    audio_seconds: float = 0.0
    expert_frames: dict[str, np.ndarray] = field(default_factory=dict)
    work_seconds: float = 0.0
    received: Received | None = None

    @property
    def outlines(self) -> list[dict[str, Any]]:
        """The records, reduced to `OUTLINE`."""
        return [{name: record[name] for name in OUTLINE if name in record} for record in self.records]

    def add_results(self, tracks: Sequence[Track]) -> None:
        """Adds the results of analysed tracks."""
        self.audio_seconds = sum(track.samples for track in tracks) / SAMPLING_RATE
        self.records = [track.record for track in tracks]
        tasks = tracks[0].expert_frames
        self.expert_frames = {task: np.sum([track.expert_frames[task] for track in tracks], axis=0) for task in tasks}

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


def emotion_labels(config: Any) -> list[str]:
    """The emotions of a model; none if it lacks the task emotion."""
    return list(TASKS[EMOTION].describe(config)["labels"]) if EMOTION in config.tasks else []

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of the service in the format of Prometheus.

Names have one prefix, base units and plural units (https://prometheus.io/docs/practices/naming). Values of labels come
from the configuration of the model and from fixed lists, never from a request.
"""

from collections.abc import Callable, Sequence

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ..models.sparse_merit.pipeline_sparse_merit import NO_SPEECH, UNSURE, SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .calls import OUTCOMES, STAGES, Call

ROLE = "primary"
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds
FACTORS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
LEVELS = (-60, -54, -48, -42, -36, -30, -24, -18, -12, -6, 0)  # dB relative to full scale
CLIPPED = (0, 0.0001, 0.001, 0.01, 0.1, 1)
BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts what the service does. Each object has a registry of its own.

    Args:
        pipe: the pipeline, whose configuration names emotions and experts.
        queue_length: returns the number of requests at the moment.
    """

    def __init__(self, pipe: SpeechEnhancementAndEmotionPipeline, queue_length: Callable[[], float]):
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests to analyse a recording.", "outcome")
        self._duration = self._histogram(
            "request_duration_seconds", "Duration of the stages of requests.", DURATIONS, "stage"
        )
        self._audio = self._counter("audio_seconds", "Duration of the audio that was analysed.")
        self._factor = self._histogram("real_time_factor", "Duration of requests over that of their audio.", FACTORS)
        self._predictions = self._counter("predictions", "Emotions of analysed tracks.", "emotion")
        self._confidence = self._histogram("confidence", "Score of the likeliest emotion.", SHARES)
        self._level = self._histogram("input_level_dbfs", "Level of tracks.", LEVELS, role=())
        self._clipped = self._histogram(
            "input_clipped_ratio", "Share of samples of tracks at full scale.", CLIPPED, role=()
        )
        self._expert_frames = self._counter("expert_frames", "Frames that each expert processed.", "task", "expert")
        self._batch = self._histogram("batch_windows", "Windows in a batch of the model.", BATCHES)
        queue = Gauge("sparse_merit_queue_length", "Requests at the moment.", registry=self.registry)
        queue.set_function(queue_length)
        if pipe.device.type == "cuda":
            memory = Gauge("sparse_merit_gpu_memory_bytes", "Memory of tensors on the GPU.", registry=self.registry)
            memory.set_function(lambda: torch.cuda.memory_allocated(pipe.device))
        self._start_at_zero(pipe)

    def observe(self, call: Call) -> None:
        """Counts a request that has ended."""
        self._requests.labels(ROLE, call.outcome).inc()
        if call.outcome != "ok":
            return
        for stage, seconds in call.stages.items():
            self._duration.labels(ROLE, stage).observe(seconds)
        self._audio.labels(ROLE).inc(call.audio_seconds)
        self._factor.labels(ROLE).observe(call.stages["total"] / call.audio_seconds)
        for record in call.records:
            if record["level_dbfs"] is not None:
                self._level.observe(record["level_dbfs"])
            self._clipped.observe(record["clipped_ratio"])
            if emotion := record["emotion"] or record.get("reason"):
                self._predictions.labels(ROLE, emotion).inc()
            if record["scores"]:
                self._confidence.labels(ROLE).observe(max(record["scores"].values()))
        for task, frames in call.expert_frames.items():
            for expert, count in enumerate(frames):
                self._expert_frames.labels(ROLE, task, str(expert)).inc(float(count))

    def observe_batch(self, windows: int) -> None:
        """Counts a batch of windows."""
        self._batch.labels(ROLE).observe(windows)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sparse_merit_{name}", text, ("role", *labels), registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], *labels: str, role: tuple[str, ...] = ("role",)
    ) -> Histogram:
        return Histogram(f"sparse_merit_{name}", text, (*role, *labels), registry=self.registry, buckets=buckets)

    def _start_at_zero(self, pipe: SpeechEnhancementAndEmotionPipeline) -> None:
        """Makes all series, so that rates are right from the first event on."""
        for outcome in set(OUTCOMES.values()):
            self._requests.labels(ROLE, outcome)
        for stage in STAGES:
            self._duration.labels(ROLE, stage)
        config = pipe.model.config
        labels = TASKS[EMOTION].describe(config)["labels"] if EMOTION in config.tasks else ()
        for label in (*labels, *((NO_SPEECH, UNSURE) if labels else ())):
            self._predictions.labels(ROLE, label)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Metrics of the service in the format of Prometheus.

Names have one prefix, base units and plural units (https://prometheus.io/docs/practices/naming). Values of labels come
from the configuration of the model and from fixed lists, never from a request.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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

from ..monitoring.drift import Drift, emotion_bins
from .calls import CANDIDATE_OUTCOMES, OUTCOMES, STAGES, Call
from .candidate_process import STATUS_OF
from .shadow import DROP_REASONS, Comparison, Shadow

PRIMARY, SHADOW = ROLES = ("primary", "shadow")
OUTCOMES_OF = {PRIMARY: set(OUTCOMES.values()) - {"died", "memory"}, SHADOW: CANDIDATE_OUTCOMES}
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds
FACTORS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
LEVELS = (-60, -54, -48, -42, -36, -30, -24, -18, -12, -6, 0)  # dB relative to full scale
CLIPPED = (0, 0.0001, 0.001, 0.01, 0.1, 1)
BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts what the service does. Each object has a registry of its own.

    Args:
        queue_length: returns the number of requests at the moment.
        device: that of the model in this process; None if there is none.
    """

    def __init__(self, queue_length: Callable[[], float], device: torch.device | None):
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
        self._level = self._histogram("input_level_dbfs", "Level of tracks.", LEVELS)
        self._clipped = self._histogram("input_clipped_ratio", "Share of samples of tracks at full scale.", CLIPPED)
        self._expert_frames = self._counter("expert_frames", "Frames that each expert processed.", "task", "expert")
        self._batch = self._histogram("batch_windows", "Windows in a batch of the model.", BATCHES)
        queue = Gauge("sparse_merit_queue_length", "Requests at the moment.", registry=self.registry)
        queue.set_function(queue_length)
        if device is not None and device.type == "cuda":
            memory = Gauge("sparse_merit_gpu_memory_bytes", "Memory of tensors on the GPU.", registry=self.registry)
            memory.set_function(lambda: torch.cuda.memory_allocated(device))

    def observe(self, call: Call, role: str = PRIMARY) -> None:
        """Counts a request that has ended, or its copy.

        Args:
            call: the request.
            role: which model analysed it, one of `ROLES`.
        """
        self._requests.labels(role, call.outcome).inc()
        if call.outcome != "ok":
            return
        for stage, seconds in call.stages.items():
            self._duration.labels(role, stage).observe(seconds)
        self._audio.labels(role).inc(call.audio_seconds)
        self._factor.labels(role).observe(call.stages["total"] / call.audio_seconds)
        for record in call.records:
            self._observe_record(record, role)
        for task, frames in call.expert_frames.items():
            for expert, count in enumerate(frames):
                self._expert_frames.labels(role, task, str(expert)).inc(float(count))

    def _observe_record(self, record: dict[str, Any], role: str) -> None:
        if record["level_dbfs"] is not None:
            self._level.labels(role).observe(record["level_dbfs"])
        self._clipped.labels(role).observe(record["clipped_ratio"])
        if emotion := record["emotion"] or record.get("reason"):
            self._predictions.labels(role, emotion).inc()
        if record["scores"]:
            self._confidence.labels(role).observe(max(record["scores"].values()))

    def observe_batch(self, windows: int) -> None:
        """Counts a batch of windows."""
        self._batch.labels(PRIMARY).observe(windows)

    def observe_comparison(self, comparison: Comparison) -> None:
        """Counts a copy that the candidate was given."""
        self.observe(comparison.candidate, SHADOW)
        ours, theirs = ([record["emotion"] for record in call.records] for call in comparison.calls)
        if ours and theirs:
            self._comparisons.labels("agree" if ours == theirs else "differ").inc()

    def add_shadow(self, shadow: Shadow) -> None:
        """Adds the metrics of shadow mode."""
        self._comparisons = self._plain_counter("shadow_comparisons", "Copies that both models analysed.", "result")
        self._dropped = self._plain_counter("shadow_dropped", "Copies that the candidate was not given.", "reason")
        self._restarts = self._plain_counter("shadow_restarts", "Restarts of the candidate.", "reason")
        self._unrecorded = self._plain_counter("shadow_unrecorded", "Comparisons that could not be recorded.")
        for counter, values in (
            (self._comparisons, ("agree", "differ")),
            (self._dropped, DROP_REASONS),
            (self._restarts, STATUS_OF),
        ):
            for value in values:
                counter.labels(value)
        up = Gauge("sparse_merit_shadow_up", "Whether the candidate has loaded and runs.", registry=self.registry)
        up.set_function(lambda: shadow.is_up)
        length = Gauge("sparse_merit_shadow_queue_length", "Copies that wait.", registry=self.registry)
        length.set_function(lambda: shadow.length)

    def count_dropped(self, reason: str) -> None:
        """Counts a copy that the candidate was not given."""
        self._dropped.labels(reason).inc()

    def count_restart(self, reason: str) -> None:
        """Counts a restart of the candidate."""
        self._restarts.labels(reason).inc()

    def count_unrecorded(self) -> None:
        """Counts a comparison that could not be recorded."""
        self._unrecorded.inc()

    def add_drift(self, drift: Drift) -> None:
        """Adds the drift of each signal of the reference; NaN before there are enough recordings."""
        for name, text in {
            "psi": "Population stability index of the latest recordings.",
            "psi_limit": "PSI that chance exceeds in 1 % of samples.",
        }.items():
            gauge = Gauge(f"sparse_merit_drift_{name}", text, ["signal"], registry=self.registry)
            for signal in drift.reference.histograms:
                gauge.labels(signal).set_function(partial(_drift_of, drift, signal, name))

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def start_at_zero(self, role: str, labels: Sequence[str]) -> None:
        """Makes all series of a role, so that rates are right from the first event on.

        Args:
            role: one of `ROLES`.
            labels: the emotions of the model.
        """
        for outcome in OUTCOMES_OF[role]:
            self._requests.labels(role, outcome)
        for stage in STAGES:
            self._duration.labels(role, stage)
        for label in emotion_bins(labels):
            self._predictions.labels(role, label)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._plain_counter(name, text, "role", *labels)

    def _plain_counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sparse_merit_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"sparse_merit_{name}", text, ("role", *labels), registry=self.registry, buckets=buckets)


def _drift_of(drift: Drift, signal: str, name: str) -> float:
    measured = drift.measured(signal)
    if measured is None:
        return float("nan")
    return measured.psi if name == "psi" else measured.limit

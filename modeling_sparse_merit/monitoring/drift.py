# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Drift: how far the recordings and results of a model are from those of a reference.

The measure is the population stability index (PSI) of histograms: of emotions, confidence, level, and of the experts
that process the frames of each task. Custom takes a PSI above 0.1 for a small and above 0.25 for a large change, but
even without change, the PSI of a small sample may exceed that. It is then about `1/n + 1/m` times a chi-squared
variable with one degree of freedom less than there are bins, for `n` and `m` recordings (Yurdakul, 2018, "Statistical
properties of population stability index"), which gives a limit for chance.
"""

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..models.sparse_merit.pipeline_sparse_merit import NO_SPEECH, UNSURE

SCHEMA_VERSION = 1
CONFIDENCES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEVELS = (-48.0, -42.0, -36.0, -30.0, -24.0, -18.0, -12.0)  # dB relative to full scale
EXPERTS = "experts_"
FLOOR = 1e-4  # of a proportion, so that empty bins have a finite effect
WINDOW, LEAST = 500, 100
"""Recordings that are compared with the reference: the latest ones, and how many are needed."""
THRESHOLDS = {"small": 0.1, "large": 0.25}
QUANTILE_99 = 2.3263478740408408  # of the normal distribution


def psi(counts: np.ndarray, reference: np.ndarray) -> float:
    """The population stability index `sum((p - q) ln(p / q))` of two histograms, with proportions of at least 0.0001.

    Args:
        counts, reference: (bins,), not all zero.
    """
    p, q = (np.maximum(values / values.sum(), FLOOR) for values in (counts, reference))
    return float(np.sum((p - q) * np.log(p / q)))


def chance_limit(bins: int, recordings: float, reference: float) -> float:
    """The PSI that 99 % of samples without change do not exceed, for independent recordings.

    The chi-squared quantile is approximated by a cube of the normal one (Wilson and Hilferty, 1931).

    Args:
        bins: number of bins.
        recordings: number of recordings in the sample.
        reference: number of recordings in the reference.
    """
    freedom = max(bins - 1, 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + QUANTILE_99 * math.sqrt(spread)) ** 3
    return quantile * (1 / recordings + 1 / reference)


def signals(record: Mapping[str, Any], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The bin of each signal that a result falls into, as histograms with a sum of 1.

    Args:
        record: a record of `results.jsonl`, or of the service.
        labels: the emotions of the model, without which there is no signal but the level.
    """
    bins = {}
    names = emotion_bins(labels)
    if (emotion := record.get("emotion") or record.get("reason")) in names:
        bins["emotion"] = _one_of(len(names), names.index(emotion))
    if record.get("scores"):
        bins["confidence"] = _binned(max(record["scores"].values()), CONFIDENCES)
    if record.get("level_dbfs") is not None:
        bins["level_dbfs"] = _binned(record["level_dbfs"], LEVELS)
    return bins


def expert_signals(frames: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, np.ndarray]:
    """The share of each expert in the frames of a recording, by task.

    Args:
        frames: {task: (N,)}, the frames that each expert processed.
    """
    totals = {task: np.asarray(counts, float) for task, counts in frames.items()}
    return {EXPERTS + task: counts / counts.sum() for task, counts in totals.items() if counts.sum() > 0}


def emotion_bins(labels: Sequence[str]) -> list[str]:
    """Names of the bins of the signal `emotion`."""
    return [*labels, NO_SPEECH, UNSURE] if labels else []


def _binned(value: float, edges: Sequence[float]) -> np.ndarray:
    return _one_of(len(edges) + 1, int(np.searchsorted(edges, value, side="right")))


def _one_of(bins: int, place: int) -> np.ndarray:
    return np.eye(1, bins, place)[0]


@dataclass(frozen=True)
class Reference:
    """What recordings and results of a model look like without drift.

    Args:
        model: name of the model, for display.
        labels: its emotions.
        histograms: sum of the histograms of all recordings, by signal.
        recordings: number of recordings of each signal.
    """

    model: str
    labels: list[str]
    histograms: dict[str, np.ndarray]
    recordings: dict[str, int]

    @classmethod
    def of(cls, model: str, labels: Sequence[str], clips: Iterable[Mapping[str, np.ndarray]]) -> "Reference":
        """The reference of some recordings.

        Args:
            model: name of the model.
            labels: its emotions.
            clips: the signals of each recording.
        """
        histograms: dict[str, np.ndarray] = {}
        recordings: dict[str, int] = {}
        for clip in clips:
            for name, values in clip.items():
                histograms[name] = histograms.get(name, np.zeros(len(values))) + values
                recordings[name] = recordings.get(name, 0) + 1
        return cls(model, list(labels), histograms, recordings)

    def save(self, path: Path) -> None:
        """Writes the reference as JSON."""
        described = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "labels": self.labels,
            "signals": {
                name: {"recordings": self.recordings[name], "histogram": [round(float(value), 6) for value in values]}
                for name, values in self.histograms.items()
            },
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Reads a reference.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no reference, or of another version.
        """
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            if described["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"its version is {described['schema_version']}, not {SCHEMA_VERSION}")
            histograms = {name: np.array(each["histogram"], float) for name, each in described["signals"].items()}
            recordings = {name: int(each["recordings"]) for name, each in described["signals"].items()}
            labels = described["labels"]
            if len(set(labels)) != len(labels) or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"its labels are {labels}")
            reference = cls(str(described["model"]), list(labels), histograms, recordings)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{path} is no reference ({error}): make one with sparse-merit monitor-reference."
            ) from None
        reference._check(path)
        return reference

    def _check(self, path: Path) -> None:
        sizes = {"emotion": len(emotion_bins(self.labels)), "confidence": len(CONFIDENCES) + 1}
        sizes["level_dbfs"] = len(LEVELS) + 1
        for name, values in self.histograms.items():
            is_sum = values.ndim == 1 and np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0
            if not is_sum or len(values) != sizes.get(name, len(values)) or self.recordings[name] < 1:
                raise ValueError(
                    f"{path} has an invalid histogram of {name}: make it again with sparse-merit monitor-reference."
                )


@dataclass(frozen=True)
class Measured:
    """The drift of one signal.

    Args:
        psi: population stability index.
        limit: what chance alone exceeds in 1 % of samples; see `chance_limit`.
    """

    psi: float
    limit: float

    @property
    def size(self) -> str | None:
        """ "small" or "large", for a PSI above 0.1 or 0.25 that chance does not explain; None otherwise."""
        above = [name for name, threshold in THRESHOLDS.items() if self.psi > max(threshold, self.limit)]
        return above[-1] if above else None


def measured(histogram: np.ndarray, recordings: int, reference: Reference, signal: str) -> Measured:
    """The drift of a signal.

    Args:
        histogram: sum of the histograms of some recordings.
        recordings: their number.
        reference: what they are compared with.
        signal: a signal of the reference.
    """
    values, expected = histogram, reference.histograms[signal]
    limit = chance_limit(len(values), recordings, reference.recordings[signal])
    return Measured(psi(values, expected), limit)


@dataclass
class Drift:
    """Drift of the latest recordings.

    Args:
        reference: what they are compared with.
        on_change: called with a signal and its drift when `Measured.size` changes.
        window: number of recordings.
        least: number of recordings without which nothing is measured.
    """

    reference: Reference
    on_change: Callable[[str, Measured], object]
    window: int = WINDOW
    least: int = LEAST
    _latest: dict[str, deque[np.ndarray]] = field(default_factory=dict)
    _sums: dict[str, np.ndarray] = field(default_factory=dict)
    _sizes: dict[str, str | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, clip: Mapping[str, np.ndarray]) -> None:
        """Adds a recording.

        Args:
            clip: its signals; those that the reference lacks are ignored.
        """
        with self._lock:
            for name, values in clip.items():
                expected = self.reference.histograms.get(name)
                if expected is not None and len(expected) == len(values):
                    self._add(name, values)

    def _add(self, name: str, values: np.ndarray) -> None:
        latest = self._latest.setdefault(name, deque())
        latest.append(values)
        self._sums[name] = self._sums.get(name, np.zeros(len(values))) + values
        if len(latest) > self.window:
            self._sums[name] = self._sums[name] - latest.popleft()
        if (drift := self._measured(name)) is not None and drift.size != self._sizes.get(name):
            self._sizes[name] = drift.size
            self.on_change(name, drift)

    def measured(self, name: str) -> Measured | None:
        """The drift of a signal; None before there are enough recordings."""
        with self._lock:
            return self._measured(name)

    def _measured(self, name: str) -> Measured | None:
        count = len(self._latest.get(name, ()))
        if count < self.least:
            return None
        return measured(np.maximum(self._sums[name], 0), count, self.reference, name)

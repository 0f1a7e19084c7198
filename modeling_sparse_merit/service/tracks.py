# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Decoding of a recording in memory, and joining of the model's outputs for it."""

import io
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..files import one_line
from ..inference.blocks import BlockReader
from ..inference.tracks import track_record
from ..models.sparse_merit.audio import SAMPLING_RATE, Channel
from ..models.sparse_merit.cutting import Window, WindowCutter
from ..models.sparse_merit.decoding import stream_seconds
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.speech_segments import SpeechSegment
from ..models.sparse_merit.streaming import Assembler, DetectorFactory, WindowModel, WindowOutput
from ..models.sparse_merit.tasks import ENHANCEMENT
from .limits import DISCONNECTED, Limits, Refusal

MAX_CHANNELS = 8  # that are analysed separately: each one is decoded by itself
NAME = "The recording"


@dataclass(frozen=True)
class Decoded:
    """A decoded track.

    Args:
        reader: read it; keeps its facts.
        windows: its windows, in order; the model takes them out.
    """

    reader: BlockReader
    windows: deque[Window]


def decode(content: bytes, channel: Channel, limits: Limits, is_cancelled: threading.Event) -> list[Decoded]:
    """Decodes the tracks of a recording and cuts them into windows.

    Args:
        content: the bytes of a file.
        channel: "mix", a number from 1, or "each".
        limits: the longest duration, checked in the header and while decoding.
        is_cancelled: stops decoding.

    Raises:
        Refusal: the recording cannot be decoded, lacks the channel, is too long or has too many channels, or nobody
            waits for it any more.
    """
    try:
        return _decode(content, channel, limits, is_cancelled)
    except ValueError as error:
        raise Refusal(400, one_line(error)) from None


def _decode(content: bytes, channel: Channel, limits: Limits, is_cancelled: threading.Event) -> list[Decoded]:
    count = 1

    def check(seconds: float) -> None:
        if is_cancelled.is_set():
            raise Refusal(DISCONNECTED, "The client is gone.")
        if count * seconds > limits.seconds:
            sum_of = f" in the sum of its {count} channels" if count > 1 else ""
            raise Refusal(413, f"{NAME} lasts more than {limits.seconds:g} s{sum_of}, the limit: send parts of it.")

    def read(number: Channel) -> Decoded:
        with BlockReader(io.BytesIO(content), SAMPLING_RATE, number, check) as reader:
            return Decoded(reader, deque(_windows(reader)))

    seconds = stream_seconds(io.BytesIO(content), NAME)
    if math.isfinite(seconds):
        check(seconds)
    if channel != "each":
        return [read(channel)]
    with BlockReader(io.BytesIO(content), SAMPLING_RATE, 1) as reader:
        count = reader.channels
    if count > MAX_CHANNELS:
        raise Refusal(400, f"{NAME} has {count} channels; at most {MAX_CHANNELS} are analysed separately.")
    return [read(number) for number in range(1, count + 1)]


def _windows(reader: BlockReader) -> Iterator[Window]:
    cutter = WindowCutter()
    for block in reader:
        yield from cutter.add(block)
    yield from cutter.finish()


@dataclass(eq=False)
class Track:
    """A track on its way through the model.

    Args:
        decoded: the track.
        pipe: turns outputs into results.
        model: computes the outputs.
        min_score: an emotion with a smaller score becomes None, with the reason "unsure".
        detector: factory of the voice activity detector; None for that of the pipeline.
    """

    decoded: Decoded
    pipe: SpeechEnhancementAndEmotionPipeline
    model: WindowModel
    min_score: float
    detector: DetectorFactory | None
    expert_frames: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = self.decoded.windows
        self.samples = self.left[-1].end
        self.record: dict[str, Any] = {}
        self._assembler = Assembler(self.model, self.detector)
        self._segments: list[SpeechSegment] = []
        self._enhanced: list[np.ndarray] = []

    @property
    def enhanced(self) -> np.ndarray:
        """Enhanced speech, float32 (samples,) at 16 kHz; empty if it is not computed."""
        return np.concatenate(self._enhanced or [np.zeros(0, np.float32)])

    def add(self, window: Window, output: WindowOutput) -> None:
        """Adds the output of the next window; the last one completes `record`.

        Args:
            window: the window.
            output: the output of the model.

        Raises:
            ArithmeticError: the model returned NaN or infinite numbers.
        """
        for values in output.enhanced.values():
            _check_finite(values)
        joined, ended = self._assembler.add(window, output)
        self._segments += ended
        if ENHANCEMENT in self.model.asked:
            self._enhanced.append(joined[ENHANCEMENT])
        for task, shares in output.expert_use.items():
            self.expert_frames[task] = self.expert_frames.get(task, 0) + shares.sum(axis=0)
        if window.is_last:
            outputs = self.pipe.clip_results(self._segments, self.samples, self.model.clip_tasks, self.min_score)
            self.record = track_record(self.pipe, self.decoded.reader, outputs, None)
            _check_finite(list(self.record["scores"].values()))


def _check_finite(values: np.ndarray | list[float]) -> None:
    if not np.isfinite(values).all():
        raise ArithmeticError("The model returned NaN or infinite numbers.")

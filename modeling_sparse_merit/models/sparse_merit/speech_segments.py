# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Joins frames of speech to segments, and runs the heads of clip tasks on each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .activity import runs
from .cutting import FRAME, FRAMES_PER_SECOND

LONG_ENOUGH = 2 * FRAMES_PER_SECOND  # frames of a segment that a short pause ends
TOO_LONG = 10 * FRAMES_PER_SECOND  # frames of a segment that the border of a piece ends
SHORT_PAUSE, PAUSE = 15, 25  # frames, 0.3 and 0.5 s
MARGIN = 50  # frames, 1 s, of the pauses around a segment that its heads see, as in the clips of the training
LEAST_SPEECH = 10  # frames, 0.2 s

Features = dict[str, torch.Tensor]
"""{task: (T, D)} of a span, at the rate of the encoder."""
Outputs = dict[str, torch.Tensor]
"""{task: (1, K)}, outputs of the heads for a span."""


@dataclass(frozen=True)
class SpeechSegment:
    """A span of speech.

    Args:
        start, end: frames of 20 ms of the recording.
        outputs: {task: (1, K)}.
    """

    start: int
    end: int
    outputs: Outputs

    @property
    def start_s(self) -> float:
        """Start in seconds."""
        return self.start / FRAMES_PER_SECOND

    @property
    def end_s(self) -> float:
        """End in seconds."""
        return self.end / FRAMES_PER_SECOND


@dataclass
class _Open:
    """A segment that may continue.

    Args:
        start: its first frame.
        seen_from: the first frame that its heads process.
        end: the end of its speech so far.
        border: the end of the last piece with its speech.
        speech: number of frames of speech in it.
    """

    start: int
    seen_from: int
    end: int
    border: int
    speech: int


class SpeechSegments:
    """Joins frames of speech to segments.

    A segment of at least 2 s ends at a pause of 0.3 s, a shorter one at a pause of 0.5 s. A segment also ends before a
    piece at another level, and, if it has at least 2 s, before a piece that could extend it beyond 10 s. Spans with
    less than 0.2 s of speech are ignored. The heads process all frames of a segment and up to 1 s of the pause on
    either side, but not beyond the middle of the pause or the border of a piece.

    Args:
        heads: function of the features {task: (1, T, D)} of a span; returns {task: (1, K)}.
        feature_samples: samples from one frame of the encoder to the next; mostly 320, those of a frame of speech.
    """

    def __init__(self, heads: Callable[[Features], Outputs], feature_samples: int = FRAME):
        self._heads, self._feature_samples = heads, feature_samples
        self._open: _Open | None = None
        self._pieces: list[tuple[int, int, Features]] = []  # first frame, end, and features of those that are held
        self._end = 0  # of the frames that came
        self._last_end = 0  # of the last segment

    def add(self, is_speech: np.ndarray, features: Features, is_other_level: bool = False) -> list[SpeechSegment]:
        """Adds the next piece.

        Args:
            is_speech: boolean (frames,), one for each 20 ms.
            features: {task: (T, D)} of the same time; the last frame may be missing.
            is_other_level: whether its level differs so much from the previous piece that the voice is another one.

        Returns:
            the segments that have ended.
        """
        start, end = self._end, self._end + len(is_speech)
        ended = []
        if self._open is not None:
            is_too_long = end - self._open.start > TOO_LONG and start - self._open.start >= LONG_ENOUGH
            if is_other_level or is_too_long:
                ended += self._close(start)
        self._pieces.append((start, end, features))
        self._end = end
        for first, last in (runs(is_speech) + start).tolist():
            if self._open is not None and first - self._open.end >= self._pause():
                ended += self._close((self._open.end + first + 1) // 2)
            if self._open is None:
                seen_from = max(start, first - MARGIN, (self._last_end + first + 1) // 2 if self._last_end else 0)
                self._open = _Open(first, seen_from, last, end, 0)
            self._open.end, self._open.border = last, end
            self._open.speech += last - first
        if self._open is not None and end - self._open.end >= self._pause():
            ended += self._close(end)
        self._forget(end if self._open is None else self._open.seen_from)
        return ended

    def finish(self) -> list[SpeechSegment]:
        """Returns the last segment, which ends with the recording, if there is one."""
        return [] if self._open is None else self._close(self._end)

    def current(self) -> Outputs | None:
        """Outputs of the heads for the segment that is open; None if there is none or it is too short."""
        if self._open is None or self._open.speech < LEAST_SPEECH:
            return None
        return self._heads(self._of(self._open.seen_from, self._end))

    @property
    def next_start(self) -> int:
        """The first frame of the segment that is open; without one, the earliest that the next one can have."""
        return self._end if self._open is None else self._open.start

    def _pause(self) -> int:
        assert self._open is not None
        return SHORT_PAUSE if self._open.end - self._open.start >= LONG_ENOUGH else PAUSE

    def _close(self, seen_to: int) -> list[SpeechSegment]:
        """Ends the open segment, whose heads process frames before `seen_to`; [] if it has too little speech."""
        assert self._open is not None
        segment, self._open = self._open, None
        if segment.speech < LEAST_SPEECH:
            return []
        self._last_end = segment.end
        seen_to = max(segment.end, min(seen_to, segment.border, segment.end + MARGIN))
        return [SpeechSegment(segment.start, segment.end, self._heads(self._of(segment.seen_from, seen_to)))]

    def _forget(self, before: int) -> None:
        self._pieces = [piece for piece in self._pieces if piece[1] > before]

    def _of(self, start: int, end: int) -> Features:
        """Features {task: (1, T, D)} of some frames."""
        parts: dict[str, list[torch.Tensor]] = {}
        for first, stop, features in self._pieces:
            if first < end and start < stop:
                samples = (max(start - first, 0) * FRAME, (min(end, stop) - first) * FRAME)
                for task, values in features.items():
                    place = min(samples[0] // self._feature_samples, len(values) - 1)
                    part = values[place : max(place + 1, -(-samples[1] // self._feature_samples))]
                    parts.setdefault(task, []).append(part)
        return {task: torch.cat(values)[None] for task, values in parts.items()}


def average(segments: list[SpeechSegment], function: Callable[[str, torch.Tensor], Any]) -> dict[str, Any]:
    """The mean over segments, weighted by their durations, of a function of the outputs of each task.

    Args:
        segments: at least one.
        function: of the name of a task and (K,); gives (K,).
    """
    weights = torch.tensor([segment.end - segment.start for segment in segments], dtype=torch.float64)
    weights = weights / weights.sum()
    means = {}
    for task in segments[0].outputs:
        values = torch.stack([function(task, segment.outputs[task][0].float()) for segment in segments])  # (N, K)
        means[task] = values[0] if len(segments) == 1 else (weights[:, None] * values).sum(0).float()
    return means

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Cuts recordings of any length into windows, at pauses and changes of level."""

import math
from dataclasses import dataclass

import numpy as np

SAMPLING_RATE = 16_000
FRAME = 320  # samples, 20 ms: the frames of the encoder
FRAMES_PER_SECOND = SAMPLING_RATE // FRAME
PEAK = 1600  # samples, 0.1 s
MIN_SAMPLES = 400  # one frame of the encoder
REACH = 50  # frames: a cut is the best one within 1 s on either side, and levels are means over 1 s
SMOOTHING = np.hanning(7)[1:-1] / np.hanning(7).sum()  # 0.1 s: shorter than a syllable
LEVEL_CHANGE_WEIGHT = 3.0  # of a change of level against a depth of the same dB
LEVEL_CHANGE = 12.0  # dB between the peaks of neighbours, more than within a sentence; less cuts no short recording
WHOLE = 150  # frames, 3 s: so much between two changes of level is not cut
LOWEST_LEVEL = -80.0  # dB relative to full scale, below the noise of quiet places and microphones
CHUNK_LENGTH_S, STRIDE_LENGTH_S = 10.0, 0.04
"""Longest window and its context on either side, in seconds."""

Stride = float | tuple[float, float]
"""Context of a window in seconds: on either side, or on the left and on the right."""


@dataclass(frozen=True)
class Window:
    """A piece of a recording with its context.

    Args:
        start, end: the piece, in samples of the recording; `start` is a multiple of 320.
        waveform: float32 (left + end - start + right,), the piece and its context.
        left: samples of context before the piece, a multiple of 320.
        is_fixed: whether pieces have a fixed length; then the level is measured with the context.
        is_last: whether the recording ends with it.
    """

    start: int
    end: int
    waveform: np.ndarray
    left: int
    is_fixed: bool
    is_last: bool

    @property
    def right(self) -> int:
        """Samples of context after the piece."""
        return len(self.waveform) - self.left - (self.end - self.start)

    @property
    def piece(self) -> np.ndarray:
        """The piece alone (end - start,)."""
        return self.of_piece(self.waveform)

    @property
    def peak_db(self) -> float:
        """Level of the loudest 0.1 s of the piece, relative to full scale."""
        piece = self.piece.astype(np.float64)
        parts = piece[: len(piece) // PEAK * PEAK].reshape(-1, PEAK) if len(piece) >= PEAK else piece[None]
        return 10 * math.log10(np.square(parts).mean(axis=1).max() + 1e-10)

    @property
    def measured(self) -> np.ndarray:
        """Samples whose mean and variance scale the window for the model."""
        return self.waveform if self.is_fixed else self.piece

    def of_piece(self, waveform: np.ndarray) -> np.ndarray:
        """The part of a signal, which is as long as `waveform`, that belongs to the piece."""
        return waveform[self.left : self.left + self.end - self.start]


class WindowCutter:
    """Cuts a recording, which is given in blocks, into windows. Their pieces, one after another, are the recording.

    Each frame has a cost: its level over 0.1 s, minus three times the change between the mean levels of the second
    before and the second after. A cut is a frame with the minimum cost within 1 s. Pieces therefore begin and end in
    pauses, speech at a different level gets its own piece, and cuts depend only on the samples around them, not on
    where the recording begins.

    Some cuts change the peak level by 12 dB, for example at a long pause or another voice. Between two of these,
    spans of at most 3 s are not cut further, and a recording that fits into one window is cut at these alone. A piece
    that would exceed a window is cut at its frame of minimum cost. If a window leaves less than 2 s between its
    contexts, pieces have a fixed length, for low latency.

    Args:
        chunk_length_s: longest window in seconds, context included.
        stride_length_s: context on either side, or (left, right), in seconds. All are rounded to 20 ms.

    Raises:
        ValueError: a context is negative, or less than 0.1 s are left between the contexts.

    Usage:
        >>> cutter = WindowCutter()
        >>> windows = cutter.add(np.zeros(8_000, np.float32))   # the next block, at 16 kHz
        >>> windows += cutter.finish()
        >>> [(window.start, window.end) for window in windows]
        [(0, 8000)]
    """

    def __init__(self, chunk_length_s: float = CHUNK_LENGTH_S, stride_length_s: Stride = STRIDE_LENGTH_S):
        self.left, self.right, self._longest = frames_of(chunk_length_s, stride_length_s)
        self._ahead = max(self.right, 1)  # frames after a cut, so that it is never the end of the recording
        self._whole = self.left + self._longest + self.right  # frames of a recording that is one window
        self.is_fixed = self._longest < 2 * REACH
        self._samples = _Buffer(FRAME)
        self._levels = _Levels()
        self._start = 0  # frame of the last cut
        self._changes: list[int] | None = None  # the cuts of a recording that would be one window
        self._is_finished = False

    def add(self, block: np.ndarray) -> list[Window]:
        """Adds the next samples, float32 (samples,) at 16 kHz; returns the windows that are complete."""
        frames = self._samples.end // FRAME
        self._samples.append(block)
        if not self.is_fixed:
            self._levels.add(block)
        return self._windows() if self._samples.end // FRAME > frames else []

    def finish(self) -> list[Window]:
        """Returns the rest, when the recording has ended."""
        self._is_finished = True
        if not self.is_fixed:
            self._levels.finish()
        windows = self._windows()
        start = self._start * FRAME
        if self._samples.end > start:
            windows.append(self._window(start, self._samples.end))
        return windows

    @property
    def latency_s(self) -> float:
        """Longest time in seconds from a sample until its window is known."""
        if self.is_fixed:
            return (self._longest + self._ahead) / FRAMES_PER_SECOND
        margin = len(SMOOTHING) // 2
        seen = max(self._longest + 3 * REACH, min(WHOLE, self._longest) + 5 * REACH + 1) + margin
        known = max(self._longest + self._ahead, seen)
        return max(known, self._whole + 1) / FRAMES_PER_SECOND

    @property
    def window_s(self) -> tuple[float, float, float]:
        """Seconds of the left context, of the longest piece, and of the right context of a window."""
        frames = (self.left, self._longest, self.right)
        left, longest, right = (count / FRAMES_PER_SECOND for count in frames)
        return left, longest, right

    def _windows(self) -> list[Window]:
        windows = []
        while (cut := self._next_cut()) is not None:
            windows.append(self._window(self._start * FRAME, cut * FRAME))
            self._start = cut
            self._samples.drop(max(0, cut - max(self.left, 2)) * FRAME)
            if not self.is_fixed:
                self._levels.drop(cut)
        return windows

    def _window(self, start: int, end: int) -> Window:
        left = min(start, max(self.left, 2) * FRAME if end - start < MIN_SAMPLES else self.left * FRAME)
        waveform = self._samples.read(start - left, end + self.right * FRAME)
        return Window(start, end, waveform, left, self.is_fixed, self._is_finished and end == self._samples.end)

    def _next_cut(self) -> int | None:
        """Frame of the next cut; None where it is not known yet, or there is none."""
        longest = self._start + self._longest
        if not self.is_fixed and self._samples.end <= self._whole * FRAME:
            return self._next_change() if self._is_finished else None
        cut = longest if self.is_fixed else self._levels.cut(self._start, longest)
        if cut is None:
            return None
        ahead = 1 if self._is_finished else self._ahead * FRAME
        return cut if self._samples.end >= cut * FRAME + ahead else None

    def _next_change(self) -> int | None:
        if self._changes is None:
            self._changes = self._levels.changes()
        return self._changes.pop(0) if self._changes else None


class _Levels:
    """Levels of the frames of a recording since the last cut, and how good a cut each of them is."""

    def __init__(self) -> None:
        self._rest = np.empty(0, np.float32)
        self._powers = _Buffer()  # mean square of each frame
        self._costs = _Buffer()  # of a cut, in dB, at each frame
        self._levels = _Buffer()  # in dB, of 0.1 s
        self._is_finished = False

    def add(self, block: np.ndarray) -> None:
        samples = np.concatenate([self._rest, block])
        frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
        self._rest = samples[frames.size :]
        self._powers.append(np.square(frames, dtype=np.float64).mean(axis=1))
        while self._powers.end >= self._costs.end + 2 * REACH + len(SMOOTHING) // 2:
            self._weigh(REACH)  # always as many, so that nothing depends on the length of the blocks

    def finish(self) -> None:
        self._is_finished = True
        self._weigh(self._powers.end - self._costs.end)

    def drop(self, before: int) -> None:
        for values, kept in ((self._powers, REACH + len(SMOOTHING)), (self._costs, REACH), (self._levels, 2 * REACH)):
            values.drop(max(0, before - kept))

    def cut(self, start: int, longest: int) -> int | None:
        """The next cut: the first change of level within 3 s, or else the first of all that are the best within their
        reach; where none is up to `longest`, the best.

        Args:
            start, longest: frames of the last cut, and of the last possible one.

        Returns:
            None where it is not known yet, or there is none.
        """
        end = self._costs.end
        first = start + REACH + 1 if start else REACH // 2
        last = end - REACH // 2 if self._is_finished else end - REACH
        reach = start + min(WHOLE, longest - start)
        if not self._is_finished and last <= reach + 2 * REACH:
            return None
        cuts = self._best(first, min(last - 1, max(longest, reach + 2 * REACH)))
        if changes := [cut for cut in self._changes_among(cuts, start) if cut <= reach]:
            return changes[0]
        if self._is_finished and end <= reach:
            return None
        if cuts and cuts[0] <= longest:
            return cuts[0]
        if longest >= (end if self._is_finished else end - REACH):
            return None
        costs = self._costs.read(first, longest + 1)
        return longest - int(costs[::-1].argmin())  # the last one: of silence, as much as goes into a window

    def changes(self) -> list[int]:
        """The cuts of a whole recording between whose pieces the peak level changes."""
        return self._changes_among(self._best(REACH // 2, self._costs.end - REACH // 2 - 1), 0)

    def _changes_among(self, cuts: list[int], start: int) -> list[int]:
        """Those of the cuts between which and their neighbours, at most 2 s away, the peak level changes."""
        changes = []
        for before, cut, after in zip([start, *cuts], cuts, [*cuts[1:], self._costs.end], strict=False):
            left = self._levels.read(max(before, cut - 2 * REACH), cut)
            right = self._levels.read(cut, min(after, cut + 2 * REACH))
            if abs(left.max() - right.max()) >= LEVEL_CHANGE:
                changes.append(cut)
        return changes

    def _best(self, first: int, last: int) -> list[int]:
        """Frames with the minimum cost within reach; the first of several equal ones."""
        if last < first:
            return []
        start, stop = max(first - REACH, self._costs.start), min(last + REACH + 1, self._costs.end)
        costs = np.full(last - first + 2 * REACH + 1, np.inf)
        costs[start - first + REACH : stop - first + REACH] = self._costs.read(start, stop)
        reached = np.lib.stride_tricks.sliding_window_view(costs, 2 * REACH + 1)  # (frames, 2 * REACH + 1)
        is_best = reached.argmin(axis=1) == REACH
        return [first + int(place) for place in is_best.nonzero()[0]]

    def _weigh(self, count: int) -> None:
        """Weighs the next frames by the levels of the second before and the second after."""
        if count == 0:
            return
        first, margin = self._costs.end, len(SMOOTHING) // 2
        start, stop = first - REACH - margin, first + count + REACH + margin
        powers = self._powers.read(max(start, 0), min(stop, self._powers.end))
        padding = (max(0, -start), max(0, stop - self._powers.end))
        levels = 10 * np.log10(np.convolve(np.pad(powers, padding, mode="edge"), SMOOTHING, "valid") + 1e-10)
        sums = np.cumsum(np.concatenate([[0.0], levels.clip(LOWEST_LEVEL)]))
        before, after = sums[REACH:-REACH] - sums[: -2 * REACH], sums[2 * REACH :] - sums[REACH:-REACH]
        changes = np.abs(before - after)[:count] / REACH
        levels = levels[REACH : REACH + count]
        self._levels.append(levels)
        self._costs.append(levels - LEVEL_CHANGE_WEIGHT * changes)


class _Buffer:
    """Numbers that come at one end and leave at the other, under their places in the whole.

    Args:
        unit: dropping leaves a multiple of it.
    """

    def __init__(self, unit: int = 1) -> None:
        self._unit = unit
        self._values = np.empty(0, np.float32 if unit > 1 else np.float64)
        self._parts: list[np.ndarray] = []
        self.start = self.end = 0

    def append(self, values: np.ndarray) -> None:
        self._parts.append(np.asarray(values, self._values.dtype))
        self.end += len(values)

    def read(self, start: int, end: int) -> np.ndarray:
        """The numbers from `start` up to `end`, or up to the last one."""
        self._join()
        return self._values[start - self.start : end - self.start].copy()

    def drop(self, before: int) -> None:
        """Drops the numbers before a position."""
        before = min(before, self.end) // self._unit * self._unit
        if before > self.start:
            self._join()
            self._values = self._values[before - self.start :].copy()
            self.start = before

    def _join(self) -> None:
        if self._parts:
            self._values = np.concatenate([self._values, *self._parts])
            self._parts = []


def frames_of(chunk_length_s: float, stride_length_s: Stride) -> tuple[int, int, int]:
    """Converts the sizes of a window to frames of 20 ms.

    Args:
        chunk_length_s: longest window in seconds, context included.
        stride_length_s: context on either side, or (left, right), in seconds.

    Returns:
        the numbers of frames of the left context, the right context and the longest piece.

    Raises:
        ValueError: a context is negative, or less than 0.1 s are left between the contexts.
    """
    sides = stride_length_s if isinstance(stride_length_s, tuple | list) else (stride_length_s, stride_length_s)
    seconds = (chunk_length_s, *sides)
    if len(sides) != 2 or not all(math.isfinite(value) and value >= 0 for value in seconds):
        raise ValueError(
            f"`chunk_length_s`, `stride_length_s` are {chunk_length_s}, {stride_length_s}; expected seconds, and of "
            "the stride one number or (left, right), none of them negative."
        )
    whole, left, right = (round(value * FRAMES_PER_SECOND) for value in seconds)
    if whole - left - right < FRAMES_PER_SECOND // 10:
        raise ValueError(
            f"`chunk_length_s`, `stride_length_s` are {chunk_length_s}, {stride_length_s}; expected 0.1 s or more "
            "between the left and the right context of a window."
        )
    return left, right, whole - left - right

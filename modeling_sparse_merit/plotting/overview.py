# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Envelope and spectrogram of a signal for figures, computed block by block in constant memory."""

from dataclasses import dataclass, replace

import numpy as np

MAX_COLUMNS = 2_400  # more than a figure can show
WINDOWS = 1_024  # number of windows transformed together
LOWEST_POWER = 1e-12


@dataclass(frozen=True)
class Columns:
    """At most `limit` columns, each of which joins `step` adjacent items; the last one may be incomplete.

    Args:
        join: a binary ufunc: `np.minimum`, `np.maximum` or `np.add`.
        values: (columns, ...).
        items: number of items so far.
        step: number of items per column, a power of two.
        limit: maximum number of columns.
    """

    join: np.ufunc
    values: np.ndarray
    items: int = 0
    step: int = 1
    limit: int = MAX_COLUMNS

    def plus(self, items: np.ndarray) -> "Columns":
        """The columns with further items (items, ...) appended; the step doubles if there are too many columns."""
        missing = -self.items % self.step  # from the open column
        starts = np.arange(missing, len(items), self.step) + len(self.values)
        values = np.concatenate([self.values, items])
        if len(values):
            values = self.join.reduceat(values, np.concatenate([np.arange(len(self.values)), starts]), axis=0)
        step = self.step
        while len(values) > self.limit:
            values, step = self.join.reduceat(values, np.arange(0, len(values), 2), axis=0), 2 * step
        return replace(self, values=values, items=self.items + len(items), step=step)

    @property
    def counts(self) -> np.ndarray:
        """Number of items in each column, (columns,)."""
        return np.minimum(self.step, self.items - self.step * np.arange(len(self.values)))


class Overview:
    """Envelope and spectrogram of a signal, for pictures.

    Minimum, maximum and mean power spectrum are kept for at most `MAX_COLUMNS` spans of equal length; if there are
    more, adjacent spans are merged. The result does not depend on the block sizes.

    Args:
        rate: sampling rate, in Hz.

    Usage:
        >>> overview = Overview(16_000)
        >>> for block in np.zeros((10, 1_600), np.float32):
        ...     overview.add(block)
        >>> overview.levels.shape                           # (frequencies, columns)
        (257, 126)
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._size = int(0.032 * rate)
        self._hop = self._size // 4
        self._window = np.hanning(self._size).astype(np.float32)
        self._low = Columns(np.minimum, np.empty(0, np.float32))
        self._high = Columns(np.maximum, np.empty(0, np.float32))
        self._power = Columns(np.add, np.empty((0, self._size // 2 + 1), np.float32))
        self._pending = np.zeros(self._size // 2, np.float32)  # windows are centred: the first one starts before 0

    @classmethod
    def of(cls, waveform: np.ndarray, rate: int) -> "Overview":
        """Overview of a whole waveform.

        Args:
            waveform: float32 (samples,), full scale +-1.
            rate: sampling rate in Hz.
        """
        overview = cls(rate)
        overview.add(waveform)
        return overview

    def add(self, block: np.ndarray) -> None:
        """Adds the next samples: float32 (samples,), full scale 1."""
        length = WINDOWS * self._hop
        needed = length - self._hop + self._size
        for start in range(0, len(block), length):
            piece = np.asarray(block[start : start + length], np.float32)
            self._low, self._high = self._low.plus(piece), self._high.plus(piece)
            self._pending = np.concatenate([self._pending, piece])
            while len(self._pending) >= needed:
                self._power = self._power.plus(self._spectra(self._pending[:needed]))
                self._pending = self._pending[length:]

    @property
    def seconds(self) -> float:
        """Length of the signal in seconds."""
        return self._low.items / self.rate

    @property
    def peak(self) -> float:
        """The largest absolute sample."""
        return float(max(-self._low.values.min(initial=0), self._high.values.max(initial=0)))

    @property
    def envelope(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre in seconds, minimum and maximum of each span: (columns,) each."""
        starts = self._low.step * np.arange(len(self._low.values))
        return (starts + self._low.counts / 2) / self.rate, self._low.values, self._high.values

    @property
    def levels(self) -> np.ndarray:
        """Mean power in dB of 32-ms Hann windows with a hop of 8 ms, for each span: (frequencies, columns)."""
        columns = self._columns()
        return 10 * np.log10(columns.values.T / columns.counts + LOWEST_POWER)

    @property
    def column_seconds(self) -> float:
        """Length in seconds of the span of one column of `levels`."""
        return self._columns().step * self._hop / self.rate

    def _columns(self) -> Columns:
        """Summed power of all windows, including those that extend beyond the end."""
        ending = np.concatenate([self._pending, np.zeros(self._size // 2, np.float32)])
        return self._power.plus(self._spectra(ending))

    def _spectra(self, samples: np.ndarray) -> np.ndarray:
        """Power of each complete window in samples (samples,): (windows, frequencies)."""
        if len(samples) < self._size:
            return self._power.values[:0]
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._size)[:: self._hop]  # (windows, size)
        spectra = np.fft.rfft(frames * self._window, axis=1)
        return (spectra.real**2 + spectra.imag**2).astype(np.float32, copy=False)

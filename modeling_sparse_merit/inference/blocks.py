# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings of any length, read and written block by block in constant memory."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..models.sparse_merit.audio import (
    MIN_MILLISECONDS,
    WRITE_BLOCK,
    Channel,
    channel_number,
    check_channel,
    check_length,
    check_samples,
    checked_rate,
    clipped_samples,
    encoding_of,
    instead_of_mix,
    level_dbfs,
    mix,
    name_of,
    open_recording,
    write_blocks,
)
from ..models.sparse_merit.decoding import open_blocks, resampled_blocks, soxr

SAMPLE_BYTES = 4  # of float32
IN_MEMORY = 1 << 23  # bytes buffered in memory before encoding, two minutes at 16 kHz; more are buffered on disk


class BlockReader:
    """Reads one track of a recording as mono float32 blocks (samples,), full scale +-1, at a given rate.

    The concatenated blocks equal the output of `load_audio`. All blocks but the last have at least 25 ms. Each
    iteration starts at the beginning; with several channels and "mix" the recording is read twice, since channels that
    cancel each other are not mixed.

    Args:
        source: a path or an open binary file; a pipe is copied to a temporary file.
        rate: sampling rate of the blocks in Hz.
        channel: "mix" (mean of the channels), "left", "right", or a number from 1.
        on_block: called with the seconds that a pass has decoded so far, after each block; it may raise to stop.

    Attributes:
        name: name of the recording in messages.
        channels: number of channels.
        number: number of the channel, from 1; None for "mix".
        own_rate: sampling rate of the recording in Hz.
        own_samples: number of samples at that rate; known after iteration.
        facts: fields of its record, known after iteration: `channel`, `level_dbfs`, `clipped_ratio` and, if any,
            `warnings`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the recording cannot be decoded, has a rate below 1 kHz or above 1 MHz, or lacks the channel.
            During iteration: it is empty, shorter than 25 ms, truncated, damaged or not finite.
        OSError: the file cannot be read.

    Usage:
        >>> with BlockReader(Path("call.wav"), 16_000) as reader:
        ...     sum(map(len, reader)) / 16_000
        2.0
    """

    def __init__(
        self,
        source: Path | BinaryIO,
        rate: int,
        channel: Channel = "mix",
        on_block: Callable[[float], object] | None = None,
    ):
        if channel == "each":
            raise ValueError('A `BlockReader` reads one channel: give its number instead of "each".')
        self._on_block = on_block
        self.number = None if channel == "mix" else channel_number(channel)
        self._rate = checked_rate(rate, "The target")
        self.name = name_of(source)
        self.own_samples = 0
        self.facts: dict[str, Any] = {}
        with ExitStack() as stack:
            stream = stack.enter_context(open_recording(source)) if isinstance(source, str | os.PathLike) else source
            self._blocks = stack.enter_context(open_blocks(stream, self.name))
            self.own_rate, self.channels = checked_rate(self._blocks.sampling_rate, self.name), self._blocks.channels
            if self.channels == 1 and self.number is None:
                self.number = 1
            check_channel(self.number or 1, self.channels, self.name)
            self._stack = stack.pop_all()

    def __iter__(self) -> Iterator[np.ndarray]:
        number, warning = (self.number, "") if self.number else self._instead_of_mix()
        tally = _Tally()
        track = resampled_blocks(self._track(number, tally), self.own_rate, self._rate)
        yield from self._checked_length(track)
        warnings = [*self._blocks.warnings, *([warning] if warning else [])]
        self.own_samples = tally.samples
        self.facts = track_facts(number or "mix", tally.power, tally.clipped_ratio, warnings)

    def close(self) -> None:
        """Stops reading, including ffmpeg, and closes a file that was opened from a path."""
        self._stack.close()

    def __enter__(self) -> "BlockReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self) -> Iterator[np.ndarray]:
        """Yields blocks of all channels (samples, channels) at the rate of the recording, checked to be finite."""
        samples = 0
        for block in self._blocks:
            check_samples(block, self.name)
            samples += len(block)
            if self._on_block is not None:
                self._on_block(samples / self.own_rate)
            yield block
        if samples == 0:
            check_samples(np.empty(0), self.name)

    def _instead_of_mix(self) -> tuple[int | None, str]:
        """The channel to use if the mean of the channels cancels, with a warning; else None."""
        powers, mixed = np.zeros(self.channels), 0.0  # (channels,)
        for block in self._checked():
            powers += np.square(block, dtype=np.float64).sum(axis=0)
            mixed += _power(mix(block))
        return instead_of_mix(powers, mixed, self.name)

    def _track(self, number: int | None, tally: "_Tally") -> Iterator[np.ndarray]:
        """Yields and counts blocks (samples,) of one channel or of the mean, at the rate of the recording."""
        for block in self._checked():
            source = block if number is None else block[:, number - 1]  # (samples, channels) or (samples,)
            track = mix(block) if number is None else np.ascontiguousarray(source)
            tally.add(track, source)
            yield track

    def _checked_length(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields blocks (samples,) of at least one frame; raises ValueError if the recording is shorter."""
        waiting, count = np.empty(0, np.float32), 0
        for block in blocks:
            count += len(block)
            waiting = np.concatenate([waiting, block]) if len(waiting) else block
            if 1000 * len(waiting) >= MIN_MILLISECONDS * self._rate:
                yield waiting
                waiting = waiting[:0]
        check_length(count, self._rate, self.name)
        if len(waiting):
            yield waiting


class _Tally:
    """Number, power and clipped samples of a track, summed block by block in float64."""

    def __init__(self) -> None:
        self.samples = self._clipped = self._of = 0
        self._sum = 0.0

    def add(self, track: np.ndarray, source: np.ndarray) -> None:
        """Counts a block of the track (samples,) and the block of channels that it was made from."""
        self.samples += len(track)
        self._sum += _power(track)
        self._clipped += clipped_samples(source)
        self._of += source.size

    @property
    def power(self) -> float:
        return self._sum / self.samples

    @property
    def clipped_ratio(self) -> float:
        return self._clipped / self._of


def _power(block: np.ndarray) -> float:
    """Sum of squares."""
    return float(np.square(block, dtype=np.float64).sum())


def track_facts(channel: Channel, power: float, clipped_ratio: float, warnings: list[str]) -> dict[str, Any]:
    """Fields of the record of a track.

    Args:
        channel: "mix", or a number from 1.
        power: mean square of the samples.
        clipped_ratio: share of samples at full scale.
        warnings: sentences about anything unusual in the recording.
    """
    level = level_dbfs(power)
    return {
        "channel": channel,
        "level_dbfs": None if level is None else round(level, 2),
        "clipped_ratio": round(clipped_ratio, 6),
        **({"warnings": warnings} if warnings else {}),
    }


class BlockWriter:
    """Writes mono audio block by block; the file equals the output of `write_audio` for the whole signal.

    Since the encoding depends on the peak, samples are buffered as 32-bit floats in memory or, for long recordings, in
    a temporary file.

    Args:
        folder: folder of the temporary file.
        source_rate: sampling rate of the blocks in Hz.
        rate: sampling rate of the file in Hz.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a rate is below 1 kHz or above 1 MHz.

    Usage:
        >>> with BlockWriter(Path("calls"), 16_000, 44_100) as writer:
        ...     for block in np.zeros((10, 1_600), np.float32):
        ...         writer.write(block)
        ...     writer.finish(Path("calls/a.enhanced.wav"), 44_100)
    """

    def __init__(self, folder: Path, source_rate: int, rate: int):
        source_rate, self._rate = checked_rate(source_rate, "The source"), checked_rate(rate, "The target")
        if not folder.is_dir():
            raise FileNotFoundError(f"The folder {folder} does not exist. Create it first.")
        is_same = source_rate == rate
        self._resampler = None if is_same else soxr.ResampleStream(source_rate, rate, 1, quality="VHQ")
        self._samples, self._peak = 0, 0.0
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder), prefix=".")

    def write(self, block: np.ndarray) -> None:
        """Adds the next samples: float32 (samples,) at the rate of the source, full scale +-1.

        Raises:
            ValueError: a sample is not finite.
            OSError: the samples cannot be written, for example because the disk is full.
        """
        if len(block):
            check_samples(block, "The recording")
            self._append(block if self._resampler is None else self._resampler.resample_chunk(block))

    def finish(self, target: Path, length: int) -> None:
        """Writes the file with exactly `length` samples: missing samples are silence, and extra ones are dropped.

        Args:
            target: path of the file; its suffix selects the format. Use `replacing` to write it atomically.
            length: number of samples at the rate of the file.

        Raises:
            ValueError: `length` is 0, or the audio exceeds full scale in a format that would clip it (FLAC).
            OSError: the file cannot be written.
        """
        if length < 1:
            check_samples(np.empty(0), "The recording")
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        encoding = encoding_of(target, self._peak_of(length))
        write_blocks(target, self._stored(length), self._rate, encoding)

    def close(self) -> None:
        """Removes the temporary file; the target is unchanged."""
        with suppress(OSError):  # flushing to a full disk may fail, and the content is no longer needed
            self._file.close()

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, block: np.ndarray) -> None:
        """Stores samples (samples,) at the rate of the file."""
        if len(block):
            self._samples += len(block)
            self._peak = max(self._peak, _peak(block))
            self._file.write(block.astype(np.float32).tobytes())

    def _peak_of(self, length: int) -> float:
        """Peak of the first samples; they are only searched if it matters and more samples are stored."""
        if self._samples <= length or self._peak <= 1:
            return self._peak
        return max(map(_peak, self._stored(length)))

    def _stored(self, length: int) -> Iterator[np.ndarray]:
        """Yields the first samples in blocks (samples,); missing samples are silence."""
        self._file.seek(0)
        for start in range(0, length, WRITE_BLOCK):
            size = min(WRITE_BLOCK, length - start)
            block = np.frombuffer(self._file.read(SAMPLE_BYTES * size), np.float32)
            yield np.pad(block, (0, size - len(block)))


def _peak(block: np.ndarray) -> float:
    return float(np.abs(block).max())

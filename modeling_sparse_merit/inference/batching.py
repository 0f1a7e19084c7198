# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Batched inference: recordings are batched by length; decoding and writing run in background threads."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from .. import BATCH_SECONDS
from ..models.sparse_merit.audio import checked_channel
from ..models.sparse_merit.cutting import SAMPLING_RATE, Window
from ..models.sparse_merit.decoding import audio_seconds
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.streaming import WindowModel, WindowOutput
from .files import Recording
from .results import Results
from .tracks import Track, Treatment, failure, finish_tracks, open_tracks

WINDOW = 256  # recordings that are sorted by length together
READERS = 8  # threads that read and write while a GPU computes
MAX_PASSES = 4  # concurrent forward passes on a CPU
PASS_SECONDS = 10.0  # seconds of audio in one pass on a CPU: longer passes need more memory and are not faster
GROUPS_AHEAD = 1  # groups of windows that are computed while an earlier group is written


def enhance_recordings(
    pipe: SpeechEnhancementAndEmotionPipeline,
    recordings: Sequence[Recording],
    batch_seconds: float = BATCH_SECONDS,
    results: Results | None = None,
    progress: Callable[[float, float], object] | None = None,
    **treatment: Any,
) -> Iterator[dict[str, Any]]:
    """Enhances recordings, writes `NAME.enhanced.wav` for each, and yields their records in order.

    Memory is bounded by a few batches, whatever the number and length of the recordings. The record of a failed
    recording contains the error, and processing continues with the next one. If a batch fails, for example for lack of
    memory, its recordings are retried one by one.

    Args:
        pipe: the pipeline.
        recordings: recordings from `find_recordings`.
        batch_seconds: seconds of audio in one batch, including padding; on a CPU, up to four batches run concurrently.
            A longer recording is processed on its own.
        results: stores each record as soon as it is complete.
        progress: called with the seconds of audio that are done and their total, estimated from the file headers read
            so far.
        treatment: fields of `tracks.Treatment`: `rate`, `plot`, `segments`, `channel` ("each" gives a record and a
            file, `NAME.ch1.enhanced.wav`, for each channel), `min_score`, `chunk_length_s`, `stride_length_s`,
            `detector`, `transcriber` (a pipeline for automatic speech recognition, a function from float32
            (samples,) at 16 kHz to a text, or a folder of transcripts as a `Path`), and `context` (a conversation
            model from `context.load_context`).

    Raises:
        OutputError: nothing more can be written, for example because the disk is full.

    Usage:
        >>> from pathlib import Path
        >>> from modeling_sparse_merit.inference.files import find_recordings
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> Path("clean").mkdir()
        >>> recordings, _ = find_recordings(["calls/", "*.wav"], output=Path("clean"))
        >>> for record in enhance_recordings(pipe, recordings[:1]):
        ...     print(record["file"], record["emotion"], record["enhanced"])
        calls/a.flac ... clean/a.enhanced.wav
    """
    chosen = Treatment(**treatment)
    chosen = replace(chosen, channel=checked_channel(chosen.channel))
    waiting: dict[int, list[dict[str, Any]]] = {}
    position = 0
    passes = _Passes(pipe.device, _passes_of(recordings, chosen.chunk_length_s), batch_seconds)
    durations = _Durations(len(recordings), progress)
    with passes, _threads(passes.workers) as pool:
        model = pipe.window_model(detector=chosen.detector, returns_expert_use=chosen.plot)
        job = _Job(pipe, model, passes, recordings, chosen, results, durations)
        batches = _batches(recordings, batch_seconds, passes.count, durations)
        for records in _as_finished(pool, job.records, batches, passes.workers):
            durations.finish(records)
            waiting |= records
            while position in waiting:
                yield from waiting.pop(position)
                position += 1


def cut_batches(seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Groups recordings of similar length into batches, the longest first.

    Args:
        seconds: length of each recording; infinite if unknown, which gives a batch of one.
        batch_seconds: maximum length of a batch, including padding; longer recordings form batches of one.

    Returns:
        Indices in `seconds` of each batch.
    """
    batches: list[list[int]] = []
    places_left = 0
    for place in sorted(range(len(seconds)), key=lambda place: -seconds[place]):
        if places_left == 0:
            batches.append([])
            places_left = max(1, int(batch_seconds // max(seconds[place], 1e-3)))
        batches[-1].append(place)
        places_left -= 1
    return batches


class _Durations:
    """Seconds of audio that are done, and their estimated total."""

    def __init__(self, recordings: int, progress: Callable[[float, float], object] | None):
        self._recordings = recordings
        self._progress = progress
        self._known: dict[int, float] = {}  # by place
        self._begun: dict[int, float] = {}  # seconds that are done of recordings in progress, by place
        self._sum = self._done = 0.0
        self._lock = threading.Lock()

    def add(self, place: int, seconds: float) -> None:
        if math.isfinite(seconds):
            with self._lock:
                self._known[place] = seconds
                self._sum += seconds

    def begin(self, place: int, seconds: float) -> None:
        """Updates the seconds that are done of a recording in progress."""
        with self._lock:
            self._begun[place] = seconds
            self._tell()

    def finish(self, records: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Adds finished recordings by place; failed ones count with the length in their header."""
        with self._lock:
            for place, lines in records.items():
                self._begun.pop(place, None)
                self._done += lines[0].get("seconds", self._known.get(place, 0.0))
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            done = self._done + sum(self._begun.values())
            estimated = self._sum * self._recordings / max(1, len(self._known))
            self._progress(done, max(done, estimated))


def _batches(
    recordings: Sequence[Recording], batch_seconds: float, passes: int, durations: _Durations
) -> Iterator[list[int]]:
    """Yields batches as indices of recordings, window by window; few recordings are distributed over all passes."""
    for start in range(0, len(recordings), WINDOW):
        seconds = [_seconds(recording) for recording in recordings[start : start + WINDOW]]
        for place, length in enumerate(seconds, start):
            durations.add(place, length)
        share = sum(length for length in seconds if math.isfinite(length)) / passes
        for batch in cut_batches(seconds, min(batch_seconds, share)):
            yield [start + place for place in batch]


def _passes_of(recordings: Sequence[Recording], chunk_length_s: float) -> int:
    """Number of useful concurrent passes: one per recording, or several for a single long recording."""
    if len(recordings) != 1:
        return len(recordings)
    return math.ceil(min(MAX_PASSES, max(1.0, _seconds(recordings[0]) / chunk_length_s)))


def _seconds(recording: Recording) -> float:
    """Duration from the header; infinite if unknown."""
    if recording.error or not recording.path.is_file():  # a pipe can be read only once
        return math.inf
    try:
        return audio_seconds(recording.path)
    except (OSError, ValueError):  # reported when the recording is read
        return math.inf


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that is joined at the end, except after Ctrl-C: a thread may be blocked on a pipe."""
    pool = ThreadPoolExecutor(count)
    wait_for_all = True
    try:
        yield pool
    except KeyboardInterrupt:
        wait_for_all = False
        raise
    finally:
        pool.shutdown(wait=wait_for_all, cancel_futures=not wait_for_all)


def _as_finished(pool: Executor, work: Callable[[Any], Any], items: Iterable[Any], at_once: int) -> Iterator[Any]:
    """Yields results as they complete, with at most `at_once` items in progress."""
    running: set[Future] = set()
    for item in items:
        running.add(pool.submit(work, item))
        if len(running) == at_once:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    yield from (future.result() for future in as_completed(running))


class _Passes:
    """Concurrent forward passes: one on a GPU, several on a CPU, each with its share of the threads, since a small
    model gains more from concurrent batches than from threads.

    They run in dedicated threads, because threads tend to keep allocated memory.
    """

    def __init__(self, device: torch.device, most: int, batch_seconds: float):
        self.pass_seconds = min(batch_seconds, PASS_SECONDS) if device.type == "cpu" else batch_seconds
        self._cores = torch.get_num_threads()
        on_cpu = device.type == "cpu"
        self.count = max(1, min(MAX_PASSES, self._cores, most)) if on_cpu else 1
        self.workers = self.count + 1 if on_cpu else READERS  # more threads would only hold memory
        self._pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> "_Passes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=kind is not KeyboardInterrupt)
        torch.set_num_threads(self._cores)

    def start(self, work: Callable[[], Any]) -> Future:
        """Submits a pass."""
        return self._pool.submit(self._run, work)

    def _run(self, work: Callable[[], Any]) -> Any:
        torch.set_num_threads(max(1, self._cores // self.count))
        return work()


@dataclass(frozen=True)
class _Item:
    """A window of a track of a recording."""

    place: int
    track: Track
    window: Window


@dataclass(frozen=True)
class _Job:
    """Processes one batch in one thread: reads, runs the model, writes."""

    pipe: SpeechEnhancementAndEmotionPipeline
    model: WindowModel
    passes: _Passes
    recordings: Sequence[Recording]
    treatment: Treatment
    results: Results | None
    durations: _Durations

    def records(self, batch: list[int]) -> dict[int, list[dict[str, Any]]]:
        """The records of each recording, by place; if a batch fails, its recordings are retried one by one."""
        try:
            return self._process(batch)
        except (OSError, ValueError, RuntimeError) as error:
            if len(batch) == 1:
                return {batch[0]: [self._fail(self.recordings[batch[0]], error)]}
            return {place: records for alone in batch for place, records in self.records([alone]).items()}

    def _process(self, batch: list[int]) -> dict[int, list[dict[str, Any]]]:
        records: dict[int, list[dict[str, Any]]] = {place: [] for place in batch}
        ended: dict[int, list[Track]] = {place: [] for place in batch}  # tracks that wait for the others
        context = self.treatment.context
        with ExitStack() as stack:
            for item, output in self._outputs(self._items(batch, stack)):
                item.track.add(item.window, output)
                self.durations.begin(item.place, item.window.end / SAMPLING_RATE)
                if item.window.is_last:
                    ended[item.place].append(item.track)
                    if context is None or len(ended[item.place]) == item.track.lines:
                        records[item.place] += finish_tracks(ended[item.place], context)
                        ended[item.place] = []
        return records

    def _items(self, batch: list[int], stack: ExitStack) -> Iterator[_Item]:
        """Yields the windows of all tracks while reading."""
        for place in batch:
            opened = open_tracks(self.recordings[place], self.pipe, self.model, self.treatment, self.results)
            for track in stack.enter_context(opened):
                for window in track.windows():
                    yield _Item(place, track, window)

    def _outputs(self, items: Iterator[_Item]) -> Iterator[tuple[_Item, WindowOutput]]:
        """Yields the model output of each window in order; further windows are read while the model runs."""
        begun: deque[tuple[list[_Item], list[tuple[list[int], Future]]]] = deque()
        for group in _groups(items, self.passes.count * self.passes.pass_seconds):
            begun.append((group, self._start(group)))
            if len(begun) > GROUPS_AHEAD:
                yield from _collected(*begun.popleft())
        for group, passes in begun:
            yield from _collected(group, passes)

    def _start(self, group: list[_Item]) -> list[tuple[list[int], Future]]:
        """Starts the passes of a group; returns each with the indices of its windows in the group."""
        seconds = [len(item.window.waveform) / SAMPLING_RATE for item in group]
        batches = cut_batches(seconds, self.passes.pass_seconds)
        windows = [[group[place].window for place in batch] for batch in batches]
        return [
            (batch, self.passes.start(partial(self.model.run, part)))
            for batch, part in zip(batches, windows, strict=True)
        ]

    def _fail(self, recording: Recording, error: BaseException) -> dict[str, Any]:
        record = failure(recording, error)
        if self.results is not None:
            self.results.add(recording, record)
        return record


def _groups(items: Iterator[_Item], seconds: float) -> Iterator[list[_Item]]:
    """Groups windows up to a total length in seconds."""
    group: list[_Item] = []
    duration = 0.0
    for item in items:
        group.append(item)
        duration += len(item.window.waveform) / SAMPLING_RATE
        if duration >= seconds:
            yield group
            group, duration = [], 0.0
    if group:
        yield group


def _collected(group: list[_Item], passes: list[tuple[list[int], Future]]) -> Iterator[tuple[_Item, WindowOutput]]:
    """Yields the windows of a group with their outputs, after all its passes are done."""
    outputs = {place: output for batch, future in passes for place, output in zip(batch, future.result(), strict=True)}
    for place, item in enumerate(group):
        yield item, outputs[place]

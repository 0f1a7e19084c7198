# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Many recordings through the model: batches of like length, read and written by threads while the model runs."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .. import BATCH_SECONDS
from ..models.sparse_merit.audio import Channel, checked_channel
from ..models.sparse_merit.decoding import audio_seconds
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from .files import Recording
from .results import Results
from .signals import Signal, failure, save_answer

WINDOW = 256  # recordings among which those of like length are found
READERS = 8  # threads that read and write for a GPU
MAX_PASSES = 4  # of the model at once, on a CPU


def enhance_recordings(
    pipe: SpeechEnhancementAndEmotionPipeline,
    recordings: Sequence[Recording],
    batch_seconds: float = BATCH_SECONDS,
    rate: int | None = None,
    plot: bool = False,
    channel: Channel = "mix",
    results: Results | None = None,
    progress: Callable[[float, float], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Enhances recordings, writes `NAME.enhanced.wav` for each, and yields their records in order.

    Memory is bounded by a few batches, whatever the number of recordings. A recording that fails has a record that
    says why, and does not keep others from being done; a batch that fails, for lack of memory for instance, is tried
    one by one.

    Usage:
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(DEFAULT_CHECKPOINT)
        >>> recordings, _ = find_recordings(["calls/", "more/*.mp3"], output=Path("clean"))
        >>> for record in enhance_recordings(pipe, recordings):
        ...     print(record["file"], record.get("emotion"), record.get("enhanced"), record.get("error"))

    Args:
        recordings: from `find_recordings`.
        batch_seconds: audio, padding included, that goes through the model at once; on a CPU up to four such batches
            do. A longer recording goes alone.
        rate: of the enhanced speech, in Hz; each recording's own by default.
        plot: whether to draw a picture of each.
        channel: "mix", "left", "right", a number from 1, or "each": a record and a file (`NAME.ch1.enhanced.wav`) for
            each channel.
        results: keeps each record as soon as it is made.
        progress: is told how many seconds of audio are done and how many there are, estimated from the headers that
            were read so far.

    Raises:
        OutputError: nothing more can be written, for instance because the disk is full.
    """
    channel = checked_channel(channel)
    waiting: dict[int, list[dict[str, Any]]] = {}
    position = 0
    passes = _Passes(pipe.device, len(recordings), batch_seconds)
    durations = _Durations(len(recordings), progress)
    with passes, _threads(passes.workers) as pool:
        job = _Job(pipe, passes, recordings, rate, plot, channel, results)
        batches = _batches(recordings, batch_seconds, passes.count, durations)
        for records in _as_finished(pool, job.records, batches, passes.workers):
            durations.finish(records)
            waiting |= records
            while position in waiting:
                yield from waiting.pop(position)
                position += 1


def cut_batches(seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Batches recordings by length, the longest first.

    Args:
        seconds: length of each recording; infinite where it is not known, so that this one is alone.
        batch_seconds: most that a batch holds, padding to its longest included; what is longer is alone.

    Returns:
        the places in `seconds` of each batch.
    """
    batches, places_left = [], 0
    for place in sorted(range(len(seconds)), key=lambda place: -seconds[place]):
        if places_left == 0:
            batches.append([])
            places_left = max(1, int(batch_seconds // max(seconds[place], 1e-3)))
        batches[-1].append(place)
        places_left -= 1
    return batches


class _Durations:
    """Seconds of audio that are done, and how many there are as far as headers tell."""

    def __init__(self, recordings: int, progress: Callable[[float, float], object] | None):
        self._recordings = recordings
        self._progress = progress
        self._known: dict[int, float] = {}  # by place
        self._sum = self._done = 0.0

    def add(self, place: int, seconds: float) -> None:
        if math.isfinite(seconds):
            self._known[place] = seconds
            self._sum += seconds

    def finish(self, records: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Takes the records of recordings, by place; of failed ones the header counts."""
        for place, lines in records.items():
            self._done += lines[0].get("seconds", self._known.get(place, 0.0))
        if self._progress is not None:
            estimated = self._sum * self._recordings / max(1, len(self._known))
            self._progress(self._done, max(self._done, estimated))


def _batches(
    recordings: Sequence[Recording], batch_seconds: float, passes: int, durations: _Durations
) -> Iterator[list[int]]:
    """Places of the recordings of each batch, window by window; a small folder is shared out among the passes."""
    for start in range(0, len(recordings), WINDOW):
        seconds = [_seconds(recording) for recording in recordings[start : start + WINDOW]]
        for place, length in enumerate(seconds, start):
            durations.add(place, length)
        share = sum(length for length in seconds if math.isfinite(length)) / passes
        for batch in cut_batches(seconds, min(batch_seconds, share)):
            yield [start + place for place in batch]


def _seconds(recording: Recording) -> float:
    """Duration as far as it is known before decoding, else infinite."""
    if recording.error or not recording.path.is_file():  # what is no file, such as a pipe, is there to be read once
        return math.inf
    try:
        return audio_seconds(recording.path)
    except (OSError, ValueError):  # reading it says why
        return math.inf


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that are waited for, but after Ctrl-C: one of them may wait for a pipe for ever."""
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
    """Results of the work on the items, in whatever order they come; no more than `at_once` are begun."""
    running: set[Future] = set()
    for item in items:
        running.add(pool.submit(work, item))
        if len(running) == at_once:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    yield from (future.result() for future in as_completed(running))


class _Passes:
    """Passes of the model that run at once: one on a GPU; on a CPU several, each on its share of the threads, because
    a small model gains less from more threads than from more batches.

    They have threads of their own: what a thread has allocated once, it mostly keeps.
    """

    def __init__(self, device: torch.device, recordings: int, batch_seconds: float):
        self.batch_seconds = batch_seconds
        self._cores = torch.get_num_threads()
        on_cpu = device.type == "cpu"
        self.count = max(1, min(MAX_PASSES, self._cores, recordings)) if on_cpu else 1
        self.workers = self.count + 1 if on_cpu else READERS  # more would keep memory, and no core is idle
        self._free = threading.Semaphore(self.count)
        self._turn = threading.Lock()
        self._pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> "_Passes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=kind is not KeyboardInterrupt)
        torch.set_num_threads(self._cores)

    def run(self, seconds: float, work: Callable[[], Any]) -> Any:
        """Waits for its turn and for the result. What is longer than a batch takes the place, and the share of the
        threads, of several.
        """
        places = min(self.count, max(1, math.ceil(seconds / self.batch_seconds)))
        return self._pool.submit(self._run, places, work).result()

    def _run(self, places: int, work: Callable[[], Any]) -> Any:
        with self._turn:  # one asks at a time: two that each hold a part of what they need would wait for ever
            for _ in range(places):
                self._free.acquire()
        try:
            torch.set_num_threads(max(1, self._cores * places // self.count))
            with torch.inference_mode():
                return work()
        finally:
            self._free.release(places)


@dataclass(frozen=True)
class _Job:
    """What is done with a batch, in one thread: read, process, write."""

    pipe: SpeechEnhancementAndEmotionPipeline
    passes: _Passes
    recordings: Sequence[Recording]
    rate: int | None
    plot: bool
    channel: Channel
    results: Results | None

    def records(self, batch: list[int]) -> dict[int, list[dict[str, Any]]]:
        """The records of each recording, by its place; where one of a batch fails, each is tried alone."""
        try:
            rate = self.pipe.feature_extractor.sampling_rate
            signals = [Signal.read(self.recordings[place], rate, self.channel) for place in batch]
            answers = iter(self._answers([signal for tracks in signals for signal in tracks]))
            return {place: self._save(place, tracks, answers) for place, tracks in zip(batch, signals, strict=True)}
        except (OSError, ValueError, RuntimeError) as error:
            if len(batch) == 1:
                return {batch[0]: [self._fail(self.recordings[batch[0]], error)]}
            return {place: records for alone in batch for place, records in self.records([alone]).items()}

    def _save(self, place: int, tracks: list[Signal], answers: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
        recording, options = self.recordings[place], (self.rate, self.plot, self.results, len(tracks))
        return [save_answer(recording, track, next(answers), *options) for track in tracks]

    def _fail(self, recording: Recording, error: BaseException) -> dict[str, Any]:
        record = failure(recording, error)
        if self.results is not None:
            self.results.add(recording, record)
        return record

    def _answers(self, signals: list[Signal]) -> list[dict[str, Any]]:
        """The pipeline's answers. Headers may have been wrong about lengths, so the batch is cut once more."""
        answers = {}
        for part in cut_batches([signal.seconds for signal in signals], self.passes.batch_seconds):
            answers.update(zip(part, self._process([signals[place] for place in part]), strict=True))
        return [answers[place] for place in range(len(signals))]

    def _process(self, signals: list[Signal]) -> list[dict[str, Any]]:
        waveforms = [signal.waveform for signal in signals]
        features = self.pipe.feature_extractor(waveforms, sampling_rate=signals[0].rate, return_tensors="pt")
        inputs, seconds = {**features, "waveform": waveforms}, max(signal.seconds for signal in signals) * len(signals)
        outputs = self.passes.run(seconds, lambda: self.pipe.forward(inputs, **self.pipe._forward_params))
        del outputs["waveform"]
        rows = ({name: values[place : place + 1] for name, values in outputs.items()} for place in range(len(signals)))
        return [self.pipe.postprocess({**row, "waveform": each}) for row, each in zip(rows, waveforms, strict=True)]

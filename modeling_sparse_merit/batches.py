# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Many recordings through the model: batches of like length, read and written by threads while the model runs."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any

import soundfile
import torch

from . import BATCH_SECONDS
from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from .recordings import Recording, Signal, failure, save_answer

WINDOW = 256  # recordings among which those of like length are found
READERS = 8  # threads that read and write for a GPU
MAX_PASSES = 4  # of the model at once, on a CPU


def enhance_recordings(
    pipe: SpeechEnhancementAndEmotionPipeline,
    recordings: Sequence[Recording],
    batch_seconds: float = BATCH_SECONDS,
    rate: int | None = None,
    plot: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Cleans recordings, writes `NAME.enhanced.wav` for each, and yields their records in the order of the recordings.

    Of recordings in memory there are a few batches, whatever their number. A recording that fails has a record that
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
        progress: is told how many recordings were just finished, in whatever order that was.
    """
    waiting: dict[int, dict[str, Any]] = {}
    position = 0
    passes = _Passes(pipe.device, len(recordings), batch_seconds)
    with passes, ThreadPoolExecutor(passes.workers) as pool:
        job = _Job(pipe, passes, recordings, rate, plot)
        batches = _batches(recordings, batch_seconds, passes.count)
        for records in _as_finished(pool, job.records, batches, passes.workers):
            if progress is not None:
                progress(len(records))
            waiting |= records
            while position in waiting:
                yield waiting.pop(position)
                position += 1


def cut_batches(seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Cuts recordings into batches of like length, the longest first.

    Args:
        seconds: length of each recording; infinite where it is not known, so that this one is alone.
        batch_seconds: most that a batch holds, padding to its longest included; what is longer is alone.

    Returns:
        the places in `seconds` of each batch.
    """
    batches, room = [], 0
    for place in sorted(range(len(seconds)), key=lambda place: -seconds[place]):
        if room == 0:
            batches.append([])
            room = max(1, int(batch_seconds // max(seconds[place], 1e-3)))
        batches[-1].append(place)
        room -= 1
    return batches


def _batches(recordings: Sequence[Recording], batch_seconds: float, passes: int) -> Iterator[list[int]]:
    """Places of the recordings of each batch, window by window; a small folder is shared out among the passes."""
    for start in range(0, len(recordings), WINDOW):
        seconds = [_seconds(recording) for recording in recordings[start : start + WINDOW]]
        share = sum(length for length in seconds if math.isfinite(length)) / passes
        for batch in cut_batches(seconds, min(batch_seconds, share)):
            yield [start + place for place in batch]


def _seconds(recording: Recording) -> float:
    """What the header says, which may be wrong; infinite where there is none."""
    if recording.error or not recording.path.is_file():  # what is no file, such as a pipe, is there to be read once
        return math.inf
    try:
        header = soundfile.info(recording.path)
    except (OSError, RuntimeError, ValueError):  # the error of reading, if there is one, says more
        return math.inf
    return header.frames / header.samplerate


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

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
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
    """What is done with a batch, in one thread: read, hear, write."""

    pipe: SpeechEnhancementAndEmotionPipeline
    passes: _Passes
    recordings: Sequence[Recording]
    rate: int | None
    plot: bool

    def records(self, batch: list[int]) -> dict[int, dict[str, Any]]:
        """The record of each recording, by its place; where one of a batch fails, each is tried alone."""
        try:
            rate = self.pipe.feature_extractor.sampling_rate
            signals = [Signal.read(self.recordings[place], rate) for place in batch]
            return {
                place: save_answer(self.recordings[place], signal, answer, self.rate, self.plot)
                for place, signal, answer in zip(batch, signals, self._answers(signals), strict=True)
            }
        except (OSError, ValueError, RuntimeError) as error:
            if len(batch) == 1:
                return {batch[0]: failure(self.recordings[batch[0]], error)}
            return {place: record for alone in batch for place, record in self.records([alone]).items()}

    def _answers(self, signals: list[Signal]) -> list[dict[str, Any]]:
        """The pipeline's answers. Headers may have been wrong about lengths, so the batch is cut once more."""
        answers = {}
        for part in cut_batches([signal.seconds for signal in signals], self.passes.batch_seconds):
            answers.update(zip(part, self._hear([signals[place] for place in part]), strict=True))
        return [answers[place] for place in range(len(signals))]

    def _hear(self, signals: list[Signal]) -> list[dict[str, Any]]:
        waveforms = [signal.waveform for signal in signals]
        features = self.pipe.feature_extractor(waveforms, sampling_rate=signals[0].rate, return_tensors="pt")
        inputs, seconds = {**features, "waveform": waveforms}, max(signal.seconds for signal in signals) * len(signals)
        outputs = self.passes.run(seconds, lambda: self.pipe.forward(inputs, **self.pipe._forward_params))
        del outputs["waveform"]
        rows = ({name: values[place : place + 1] for name, values in outputs.items()} for place in range(len(signals)))
        return [self.pipe.postprocess({**row, "waveform": each}) for row, each in zip(rows, waveforms, strict=True)]

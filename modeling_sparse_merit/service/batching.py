# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Dynamic batching: the windows of concurrent requests go through the model together, in one thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from ..inference.batching import cut_batches
from ..models.sparse_merit.audio import SAMPLING_RATE
from ..models.sparse_merit.cutting import Window
from ..models.sparse_merit.streaming import WindowModel, WindowOutput
from .tracks import Track


@dataclass(eq=False)
class Job:
    """The tracks of a request.

    Args:
        tracks: tracks of one model; the model adds its outputs to them.
        done: completed when all outputs were added. A job whose future is cancelled leaves the queue.
        submitted, begun, ended: times of `time.perf_counter`.
        work_seconds: its share of the seconds of the model, by the length of its windows.
    """

    tracks: list[Track]
    done: "Future[None]" = field(default_factory=Future)
    submitted: float = 0.0
    begun: float | None = None
    ended: float = 0.0
    work_seconds: float = 0.0

    @property
    def model(self) -> WindowModel:
        """The model with the tasks of the request."""
        return self.tracks[0].model

    def next_track(self) -> Track | None:
        """The first track with windows left; None at the end, or if nobody waits for the job."""
        if self.done.done():
            return None
        return next((track for track in self.tracks if track.left), None)

    def fail(self, error: BaseException) -> None:
        """Ends the job with an error."""
        with suppress(InvalidStateError):  # it has failed before, or nobody waits for it
            self.done.set_exception(error)

    def finish(self) -> None:
        """Ends the job."""
        self.ended = time.perf_counter()
        with suppress(InvalidStateError):
            self.done.set_result(None)


class Item(NamedTuple):
    """A window of a track of a job."""

    job: Job
    track: Track
    window: Window

    @property
    def seconds(self) -> float:
        """Length of the window, context included."""
        return len(self.window.waveform) / SAMPLING_RATE


class Batcher:
    """Runs the windows of all jobs through the model, in one thread of its own.

    Windows are taken from the jobs in turn, so a long recording does not delay short ones. A window waits for others
    until `batch_seconds` of audio are there, but at most `max_wait_ms` after its job was submitted; while the model is
    busy, windows gather without further waiting. If a batch fails, its windows are retried one by one.

    Args:
        batch_seconds: seconds of audio in a batch, including padding; 0 turns batching off.
        max_wait_ms: longest time in milliseconds that a window waits for others.
        on_batch: called with the number of windows of each batch.
    """

    def __init__(self, batch_seconds: float, max_wait_ms: float, on_batch: Callable[[int], object]):
        self._batch_seconds, self._max_wait, self._on_batch = batch_seconds, max_wait_ms / 1000, on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job to the queue."""
        job.submitted = time.perf_counter()
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the jobs in the queue."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while group := self._next_group():
            for model in {item.job.model: None for item in group}:
                self._run(model, [item for item in group if item.job.model is model])

    def _next_group(self) -> list[Item]:
        """Waits for windows; none when the queue is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    return []
                self._wait_for_more()
                if group := self._take():
                    return group

    def _wait_for_more(self) -> None:
        left = self._jobs[0].submitted + self._max_wait - time.perf_counter()
        if self._batch_seconds and left > 0:
            self._changed.wait_for(lambda: self._is_closed or self._waiting_seconds() >= self._batch_seconds, left)

    def _waiting_seconds(self) -> float:
        windows = (window for job in self._jobs for track in job.tracks for window in track.left)
        return sum(len(window.waveform) for window in windows) / SAMPLING_RATE

    def _take(self) -> list[Item]:
        """Takes one window after another from the jobs in turn."""
        group: list[Item] = []
        seconds = 0.0
        while self._jobs and (not group or seconds < self._batch_seconds):
            job = self._jobs.popleft()
            track = job.next_track()
            if track is None:
                continue
            item = Item(job, track, track.left.popleft())
            group.append(item)
            seconds += item.seconds
            if job.next_track() is not None:
                self._jobs.append(job)
        return group

    def _run(self, model: WindowModel, items: list[Item]) -> None:
        """Runs items of one model in batches of similar length, and adds their outputs in order."""
        for item in items:
            item.job.begun = item.job.begun or time.perf_counter()
        outputs: dict[int, WindowOutput | None] = {}
        for batch in cut_batches([item.seconds for item in items], self._batch_seconds):
            outputs |= zip(batch, self._outputs(model, [items[place] for place in batch]), strict=True)
        for place, item in enumerate(items):
            self._add(item, outputs[place])

    def _outputs(self, model: WindowModel, items: Sequence[Item]) -> list[WindowOutput | None]:
        """The output of each item; None for one that fails alone, whose job ends."""
        begun = time.perf_counter()
        try:
            outputs = model.run([item.window for item in items])
        except Exception as error:  # of one request; the thread serves others
            if len(items) > 1:
                return [output for item in items for output in self._outputs(model, [item])]
            items[0].job.fail(error)
            return [None]
        seconds, total = time.perf_counter() - begun, sum(item.seconds for item in items)
        for item in items:
            item.job.work_seconds += seconds * item.seconds / total
        self._on_batch(len(items))
        return list(outputs)

    def _add(self, item: Item, output: WindowOutput | None) -> None:
        if output is None or item.job.done.done():
            return
        try:
            item.track.add(item.window, output)
        except Exception as error:  # as above
            item.job.fail(error)
            return
        if all(track.record for track in item.job.tracks):
            item.job.finish()

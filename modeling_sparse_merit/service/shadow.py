# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Shadow mode: a candidate analyses copies of recordings after their responses were delivered.

The candidate runs in a process of its own, with limits of time and memory. Whatever happens to it, requests are not
delayed: copies wait in a bounded queue, and are dropped when it is full.
"""

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .calls import Call
from .candidate import Candidate
from .candidate_process import STATUS_OF, CandidateLost, CandidateProcess, ProcessLimits
from .logs import log_error, logger
from .messages import Analysed, Description

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a restart; each one doubles it
QUEUE_BYTES = 256_000_000
DROP_REASONS = ("queue", "end")


@dataclass(frozen=True)
class ShadowOptions:
    """Options of shadow mode.

    Args:
        limits: limits of the process of the candidate.
        queue: copies that wait.
        sample: share of the requests that are copied.
    """

    limits: ProcessLimits = ProcessLimits()
    queue: int = 32
    sample: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """A recording that both models analysed.

    Args:
        primary: the request.
        candidate: what became of the copy.
        si_sdr: for each track, SI-SDR in dB of the candidate's enhanced speech against the primary's; None if
            undefined.
    """

    primary: Call
    candidate: Call
    si_sdr: list[float | None]

    @property
    def calls(self) -> tuple[Call, Call]:
        """Both calls, that of the primary model first."""
        return self.primary, self.candidate


class Shadow:
    """Runs the candidate on copies of requests, in a thread of its own.

    Args:
        candidate: the model.
        options: the limits.
        on_comparison: called with each comparison, in the thread.
        on_drop: called with the reason for which a copy is dropped: "queue" (it is full) or "end" (of the service).
        on_restart: called with the reason for which the candidate is started again.
        on_loaded: called with the description of the candidate each time it has loaded.
    """

    def __init__(
        self,
        candidate: Candidate,
        options: ShadowOptions,
        on_comparison: Callable[[Comparison], object],
        on_drop: Callable[[str], object],
        on_restart: Callable[[str], object],
        on_loaded: Callable[[Description], object],
    ):
        self._candidate, self._options = candidate, options
        self._on_comparison, self._on_drop = on_comparison, on_drop
        self._on_restart, self._on_loaded = on_restart, on_loaded
        self._copies: deque[Call] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._process: CandidateProcess | None = None
        self._pause = FIRST_PAUSE
        self._loaded: Description | None = None  # the first one
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether the candidate has loaded once."""
        return self._loaded is not None

    @property
    def is_up(self) -> bool:
        """Whether the candidate has loaded and runs."""
        process = self._process
        return process is not None and process.description is not None and process.is_alive()

    @property
    def length(self) -> int:
        """Number of copies that wait."""
        return len(self._copies)

    @property
    def labels(self) -> list[str]:
        """The emotions of the candidate; none before it has loaded."""
        return [] if self._loaded is None else self._loaded.labels

    def start(self) -> None:
        """Starts the thread, which starts the candidate."""
        self._thread.start()

    def offer(self, call: Call) -> bool:
        """Adds a copy of a request whose response was delivered. Never waits.

        Args:
            call: the request; ignored without a recording, or if it is not in the sample.

        Returns:
            Whether the copy waits, and the recording of the request is kept until it was analysed.
        """
        if call.received is None or random.random() >= self._options.sample:
            return False
        with self._changed:
            size = sum(_size(copy) for copy in (*self._copies, call))
            if self._is_closed or len(self._copies) >= self._options.queue or size > QUEUE_BYTES:
                self._on_drop("end" if self._is_closed else "queue")
                return False
            self._copies.append(call)
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """Ends the thread and the candidate after the copy in hand; copies that wait are dropped. May be repeated."""
        with self._changed:
            self._is_closed = True
            for _ in self._copies:
                self._on_drop("end")
            self._copies.clear()
            self._changed.notify_all()
            if self._process is not None and self._process.description is None:
                self._process.kill()  # it is loading
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def _work(self) -> None:
        while not self._is_closed:
            reason = "died"
            try:
                self._run_candidate()
            except CandidateLost as lost:
                reason = lost.reason
            except Exception as error:  # such as no memory for a process, or a candidate that describes itself wrongly
                log_error(error)
            if not self._is_closed:
                self._wait_for_restart(reason)

    def _wait_for_restart(self, reason: str) -> None:
        logger.warning("candidate restarts", extra={"fields": {"reason": reason, "pause_s": self._pause}})
        self._on_restart(reason)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _run_candidate(self) -> None:
        """Starts the candidate, and compares until it is lost or the service ends."""
        process = CandidateProcess(self._candidate, self._options.limits)
        try:
            with self._changed:
                self._process = process
                if self._is_closed:
                    return
            process.wait_until_loaded()
            assert process.description is not None  # it has loaded
            self._accept(process.description)
            while (call := self._next(process)) is not None:
                self._compare(process, call)
        finally:
            process.close()

    def _accept(self, description: Description) -> None:
        """Notes that the candidate has loaded; it must not become another one at a restart."""
        if self._loaded is None:
            self._loaded = description
        elif description != self._loaded:
            raise ValueError("The candidate describes itself otherwise than before.")
        self._on_loaded(description)
        logger.info("candidate loaded", extra={"fields": {"model": description.model}})

    def _next(self, process: CandidateProcess) -> Call | None:
        """Waits for a copy; None when the service ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._copies or self._is_closed, timeout=1)
                if self._is_closed:
                    return None
                if not process.is_alive():
                    raise CandidateLost("died")
                if self._copies:
                    return self._copies.popleft()

    def _compare(self, process: CandidateProcess, call: Call) -> None:
        assert call.received is not None  # see `offer`
        candidate = Call(id=call.id)
        similarity: list[float | None] = []
        try:
            result = process.analyse(call.received)
            candidate.status = result.status
            if isinstance(result, Analysed):
                _fill(candidate, result)
                similarity = result.si_sdr
                self._pause = FIRST_PAUSE
        except CandidateLost as lost:
            candidate.status = STATUS_OF[lost.reason]
            raise
        finally:
            self._report(Comparison(call, candidate, similarity))

    def _report(self, comparison: Comparison) -> None:
        try:
            self._on_comparison(comparison)
        except Exception as error:  # such as a full disk; requests go on
            log_error(error)
        comparison.primary.received = None


def _fill(candidate: Call, result: Analysed) -> None:
    candidate.records = [record.model_dump(exclude_unset=True) for record in result.records]
    candidate.stages = result.stages.model_dump()
    candidate.work_seconds = result.stages.decode + result.stages.model
    candidate.audio_seconds = result.audio_seconds
    candidate.expert_frames = {task: np.array(frames) for task, frames in result.expert_frames.items()}


def _size(call: Call) -> int:
    received = call.received
    assert received is not None
    return len(received.content) + sum(4 * track.samples for track in received.tracks)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Shadow mode: a candidate analyses copies of recordings after their responses were delivered.

The candidate runs in a process of its own, with limits of time and memory. Whatever happens to it, requests are not
delayed: copies wait in a bounded queue, and are dropped when it is full.
"""

import json
import multiprocessing
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from .calls import OUTLINE, Call, Received
from .candidate import Candidate, run
from .logs import log_error, logger

LOADING_SECONDS = 600  # until a candidate has loaded
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a restart; each one doubles it
QUEUE_BYTES = 256_000_000
MESSAGE_BYTES = 1 << 20  # largest message of a candidate
CHECK_SECONDS = 0.05
DROP_REASONS = ("queue", "end")
STATUS_OF = {"timeout": 504, "memory": 507, "died": 502}


@dataclass(frozen=True)
class ShadowOptions:
    """Limits of shadow mode.

    Args:
        seconds: longest analysis of a copy, without the time in which the service used the CPU.
        megabytes: most resident memory of the candidate.
        queue: copies that wait.
        sample: share of the requests that are copied.
    """

    seconds: float = 30.0
    megabytes: float = 4_096.0
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


class CandidateLost(Exception):
    """The process of the candidate has ended.

    Args:
        reason: a key of `STATUS_OF`.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class CandidateProcess:
    """The process of a candidate. A thread kills it when it exceeds a limit.

    Args:
        candidate: the model.
        options: the limits.

    Attributes:
        description: model, settings and labels, after `wait_until_loaded`.
    """

    def __init__(self, candidate: Candidate, options: ShadowOptions):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(candidate, theirs), name="candidate", daemon=True)
        self._process.start()
        theirs.close()
        self._options, self._lost_by = options, "died"
        self._spent, self._limit = 0.0, float("inf")  # seconds of the present exchange
        self.description: dict[str, Any] = {}
        threading.Thread(target=self._guard, name="candidate-guard", daemon=True).start()

    def wait_until_loaded(self) -> None:
        """Waits for the description.

        Raises:
            CandidateLost: the process ended before.
        """
        self.description = self._exchanged(None, LOADING_SECONDS)

    def analyse(self, received: Received) -> dict[str, Any]:
        """What the candidate makes of a recording.

        Raises:
            CandidateLost: the process ended, by itself or because it exceeded a limit.
        """
        return self._exchanged(received, self._options.seconds)

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Ends the process, and what waits for it."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Ends the process and closes the connection."""
        self.kill()
        self._connection.close()

    def _exchanged(self, received: Received | None, seconds: float) -> dict[str, Any]:
        self._spent, self._limit = 0.0, seconds
        try:
            if received is not None:
                self._send(received)
            return json.loads(self._connection.recv_bytes(MESSAGE_BYTES))
        except (OSError, EOFError, ValueError):
            self._process.kill()  # a message that is too long or no JSON is a reason, too
            self._process.join()
            raise CandidateLost(self._lost_by) from None
        finally:
            self._limit = float("inf")

    def _send(self, received: Received) -> None:
        primary = [track.enhanced for track in received.tracks if track.enhanced.size]
        options = {name: getattr(received, name) for name in ("channel", "min_score", "tasks")}
        self._connection.send_bytes(json.dumps({**options, "enhanced": len(primary)}).encode())
        self._connection.send_bytes(received.content)
        for waveform in primary:
            self._connection.send_bytes(waveform.astype(np.float32).tobytes())

    def _guard(self) -> None:
        """Kills the process when it exceeds a limit; what waits for it then ends. Time in which it could run but lets
        the service have the CPU does not count."""
        with suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            before = time.monotonic(), _cpu_seconds(process)
            while self._process.is_alive():
                time.sleep(CHECK_SECONDS)
                now = time.monotonic(), _cpu_seconds(process)
                is_ready_to_run = process.status() == psutil.STATUS_RUNNING
                self._spent += now[1] - before[1] if is_ready_to_run else now[0] - before[0]
                before = now
                if self._spent > self._limit:
                    self._lost_by = "timeout"
                    self._process.kill()
                elif process.memory_info().rss > 1e6 * self._options.megabytes:
                    self._lost_by = "memory"
                    self._process.kill()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


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
        on_loaded: Callable[[dict[str, Any]], object],
    ):
        self._candidate, self._options = candidate, options
        self._on_comparison, self._on_drop = on_comparison, on_drop
        self._on_restart, self._on_loaded = on_restart, on_loaded
        self._copies: deque[Call] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._process: CandidateProcess | None = None
        self._pause = FIRST_PAUSE
        self._has_loaded, self._labels = False, list[str]()
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether the candidate has loaded once."""
        return self._has_loaded

    @property
    def is_up(self) -> bool:
        """Whether the candidate has loaded and runs."""
        process = self._process
        return process is not None and bool(process.description) and process.is_alive()

    @property
    def length(self) -> int:
        """Number of copies that wait."""
        return len(self._copies)

    @property
    def labels(self) -> list[str]:
        """The emotions of the candidate; none before it has loaded."""
        return self._labels

    def start(self) -> None:
        """Starts the thread, which starts the candidate."""
        self._thread.start()

    def offer(self, call: Call) -> None:
        """Adds a copy of a request whose response was delivered. Never waits.

        Args:
            call: the request; ignored without a recording, or if it is not in the sample.
        """
        if call.received is None or random.random() >= self._options.sample:
            return
        with self._changed:
            size = sum(_size(copy) for copy in (*self._copies, call))
            if self._is_closed or len(self._copies) >= self._options.queue or size > QUEUE_BYTES:
                self._on_drop("end" if self._is_closed else "queue")
                return
            self._copies.append(call)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread and the candidate after the copy in hand; copies that wait are dropped."""
        with self._changed:
            self._is_closed = True
            for _ in self._copies:
                self._on_drop("end")
            self._copies.clear()
            self._changed.notify_all()
            if self._process is not None and not self._process.description:
                self._process.kill()  # it is loading
        self._thread.join()

    def _work(self) -> None:
        while not self._is_closed:
            try:
                self._run_candidate()
            except CandidateLost as lost:
                if not self._is_closed:
                    logger.warning(
                        "candidate restarts", extra={"fields": {"reason": lost.reason, "pause_s": self._pause}}
                    )
                    self._on_restart(lost.reason)
                    with self._changed:
                        self._changed.wait_for(lambda: self._is_closed, self._pause)
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _run_candidate(self) -> None:
        """Starts the candidate, and compares until it is lost or the service ends."""
        process = CandidateProcess(self._candidate, self._options)
        with self._changed:
            self._process = process
        try:
            process.wait_until_loaded()
            self._has_loaded, self._labels = True, process.description["labels"]
            self._on_loaded(process.description)
            logger.info("candidate loaded", extra={"fields": {"model": process.description["model"]}})
            while (call := self._next(process)) is not None:
                self._compare(process, call)
        finally:
            process.close()

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
            candidate.status = result["status"]
            if candidate.status == 200:
                similarity = self._fill(candidate, result)
                self._pause = FIRST_PAUSE
        except CandidateLost as lost:
            candidate.status = STATUS_OF[lost.reason]
            raise
        except Exception as error:  # an invalid message
            log_error(error)
            candidate.status = 500
        finally:
            self._report(Comparison(call, candidate, similarity))

    def _fill(self, candidate: Call, result: dict[str, Any]) -> list[float | None]:
        """Takes over the result of a candidate, whose code is not trusted."""
        records = [{name: record[name] for name in OUTLINE if name in record} for record in result["records"]]
        named = {record["emotion"] for record in records} | {label for record in records for label in record["scores"]}
        if not named <= {None, *self._labels}:
            raise ValueError("unknown labels")
        candidate.records, candidate.stages = records, result["stages"]
        candidate.audio_seconds = result["audio_seconds"]
        candidate.expert_frames = {task: np.array(frames) for task, frames in result["expert_frames"].items()}
        return result["si_sdr"]

    def _report(self, comparison: Comparison) -> None:
        try:
            self._on_comparison(comparison)
        except Exception as error:  # such as a full disk; requests go on
            log_error(error)
        comparison.primary.received = None


def _size(call: Call) -> int:
    received = call.received
    assert received is not None
    return len(received.content) + sum(4 * track.samples for track in received.tracks)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The process of a candidate, seen from the service: messages, and limits of time and memory."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil
from pydantic import ValidationError

from .calls import Received
from .candidate import Candidate, run
from .messages import Analysed, Description, Failed

LOADING_SECONDS = 600  # until a candidate has loaded
MESSAGE_BYTES = 1 << 20  # largest message of a candidate
CHECK_SECONDS, FAMILY_SECONDS = 0.05, 1.0  # between two looks at the process, and at those that it has started
STATUS_OF = {"timeout": 504, "memory": 507, "died": 502}


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of a candidate.

    Args:
        seconds: longest analysis of a copy, without the time in which the service used the CPU.
        megabytes: most resident memory of the candidate and of the processes that it starts.
    """

    seconds: float = 30.0
    megabytes: float = 4_096.0


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
        limits: its limits.

    Attributes:
        description: model, settings, labels and experts; None before `wait_until_loaded`.
    """

    def __init__(self, candidate: Candidate, limits: ProcessLimits):
        context = multiprocessing.get_context("spawn")
        self._limits, self._lost_by = limits, "died"
        self._spent, self._limit = 0.0, float("inf")  # seconds of the present exchange
        self.description: Description | None = None
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(candidate, theirs), name="candidate", daemon=True)
        self._guard_thread = threading.Thread(target=self._guard, name="candidate-guard", daemon=True)
        try:
            self._process.start()
            self._guard_thread.start()
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()

    def wait_until_loaded(self) -> None:
        """Waits for the description.

        Raises:
            CandidateLost: the process ended before, or sent something else.
        """
        self.description = Description.model_validate_json(self._exchanged(None, LOADING_SECONDS))

    def analyse(self, received: Received) -> Analysed | Failed:
        """What the candidate makes of a recording. A message of another form is a failure.

        Raises:
            CandidateLost: the process ended, by itself or because it exceeded a limit.
        """
        message = self._exchanged(received, self._limits.seconds)
        with suppress(ValidationError):
            return Failed.model_validate_json(message)
        with suppress(ValidationError):
            analysed = Analysed.model_validate_json(message)
            if self.description is not None and analysed.fits(self.description):
                return analysed
        return Failed(status=500)

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Ends the process and those that it has started; what waits for it ends, too."""
        with suppress(OSError, AttributeError):
            if self._process.pid is not None and os.getpgid(self._process.pid) == self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """Ends the process and closes the connection."""
        self.kill()
        self._process.join()
        self._guard_thread.join()
        self._connection.close()

    def _exchanged(self, received: Received | None, seconds: float) -> bytes:
        self._spent, self._limit = 0.0, seconds
        try:
            if received is not None:
                self._send(received)
            return self._connection.recv_bytes(MESSAGE_BYTES)
        except (OSError, EOFError):
            self.kill()  # a message that is too long is a reason, too
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
        """Kills the process when it exceeds a limit, or when it cannot be watched; what waits for it then ends."""
        try:
            self._watch(psutil.Process(self._process.pid))
        except psutil.Error:  # it has ended
            pass
        finally:
            self.kill()
            self._hang_up()

    def _watch(self, process: psutil.Process) -> None:
        """Returns when the process has ended or exceeds a limit. On Linux, time in which it could run but lets the
        service have the CPU does not count."""
        before, family, next_look = (time.monotonic(), _cpu_seconds(process)), 0.0, 0.0
        while self._process.is_alive():
            time.sleep(CHECK_SECONDS)
            now = time.monotonic(), _cpu_seconds(process)
            elapsed, worked = now[0] - before[0], now[1] - before[1]
            could_run = sys.platform == "linux" and process.status() == psutil.STATUS_RUNNING
            self._spent += min(worked, elapsed) if could_run else elapsed
            before = now
            if now[0] >= next_look:
                next_look = now[0] + FAMILY_SECONDS
                family = sum(_memory(child) for child in process.children(recursive=True))
            if self._spent > self._limit:
                self._lost_by = "timeout"
                return
            if process.memory_info().rss + family > 1e6 * self._limits.megabytes:
                self._lost_by = "memory"
                return

    def _hang_up(self) -> None:
        """Ends the connection for those who wait for it: processes of the candidate may still hold its other end."""
        with suppress(OSError, AttributeError), socket.socket(fileno=os.dup(self._connection.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended
        return 0

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Timing of alternatives in turn in one run, and their peak memory in separate processes."""

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MEBIBYTE = 1 << 20


def results_folder(device: str = "cpu") -> Path:
    """Folder of the results of this kind of machine; results of different kinds are not comparable."""
    kind = torch.backends.cpu.get_cpu_capability().lower() if device == "cpu" else device
    folder = Path(__file__).parent / "results" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Timing:
    """Seconds of one side, a number a round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def speed_against(self, baseline: "Timing") -> tuple[float, float, float]:
        """How many times faster than `baseline`: median, lowest and highest of the rounds' own ratios."""
        ratios = [theirs / ours for theirs, ours in zip(baseline.seconds, self.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def in_turn(sides: dict[str, Callable[[], Any]], rounds: int = 5, warm_up: int = 1) -> dict[str, Timing]:
    """
    Times every side once a round, back and forth, so that a machine that slows down slows all of them.

    Args:
        sides: What to time, by name; each call does the same work.
        rounds: Times that each side is timed.
        warm_up: Calls of each side before, which do not count.
    """
    for _ in range(warm_up):
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            seconds[name].append(_timed(sides[name]))
    return {name: Timing(values) for name, values in seconds.items()}


def peak_memory(function: Callable[..., Callable[[], Any]], *arguments: Any) -> dict[str, float]:
    """
    Peak resident memory in MiB of a new process that does nothing else.

    Args:
        function: A function at the top of a module that prepares the work (imports, model) and returns it as a call.
        arguments: Its arguments; they are pickled.

    Returns:
        `total`, of the whole process with imports and preparation; `before`, without preparation and work; `working`,
        while the call ran; on a CUDA device `device` too, the most that was allocated there.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_peaks, function, arguments).result()


def _peaks(function: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> dict[str, float]:
    imported = _high_water_mark()
    work = function(*arguments)
    gc.collect()
    before = _high_water_mark()
    with suppress(OSError):  # only Linux can reset the peak
        Path("/proc/self/clear_refs").write_text("5")
    work()
    working = _high_water_mark()
    peaks = {"total": max(before, working), "before": imported, "working": working}
    peaks = {name: value / MEBIBYTE for name, value in peaks.items()}
    if torch.cuda.is_initialized():
        peaks["device"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    return peaks


def _high_water_mark() -> int:
    """Bytes. The kernel's own count of this process: `getrusage` would begin with what its parent held."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _timed(work: Callable[[], Any]) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    """Waits for what a GPU still does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()

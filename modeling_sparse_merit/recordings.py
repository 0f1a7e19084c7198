# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings on disk: which there are, where their results go, and how these are written."""

import glob
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .audio import AUDIO_SUFFIXES, read_audio, resample, write_audio

ENHANCED_SUFFIX = ".enhanced.wav"
_one_drawing = threading.Lock()  # matplotlib is for one thread


@dataclass(frozen=True)
class Recording:
    """One input: its path, where its enhanced speech goes, or why it cannot be used."""

    path: Path
    target: Path
    error: str | None = None


@dataclass(frozen=True)
class Signal:
    """A recording as the model hears it, mono float32 (samples,) at the model's rate, and what it was before."""

    waveform: np.ndarray
    rate: int
    own_samples: int
    own_rate: int

    @classmethod
    def read(cls, recording: Recording, rate: int) -> "Signal":
        """Decodes a recording and resamples it to `rate`, in Hz.

        Raises:
            ValueError: it is no recording, or a damaged one. OSError: it cannot be read.
        """
        if recording.error:
            raise ValueError(recording.error)
        waveform, own_rate = read_audio(recording.path)
        return cls(resample(waveform, own_rate, rate), rate, len(waveform), own_rate)

    @property
    def seconds(self) -> float:
        return self.own_samples / self.own_rate


def find_recordings(arguments: Iterable[str], output: Path) -> tuple[list[Recording], int]:
    """Finds every recording that the arguments name, each once, in order.

    Results of an earlier run (`*.enhanced.wav`) are no recordings, wherever they lie. Subfolders of a given folder are
    kept below `output`; what would still write to the same file gets a number: `x-2.enhanced.wav`.

    Args:
        arguments: files, folders, which are searched in depth, and globs.
        output: folder of the results; nothing is written.

    Returns:
        the recordings, unusable arguments among them, and how many results of an earlier run were passed over.
    """
    found, seen, taken, skipped = [], set(), set(), 0
    for argument in arguments:
        matches = list(expand(Path(argument).expanduser()))
        if not matches:
            found.append(Recording(Path(argument), Path(), "no such file, and no recording found in or by it"))
        for path, subfolder in matches:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if path.name.lower().endswith(ENHANCED_SUFFIX):
                skipped += 1
            else:
                found.append(Recording(path, _free_target(output / subfolder / path.stem, taken)))
    return found, skipped


def expand(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each recording of a file, a folder or a glob, and its subfolder within the folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if _is_audio(file):
                yield file, file.relative_to(path).parent
    elif path.exists():
        yield path, Path()
    else:
        for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if match.is_dir() or _is_audio(match):
                yield from expand(match)


def save_answer(
    recording: Recording, signal: Signal, answer: dict[str, Any], rate: int | None = None, plot: bool = False
) -> dict[str, Any]:
    """Writes what the pipeline answered about one recording.

    Args:
        answer: as `SpeechEnhancementAndEmotionPipeline` gives it.
        rate: of the enhanced speech, in Hz; the recording's own by default.
        plot: whether to draw a picture beside it.

    Returns:
        its record, a line of `results.jsonl`.
    """
    scores = {entry["label"]: round(entry["score"], 6) for entry in answer.get("emotion", ())}
    record = {
        "file": str(recording.path),
        "seconds": round(signal.seconds, 3),
        "sampling_rate": signal.own_rate,
        "emotion": next(iter(scores), None),
        "scores": dict(sorted(scores.items())),
        "enhanced": None,
    }
    recording.target.parent.mkdir(parents=True, exist_ok=True)
    if "audio" in answer:
        _write_enhanced(recording.target, signal, answer, rate or signal.own_rate)
        record["enhanced"] = str(recording.target)
    if plot:
        _plot(recording, signal, answer.get("audio"), record["scores"])
    return record


def failure(recording: Recording, error: BaseException) -> dict[str, str]:
    """The record of a recording that failed."""
    return {"file": str(recording.path), "error": one_line(error)}


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _free_target(stem: Path, taken: set[str]) -> Path:
    """Returns a path that no other recording writes to, on file systems that ignore case too, and takes it."""
    target, number = stem.with_name(stem.name + ENHANCED_SUFFIX), 1
    while str(target).casefold() in taken:
        number += 1
        target = stem.with_name(f"{stem.name}-{number}{ENHANCED_SUFFIX}")
    taken.add(str(target).casefold())
    return target


def _write_enhanced(target: Path, signal: Signal, answer: dict[str, Any], rate: int) -> None:
    """Writes the enhanced speech at the rate asked for, as long as the recording to the sample."""
    length = round(signal.own_samples * rate / signal.own_rate)
    enhanced = resample(answer["audio"], answer["sampling_rate"], rate)[:length]
    write_audio(target, np.pad(enhanced, (0, length - len(enhanced))), rate)


def _plot(recording: Recording, signal: Signal, enhanced: np.ndarray | None, scores: dict[str, float]) -> None:
    from .plotting import plot_result

    picture, title = recording.target.with_suffix(".png"), recording.path.name
    with _one_drawing:
        plot_result(picture, signal.waveform, enhanced, signal.rate, scores, title)

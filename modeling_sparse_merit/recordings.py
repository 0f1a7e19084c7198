# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings on disk: which there are, where their results go, and how these are written."""

import glob
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .audio import Channel, check_duration, decode_audio, resample, write_audio
from .decoding import FFMPEG_SUFFIXES, audio_suffixes
from .files import output_errors, replacing

if TYPE_CHECKING:
    from .results import Results

STDIN = Path("-")
ENHANCED_SUFFIX = ".enhanced.wav"
MAX_NAME_BYTES = 255 - 24  # of file systems, less what channels, numbers and other endings may add
_one_drawing = threading.Lock()  # matplotlib is for one thread


@dataclass(frozen=True)
class Recording:
    """One input: its path, where its enhanced speech goes, or why it cannot be used.

    Args:
        path: a file, a pipe, or `-` for standard input.
        target: file of the enhanced speech.
        error: why it cannot be used.
    """

    path: Path
    target: Path
    error: str | None = None

    @property
    def source(self) -> str | None:
        """What tells it from others, wherever the process runs: its absolute path; None of a pipe, which is new."""
        return (
            None
            if self.path == STDIN or (self.path.exists() and not self.path.is_file())
            else str(self.path.resolve())
        )

    def stamp(self) -> tuple[int | None, int | None]:
        """Size in bytes and time of modification in ns of its file, None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None, None
        return (status.st_size, status.st_mtime_ns) if self.path.is_file() else (None, None)

    def target_of(self, channel: Channel | None) -> Path:
        """File of the enhanced speech of one of several channels; None for the recording as a whole."""
        if channel is None:
            return self.target
        return self.target.with_name(f"{_stem(self.target)}.ch{channel}{ENHANCED_SUFFIX}")


@dataclass(frozen=True)
class Signal:
    """A track of a recording as the model takes it, and what it was before.

    Args:
        waveform: mono float32 (samples,) at `rate`.
        rate: of the model, in Hz.
        own_samples, own_rate: length and rate, in Hz, of the recording.
        facts: fields of its record: `channel`, `level_dbfs`, `clipped_ratio` and, if any, `warnings`.
        channel: number of the channel where the recording has several and not their mean was asked for.
    """

    waveform: np.ndarray
    rate: int
    own_samples: int
    own_rate: int
    facts: dict[str, Any]
    channel: Channel | None = None

    @classmethod
    def read(cls, recording: Recording, rate: int, channel: Channel = "mix") -> list["Signal"]:
        """Decodes a recording and resamples it to `rate`, in Hz: one signal, or with "each" one for each channel.

        Raises:
            ValueError: it is no recording, damaged, too short, or lacks the channel. OSError: it cannot be read.
        """
        if recording.error:
            raise ValueError(recording.error)
        audio = decode_audio(sys.stdin.buffer if recording.path == STDIN else recording.path)
        tracks = audio.tracks(channel)
        signals = []
        for track in tracks:
            level = track.level_dbfs
            facts = {
                "channel": track.channel,
                "level_dbfs": None if level is None else round(level, 2),
                "clipped_ratio": round(track.clipped_ratio, 6),
                **({"warnings": audio.warnings} if audio.warnings else {}),
            }
            waveform = resample(track.waveform, audio.sampling_rate, rate)
            check_duration(waveform, rate, audio.name)
            number = track.channel if audio.channels > 1 and channel != "mix" else None
            signals.append(cls(waveform, rate, len(track.waveform), audio.sampling_rate, facts, number))
        return signals

    @property
    def seconds(self) -> float:
        return self.own_samples / self.own_rate


def find_recordings(arguments: Iterable[str], output: Path) -> tuple[list[Recording], int]:
    """Finds every recording that the arguments name, each once, in order.

    Audio that needs ffmpeg (M4A, WebM, ...) is found too. Results of an earlier run (`*.enhanced.wav`) are no
    recordings, wherever they lie. Subfolders of a given folder are kept below `output`; what would still write to the
    same file gets a number: `x-2.enhanced.wav`.

    Args:
        arguments: files, folders, which are searched in depth, globs, and `-` for standard input.
        output: folder of the results; nothing is written.

    Returns:
        the recordings, unusable arguments among them, and how many results of an earlier run were passed over.
    """
    found: list[Recording] = []
    seen: set[Path] = set()
    taken: set[str] = set()
    skipped = 0

    def add(path: Path, target: Path, error: str | None = None) -> None:
        free = free_target(target, lambda candidate: str(candidate).casefold() not in taken)
        taken.add(str(free).casefold())
        found.append(Recording(path, free, error))

    for argument in arguments:
        if argument == str(STDIN):
            add(STDIN, target_for(output, "stdin"))
            continue
        matches = list(expand(Path(argument).expanduser()))
        if not matches:
            message = "no such file, and no recording found in or by it"
            add(Path(argument), target_for(output, Path(argument).stem or "missing"), message)
        for path, subfolder in matches:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if path.name.lower().endswith(ENHANCED_SUFFIX):
                skipped += 1
            else:
                add(path, target_for(output / subfolder, path.stem))
    return found, skipped


def expand(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each recording of a file, a folder or a glob, and its subfolder within the folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if is_recording(file):
                yield file, file.relative_to(path).parent
    elif path.exists():
        yield path, Path()
    else:
        for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if match.is_dir() or is_recording(match):
                yield from expand(match)


def is_recording(path: Path) -> bool:
    """Whether a file is audio by its ending; hidden files (macOS leaves `._x.wav` beside each `x.wav`) are not."""
    known = path.suffix.lower() in (*audio_suffixes(), *FFMPEG_SUFFIXES)
    return known and not path.name.startswith(".") and path.is_file()


def target_for(folder: Path, stem: str) -> Path:
    """File of the enhanced speech of a recording; a name that would be too long is shortened, and stays its own."""
    content = os.fsencode(stem)
    if len(content) > MAX_NAME_BYTES - len(ENHANCED_SUFFIX):
        digest = hashlib.sha256(content).hexdigest()[:8]
        short = content[: MAX_NAME_BYTES - len(ENHANCED_SUFFIX) - 9].decode("utf-8", errors="ignore")
        stem = f"{short}-{digest}"
    return folder / (stem + ENHANCED_SUFFIX)


def free_target(target: Path, is_free: Callable[[Path], bool]) -> Path:
    """The target, or the first of `x-2.enhanced.wav`, `x-3.enhanced.wav`, ... that is free."""
    stem, number = _stem(target), 1
    while not is_free(target):
        number += 1
        target = target.with_name(f"{stem}-{number}{ENHANCED_SUFFIX}")
    return target


def save_answer(
    recording: Recording,
    signal: Signal,
    answer: dict[str, Any],
    rate: int | None = None,
    plot: bool = False,
    results: "Results | None" = None,
    lines: int = 1,
) -> dict[str, Any]:
    """Writes what the pipeline answered about a track of a recording.

    Args:
        answer: as `SpeechEnhancementAndEmotionPipeline` gives it.
        rate: of the enhanced speech, in Hz; the recording's own by default.
        plot: whether to draw a picture beside it.
        results: where its record is kept; its line is written right before the enhanced file gets its name.
        lines: how many records the recording has.

    Returns:
        its record, a line of `results.jsonl`.

    Raises:
        OutputError: nothing more can be written.
    """
    target = recording.target_of(signal.channel)
    if results is not None and not results.owns(recording, target):
        raise ValueError(f"{target} is of another recording, and is not replaced. Give another folder by --output.")
    record = _record(recording, signal, answer, target)
    with output_errors():
        target.parent.mkdir(parents=True, exist_ok=True)
        if plot:
            _plot(recording, target, signal, answer.get("audio"), record["scores"])
        if "audio" not in answer:
            _keep(results, recording, record, target, lines)
        else:
            with replacing(target) as temporary:
                _write_enhanced(temporary, signal, answer, rate or signal.own_rate)
                _keep(results, recording, record, target, lines)
    return record


def failure(recording: Recording, error: BaseException) -> dict[str, str]:
    """The record of a recording that failed."""
    return {"file": str(recording.path), "error": one_line(error)}


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _stem(target: Path) -> str:
    return target.name.removesuffix(ENHANCED_SUFFIX)


def _record(recording: Recording, signal: Signal, answer: dict[str, Any], target: Path) -> dict[str, Any]:
    scores = {entry["label"]: round(entry["score"], 6) for entry in answer.get("emotion", ())}
    return {
        "file": str(recording.path),
        "seconds": round(signal.seconds, 3),
        "sampling_rate": signal.own_rate,
        "emotion": next(iter(scores), None),
        "scores": dict(sorted(scores.items())),
        "enhanced": str(target) if "audio" in answer else None,
        **signal.facts,
    }


def _keep(results: "Results | None", recording: Recording, record: dict[str, Any], target: Path, lines: int) -> None:
    if results is not None:
        results.add(recording, record, target, lines)


def _write_enhanced(target: Path, signal: Signal, answer: dict[str, Any], rate: int) -> None:
    """Writes the enhanced speech at the rate asked for, as long as the recording to the sample."""
    length = round(signal.own_samples * rate / signal.own_rate)
    enhanced = resample(answer["audio"], answer["sampling_rate"], rate)[:length]
    write_audio(target, np.pad(enhanced, (0, length - len(enhanced))), rate)


def _plot(
    recording: Recording, target: Path, signal: Signal, enhanced: np.ndarray | None, scores: dict[str, float]
) -> None:
    from .plotting import plot_result

    with _one_drawing, replacing(target.with_suffix(".png")) as picture:
        plot_result(picture, signal.waveform, enhanced, signal.rate, scores, recording.path.name)

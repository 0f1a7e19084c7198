# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Tracks of recordings on their way through the model: read, resampled, written, and recorded."""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import one_line, output_errors, replacing
from ..models.sparse_merit.audio import Channel, check_duration, decode_audio, resample, write_audio
from ..models.sparse_merit.tasks import EMOTION, further_tasks
from .blocks import track_facts
from .files import STDIN, Recording
from .results import Results

_one_drawing = threading.Lock()  # matplotlib is for one thread


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
            facts = track_facts(track.channel, track.power, track.clipped_ratio, audio.warnings)
            waveform = resample(track.waveform, audio.sampling_rate, rate)
            check_duration(waveform, rate, audio.name)
            number = track.channel if audio.channels > 1 and channel != "mix" else None
            signals.append(cls(waveform, rate, len(track.waveform), audio.sampling_rate, facts, number))
        return signals

    @property
    def seconds(self) -> float:
        return self.own_samples / self.own_rate


def save_answer(
    recording: Recording,
    signal: Signal,
    answer: dict[str, Any],
    rate: int | None = None,
    plot: bool = False,
    results: Results | None = None,
    lines: int = 1,
) -> dict[str, Any]:
    """Writes what the pipeline answered about a track of a recording.

    Args:
        answer: as `SpeechEnhancementAndEmotionPipeline` gives it.
        rate: of the enhanced speech, in Hz; the recording's own by default.
        plot: whether to draw a picture next to it.
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


def _record(recording: Recording, signal: Signal, answer: dict[str, Any], target: Path) -> dict[str, Any]:
    scores = {entry["label"]: round(entry["score"], 6) for entry in answer.get(EMOTION, ())}
    further = {name: _plain(answer[name]) for name in further_tasks(answer)}
    return {
        "file": str(recording.path),
        "seconds": round(signal.seconds, 3),
        "sampling_rate": signal.own_rate,
        "emotion": next(iter(scores), None),
        "scores": dict(sorted(scores.items())),
        "enhanced": str(target) if "audio" in answer else None,
        **signal.facts,
        **({"task_outputs": further} if further else {}),
    }


def _plain(output: Any) -> Any:
    """What a task found, JSON-clean."""
    return output.tolist() if isinstance(output, np.ndarray) else output


def _keep(results: Results | None, recording: Recording, record: dict[str, Any], target: Path, lines: int) -> None:
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
    from .overview import Overview
    from .plotting import plot_result

    sides = [None if side is None else Overview.of(side, signal.rate) for side in (signal.waveform, enhanced)]
    with _one_drawing, replacing(target.with_suffix(".png")) as picture:
        plot_result(picture, *sides, scores, recording.path.name, signal.own_rate / 2)

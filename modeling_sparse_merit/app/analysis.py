# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Analysis of one recording for the page: enhanced speech, emotions over time, and use of the experts."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import one_line
from ..inference.blocks import BlockReader
from ..inference.files import Recording, target_for
from ..inference.results import SCHEMA_VERSION
from ..inference.tracks import Track, Treatment, open_tracks
from ..models.sparse_merit.audio import SAMPLING_RATE, Channel, load_audio
from ..models.sparse_merit.cutting import Window
from ..models.sparse_merit.decoding import audio_seconds
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.sources import portable_name
from .limits import Limits


@dataclass(frozen=True)
class Source:
    """A recording that the visitor chose.

    Args:
        path: its file.
        name: its name on the page.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Progress:
    """How far an analysis is: seconds that are done, and their total, which may be unknown (infinite)."""

    done: float
    total: float


@dataclass(frozen=True)
class Analysis:
    """The results for a recording.

    Args:
        record: the fields of a line of `results.jsonl`, and `model`.
        recording: float32 (samples,) at 16 kHz, full scale +-1.
        enhanced: the same after enhancement; None if the model has no enhancement.
        enhanced_file: the file for download, at the rate of the recording; None without enhancement.
        expert_use: {task: (T, N)}, the share of each expert in each frame; empty without experts.
    """

    record: dict[str, Any]
    recording: np.ndarray
    enhanced: np.ndarray | None
    enhanced_file: Path | None
    expert_use: dict[str, np.ndarray]


def analyse(
    pipe: SpeechEnhancementAndEmotionPipeline,
    source: Source,
    folder: Path,
    channel: Channel = "mix",
    limits: Limits | None = None,
) -> Generator[Progress, None, Analysis]:
    """Analyses a recording window by window.

    Args:
        pipe: the pipeline.
        source: the recording.
        folder: where the enhanced file is written.
        channel: "mix", "left", "right", or a number from 1.
        limits: size and duration that are accepted; those of `Limits` by default.

    Yields:
        the progress, after every window.

    Returns:
        The analysis.

    Raises:
        ValueError: the file is no recording, is damaged, exceeds the limits, or lacks the channel. The message calls
            it by its name on the page.
    """
    try:
        return (yield from _analyse(pipe, source, folder, channel, limits or Limits()))
    except (ValueError, OSError) as error:
        raise ValueError(_by_name(error, source)) from error


def read_recording(source: Source, channel: Channel = "mix", limits: Limits | None = None) -> np.ndarray:
    """Reads a recording as float32 (samples,) at 16 kHz.

    Args:
        source: the recording.
        channel: "mix", "left", "right", or a number from 1.
        limits: size and duration that are accepted; those of `Limits` by default.

    Raises:
        ValueError: as for `analyse`.
    """
    limits = limits or Limits()
    blocks, samples = [], 0
    try:
        _check_header(source, limits)
        with BlockReader(source.path, SAMPLING_RATE, channel) as reader:
            for block in reader:
                blocks.append(block)
                samples += len(block)
                limits.check_seconds(samples / SAMPLING_RATE, source.name)
    except (ValueError, OSError) as error:
        raise ValueError(_by_name(error, source)) from error
    return np.concatenate(blocks)


def _analyse(
    pipe: SpeechEnhancementAndEmotionPipeline, source: Source, folder: Path, channel: Channel, limits: Limits
) -> Generator[Progress, None, Analysis]:
    total = _check_header(source, limits)
    recording = Recording(source.path, target_for(folder, Path(source.name).stem))
    model = pipe.window_model(returns_expert_use=True)
    windows: list[Window] = []
    uses: list[dict[str, np.ndarray]] = []
    with open_tracks(recording, pipe, model, Treatment(channel=channel)) as tracks:
        track: Track = tracks[0]
        for window in track.windows():
            limits.check_seconds(window.end / SAMPLING_RATE, source.name)
            (output,) = model.run([window])
            track.add(window, output)
            windows.append(window)
            uses.append(output.expert_use)
            yield Progress(window.end / SAMPLING_RATE, total)
        record = track.finish()
    written = None if record["enhanced"] is None else Path(record["enhanced"])
    return Analysis(
        _described(record, source, pipe),
        np.concatenate([window.piece for window in windows]),
        None if written is None else load_audio(written),
        written,
        {task: np.concatenate([use[task] for use in uses]) for task in uses[0]},
    )


def _check_header(source: Source, limits: Limits) -> float:
    """The duration in seconds that the header states, infinite if unknown; raises ValueError beyond the limits."""
    limits.check_size(source.path.stat().st_size, source.name)
    seconds = audio_seconds(source.path)
    if math.isfinite(seconds):
        limits.check_seconds(seconds, source.name)
    return seconds


def _described(record: dict[str, Any], source: Source, pipe: SpeechEnhancementAndEmotionPipeline) -> dict[str, Any]:
    """The record with the names that the visitor knows, instead of paths on this computer."""
    enhanced = record["enhanced"] and Path(record["enhanced"]).name
    warnings = [warning.replace(str(source.path), source.name) for warning in record.get("warnings", ())]
    names = {"file": source.name, "enhanced": enhanced} | ({"warnings": warnings} if warnings else {})
    model = Path(portable_name(str(pipe.model.name_or_path))).name
    return {**record, **names, "schema_version": SCHEMA_VERSION, "model": model}


def _by_name(error: BaseException, source: Source) -> str:
    return one_line(error).replace(str(source.path), source.name)

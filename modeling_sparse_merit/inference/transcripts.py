# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Transcripts of recordings: recognised segment by segment, or read from a folder of text files."""

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from ..files import one_line, sha256_of_files
from ..models.sparse_merit.audio import Channel
from ..models.sparse_merit.cutting import FRAME, SAMPLING_RATE
from ..models.sparse_merit.pipeline_speech_text import Transcriber, transcribe
from ..models.sparse_merit.sources import HUB_ID
from ..models.sparse_merit.speech_segments import SpeechSegment
from .files import Recording

if TYPE_CHECKING:
    from transformers import Pipeline

CONTEXT = 10 * FRAME
"""Samples before and after a segment that are read with it, 0.2 s: less than the pause between two segments."""
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")
LONGEST = 30 * SAMPLING_RATE
"""Samples that Whisper takes at once. Only windows of more than 28 s have longer segments."""
_one_transcribing = threading.Lock()  # pipelines of transformers are not thread-safe


Value = TypeVar("Value")


class SegmentReader(Generic[Value]):
    """Reads the segments of a track as they end, and holds no more samples than those of a segment and a window.

    Args:
        read: a function from float32 (samples,) at 16 kHz, a segment with 0.2 s on either side, to a result.
    """

    def __init__(self, read: Callable[[np.ndarray], Value]):
        self._read = read
        self._held, self._start = np.empty(0, np.float32), 0  # the last samples, and the place of the first of them

    def add(self, piece: np.ndarray, ended: Iterable[SpeechSegment], next_start: int) -> list[Value]:
        """Adds the next piece of the track.

        Args:
            piece: float32 (samples,) at 16 kHz.
            ended: the segments that have ended with it.
            next_start: samples before the start of the segment that is open, or before the earliest of the next one.

        Returns:
            the result of each segment.
        """
        self._held = np.concatenate([self._held, piece])
        values = [self._read(self._spoken(segment)) for segment in ended]
        kept = self._place(next_start - CONTEXT)
        self._held, self._start = self._held[kept:], self._start + kept
        return values

    def _spoken(self, segment: SpeechSegment) -> np.ndarray:
        start, end = FRAME * segment.start - CONTEXT, FRAME * segment.end + CONTEXT
        return self._held[self._place(start) : self._place(end)]

    def _place(self, sample: int) -> int:
        """The index of a sample of the track among those that are held."""
        return max(0, sample - self._start)


class SegmentTranscriber(SegmentReader[str]):
    """Transcribes the segments of a track as they end.

    Args:
        transcriber: a pipeline for automatic speech recognition, or a function from float32 (samples,) at 16 kHz to a
            text.
    """

    def __init__(self, transcriber: Transcriber):
        super().__init__(partial(_transcribe_parts, transcriber))


def _transcribe_parts(transcriber: Transcriber, spoken: np.ndarray) -> str:
    parts = np.array_split(spoken, math.ceil(len(spoken) / LONGEST))
    with _one_transcribing:
        return " ".join(filter(None, (transcribe(transcriber, part) for part in parts)))


def read_transcript(folder: Path, recording: Path, channel: Channel | None = None) -> str | None:
    """The transcript of a recording, `NAME.txt`, or of one of its channels, `NAME.ch1.txt`; None if there is none.

    Args:
        folder: the folder of the transcripts.
        recording: the recording, whose name without suffix is NAME.
        channel: number of the channel; None for a mono recording or the mean of the channels.
    """
    path = folder / f"{recording.stem}{'' if channel is None else f'.ch{channel}'}.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def load_transcriber(source: str, device: torch.device) -> tuple["Pipeline | Path", str]:
    """Loads a model for automatic speech recognition, or finds a folder of transcripts. Nothing is downloaded.

    Args:
        source: a folder with a model (`config.json`), the Hub id of one that was downloaded before, or a folder of
            transcripts (`NAME.txt`).
        device: where the model runs.

    Returns:
        The `transcriber` of a `Treatment`, and what it is, as a part of the settings of results: the digest of the
        model, or the path of the transcripts.

    Raises:
        FileNotFoundError: there is no such folder, it holds neither, or the model was not downloaded.
        ValueError: the model cannot be loaded, or is another kind of model.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _downloaded(source)
    elif not (folder / "config.json").is_file():
        if not any(folder.glob("*.txt")):
            raise FileNotFoundError(
                f"{source} holds neither a model for speech recognition (config.json) nor transcripts (NAME.txt, one "
                "for each recording)."
            )
        return folder, str(folder.resolve())
    files = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
    return _recogniser(folder, source, device), sha256_of_files(files)


def check_transcripts(folder: Path, recordings: Sequence[Recording]) -> None:
    """Checks that a folder of transcripts fits recordings.

    Args:
        folder: the folder.
        recordings: the recordings.

    Raises:
        ValueError: several recordings have one name, or no recording has a transcript.
    """
    counts = Counter(recording.path.stem for recording in recordings)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(
            f"Several recordings are called {', '.join(repeated[:5])}, and {folder} has one transcript for a name: "
            "rename them, or process their folders one by one."
        )
    names = {re.sub(r"\.ch\d+$", "", path.stem) for path in folder.glob("*.txt")}
    if counts.keys().isdisjoint(names):
        name = next(iter(counts))
        raise ValueError(f"{folder} holds no transcript of these recordings; expected files such as {name}.txt.")


def _downloaded(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not HUB_ID.fullmatch(source):
        raise FileNotFoundError(
            f"{source} is not a folder: give the folder of a model for speech recognition or of transcripts, or the "
            "Hub id of a model."
        )
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"The model {source} is not on this computer, and is not downloaded unasked. Download it first: "
            f"hf download {source}"
        ) from error


def _recogniser(folder: Path, source: str, device: torch.device) -> "Pipeline":
    import transformers

    dtype = torch.float32 if device.type == "cpu" else "auto"  # fp16 is slow on CPUs
    options: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": False}
    try:
        return transformers.pipeline("automatic-speech-recognition", str(folder), **options)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{source} cannot be loaded as a model for automatic speech recognition: {one_line(error)}"
        ) from error

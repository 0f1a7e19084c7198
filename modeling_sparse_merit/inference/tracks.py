# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Processing of single tracks: reads windows, writes the enhanced file, and collects the record."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..files import one_line, output_errors, replacing
from ..models.sparse_merit.audio import Channel
from ..models.sparse_merit.cutting import CHUNK_LENGTH_S, SAMPLING_RATE, STRIDE_LENGTH_S, Stride, Window, WindowCutter
from ..models.sparse_merit.decoding import rewindable
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.pipeline_speech_text import Transcriber
from ..models.sparse_merit.speech_segments import SpeechSegment
from ..models.sparse_merit.streaming import Assembler, DetectorFactory, WindowModel, WindowOutput
from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT, TASKS, further_tasks
from ..plotting.experts import no_columns
from ..plotting.overview import Columns, Overview
from ..plotting.recording import plot_recording
from ..plotting.style import save_figure
from .blocks import BlockReader, BlockWriter
from .context import Context
from .distress import distress_curve, task_with_labels
from .files import STDIN, Recording, segments_path
from .results import Results
from .segments import ContextEmotion, write_segments
from .transcripts import SegmentReader, SegmentTranscriber, read_transcript

_one_drawing = threading.Lock()  # matplotlib is not thread-safe


@dataclass(frozen=True)
class Treatment:
    """Options for processing recordings.

    Args:
        rate: sampling rate of the enhanced speech in Hz; by default that of each recording.
        plot: draw a figure of each recording.
        segments: format of the file with the speech segments: "csv", "vtt" or "rttm"; None writes no file.
        channel: "mix", "left", "right", a number from 1, or "each".
        min_score: an emotion with a smaller score becomes None, with the reason "unsure".
        chunk_length_s, stride_length_s: length and context of the windows in seconds, as for the pipeline.
        detector: voice activity detector, as for the pipeline.
        transcriber: a pipeline for automatic speech recognition, or a function from float32 (samples,) at 16 kHz to a
            text, which transcribes each segment of speech; or a folder with a transcript of each recording, NAME.txt.
        distress: emotions whose scores are added and smoothed over the segments, see `distress_curve`; none for none.
        context: a conversation model, which estimates the emotion of each segment in the context of the others, those
            of all channels together; see `load_context`. One that takes texts needs a `transcriber` of segments.
    """

    rate: int | None = None
    plot: bool = False
    segments: str | None = None
    channel: Channel = "mix"
    min_score: float = 0.0
    chunk_length_s: float = CHUNK_LENGTH_S
    stride_length_s: Stride = STRIDE_LENGTH_S
    detector: DetectorFactory | None = None
    transcriber: Transcriber | Path | None = None
    distress: tuple[str, ...] = ()
    context: Context | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Options that the records depend on, JSON-serializable; the caller records detector, transcriber and
        context."""
        names = ("rate", "channel", "min_score", "chunk_length_s", "stride_length_s")
        return {name: getattr(self, name) for name in names} | (
            {"distress": list(self.distress)} if self.distress else {}
        )

    @property
    def further_files(self) -> list[Callable[[Path], Path]]:
        """Functions from the path of an enhanced file to those of the further files."""
        files: list[Callable[[Path], Path]] = [picture_path] if self.plot else []
        return files if self.segments is None else [*files, partial(segments_path, kind=self.segments)]


def picture_path(target: Path) -> Path:
    """Path of the figure, next to the enhanced file."""
    return target.with_suffix(".png")


class Track:
    """One track of a recording: its windows and its results.

    Args:
        recording: the recording of the track.
        reader: reads the track; closed after the last window.
        number: the channel; None for a mono recording or the mean of the channels.
        lines: number of records of the recording.
        pipe: turns outputs into results.
        model: runs the windows.
        treatment: options of the processing.
        results: stores the record; the line is written right before the enhanced file is renamed to its final name.

    Raises (of `add` and `finish`):
        ValueError: the enhanced file belongs to another recording.
        OutputError: nothing more can be written.
    """

    def __init__(
        self,
        recording: Recording,
        reader: BlockReader,
        number: Channel | None,
        lines: int,
        pipe: SpeechEnhancementAndEmotionPipeline,
        model: WindowModel,
        treatment: Treatment,
        results: Results | None,
    ):
        self._recording, self._reader, self._number, self._lines = recording, reader, number, lines
        self._pipe, self._model, self._treatment, self._results = pipe, model, treatment, results
        self._target = recording.target_of(number)
        transcriber = treatment.transcriber
        self._transcriber = SegmentTranscriber(transcriber) if callable(transcriber) else None
        self._embedder: SegmentReader[torch.Tensor | None] | None = (
            None if treatment.context is None else SegmentReader(treatment.context.embed)
        )
        self._assembler = Assembler(model, treatment.detector, finds_segments=self._transcriber is not None)
        self._segments: list[SpeechSegment] = []
        self._transcripts: list[str] = []  # of the segments
        self._embeddings: list[torch.Tensor | None] = []  # of the segments
        self._sides: tuple[Overview, ...] = ()
        self._expert_use: dict[str, Columns] = {}
        self._writer: BlockWriter | None = None
        self._samples = 0

    def windows(self) -> Iterator[Window]:
        """Yields the windows while reading."""
        cutter = WindowCutter(self._treatment.chunk_length_s, self._treatment.stride_length_s)
        with self._reader:
            for block in self._reader:
                yield from cutter.add(block)
        yield from cutter.finish()

    def add(self, window: Window, output: WindowOutput) -> None:
        """Adds the output of the next window.

        Args:
            window: the window.
            output: the output of the model.

        Raises:
            ValueError: the enhanced file belongs to another recording.
            OutputError: nothing more can be written.
        """
        joined, ended = self._assembler.add(window, output)
        self._segments += ended
        if self._transcriber is not None:
            self._transcripts += self._transcriber.add(window.piece, ended, self._assembler.next_start)
        if self._embedder is not None:
            self._embeddings += self._embedder.add(window.piece, ended, self._assembler.next_start)
        self._samples = window.end
        if self._treatment.plot:
            self._look(window.piece, joined.get(ENHANCEMENT), output.expert_use)
        if ENHANCEMENT in self._model.asked:
            with output_errors():
                if self._writer is None:
                    self._writer = self._opened()
                self._writer.write(joined[ENHANCEMENT])

    @property
    def lines(self) -> int:
        """Number of records of the recording, one for each of its tracks."""
        return self._lines

    @property
    def utterances(self) -> list[tuple[float, torch.Tensor | None, str | None]]:
        """Start in seconds, speech embedding and text of each segment, as `Context.emotions` takes them."""
        texts: Sequence[str | None] = self._transcripts or [None] * len(self._segments)
        starts = [segment.start_s for segment in self._segments]
        return list(zip(starts, self._embeddings, texts, strict=True))

    def finish(self, context: Sequence[ContextEmotion] | None = None) -> dict[str, Any]:
        """Writes the files after all windows were added; returns the record, a line of `results.jsonl`.

        Args:
            context: the emotion of each segment in the context of the others; None without a conversation model.

        Raises:
            ValueError: the enhanced file belongs to another recording.
        """
        if self._results is not None and not self._results.owns(self._recording, self._target):
            raise ValueError(
                f"{self._target} belongs to another recording and is not replaced. Give another folder with --output."
            )
        outputs = self._pipe.clip_results(
            self._segments, self._samples, self._model.clip_tasks, self._treatment.min_score
        )
        if "segments" in outputs:
            segments = self._with_distress(self._transcribed(outputs["segments"]))
            if context is not None:
                segments = [{**each, "context": own} for each, own in zip(segments, context, strict=True)]
            outputs["segments"] = segments
        enhanced = None if self._writer is None else str(self._target)
        record = {"file": str(self._recording.path), **track_record(self._pipe, self._reader, outputs, enhanced)}
        if self._treatment.transcriber is not None:
            record["transcript"] = self._transcript()
        with output_errors():
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._write_further_files(record)
            if self._writer is None:
                self._keep(record)
            else:
                with replacing(self._target) as temporary:
                    self._writer.finish(temporary, self._own_length())
                    self._keep(record)
        return record

    def close(self) -> None:
        """Removes unfinished files."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> BlockWriter:
        folder = self._target.parent
        folder.mkdir(parents=True, exist_ok=True)
        return BlockWriter(folder, SAMPLING_RATE, self._treatment.rate or self._reader.own_rate)

    def _own_length(self) -> int:
        """Number of samples of the enhanced file, which is as long as the recording."""
        rate = self._treatment.rate or self._reader.own_rate
        return round(self._reader.own_samples * rate / self._reader.own_rate)

    def _look(self, noisy: np.ndarray, enhanced: np.ndarray | None, expert_use: dict[str, np.ndarray]) -> None:
        if not self._sides:
            self._sides = tuple(Overview(SAMPLING_RATE) for _ in range(1 if enhanced is None else 2))
        for side, block in zip(self._sides, (noisy, enhanced), strict=False):
            if block is not None:
                side.add(block)
        for task, shares in expert_use.items():
            columns = self._expert_use.get(task, no_columns(shares.shape[1]))
            self._expert_use[task] = columns.plus(shares)

    def _transcribed(self, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._transcriber is None:
            return segments
        pairs = zip(segments, self._transcripts, strict=True)
        return [{**segment, "transcript": transcript} for segment, transcript in pairs]

    def _with_distress(self, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self._treatment.distress:
            return segments
        labels = self._treatment.distress
        task = task_with_labels(self._pipe.model.tasks, self._pipe.model.config, labels)
        curve = distress_curve(segments, task, labels)
        return [{**segment, "distress": value} for segment, value in zip(segments, curve, strict=True)]

    def _transcript(self) -> str | None:
        if isinstance(folder := self._treatment.transcriber, Path):
            return read_transcript(folder, self._recording.path, self._number)
        return " ".join(filter(None, self._transcripts))

    def _write_further_files(self, record: dict[str, Any]) -> None:
        """Writes the figure and the file of the segments, if requested."""
        if self._treatment.plot:
            self._plot(record)
        if self._treatment.segments is not None and "segments" in record:
            labels, number = TASKS[EMOTION].describe(self._pipe.model.config)["labels"], self._number or 1
            path = segments_path(self._target, self._treatment.segments)
            name, context = self._recording.path.name, self._treatment.context
            write_segments(
                path,
                record["segments"],
                self._treatment.segments,
                labels,
                name,
                int(number),
                has_transcripts=self._transcriber is not None,
                has_distress=bool(self._treatment.distress),
                context_labels=() if context is None else context.labels,
                context_experts=() if context is None else context.experts,
            )

    def _plot(self, record: dict[str, Any]) -> None:
        noisy, enhanced = (*self._sides, None)[:2]
        assert noisy is not None  # it was drawn block by block
        band, segments = self._reader.own_rate / 2, record.get("segments")
        with _one_drawing:
            figure = plot_recording(
                noisy, enhanced, record["scores"], self._recording.path.name, band, segments, self._expert_use
            )
            save_figure(figure, picture_path(self._target))

    def _keep(self, record: dict[str, Any]) -> None:
        if self._results is not None:
            self._results.add(self._recording, record, self._target, self._lines)


def finish_tracks(tracks: Sequence[Track], context: Context | None = None) -> list[dict[str, Any]]:
    """Writes the files of the tracks of a recording; returns their records.

    Args:
        tracks: the tracks, after all their windows were added.
        context: the conversation model, which takes the segments of all tracks; None for none.

    Raises:
        ValueError: an enhanced file belongs to another recording.
    """
    if context is None:
        return [track.finish() for track in tracks]
    emotions = context.emotions([track.utterances for track in tracks])
    return [track.finish(own) for track, own in zip(tracks, emotions, strict=True)]


@contextmanager
def open_tracks(
    recording: Recording,
    pipe: SpeechEnhancementAndEmotionPipeline,
    model: WindowModel,
    treatment: Treatment,
    results: Results | None = None,
) -> Iterator[list[Track]]:
    """Opens the tracks of a recording: one, or one per channel if the channel is "each".

    Args:
        recording: the recording.
        pipe: turns outputs into results.
        model: runs the windows.
        treatment: options of the processing.
        results: stores the records; None stores none.

    Raises:
        ValueError: the file is not a recording, damaged, too short, or lacks the channel.
        OSError: the file cannot be read.
    """
    if recording.error:
        raise ValueError(recording.error)
    with ExitStack() as stack:
        source = recording.path if recording.source else _source_of(recording.path, stack)
        channel = 1 if treatment.channel == "each" else treatment.channel
        readers = [BlockReader(source, SAMPLING_RATE, channel)]
        if treatment.channel == "each":
            others = range(2, readers[0].channels + 1)
            readers += [BlockReader(source, SAMPLING_RATE, number) for number in others]
        is_numbered = readers[0].channels > 1 and treatment.channel != "mix"
        tracks = []
        for reader in readers:
            number = reader.number if is_numbered else None
            track = Track(recording, reader, number, len(readers), pipe, model, treatment, results)
            stack.callback(track.close)
            tracks.append(track)
        yield tracks


def track_record(
    pipe: SpeechEnhancementAndEmotionPipeline, reader: BlockReader, outputs: dict[str, Any], enhanced: str | None
) -> dict[str, Any]:
    """The fields of a line of `results.jsonl` that describe a track and its results.

    Args:
        pipe: the pipeline that computed the results.
        reader: read the track completely.
        outputs: results of the track, from `clip_results`.
        enhanced: where the enhanced speech is; None if there is none.
    """
    scores = {entry["label"]: round(entry["score"], 6) for entry in outputs.get(EMOTION, ())}
    has_emotion = scores and "reason" not in outputs
    further = {name: _plain(outputs[name]) for name in further_tasks(pipe.model.tasks) if name in outputs}
    speech = (
        {"segments": outputs["segments"], "speech_seconds": _speech_seconds(outputs)} if EMOTION in outputs else {}
    )
    return {
        "seconds": round(reader.own_samples / reader.own_rate, 3),
        "sampling_rate": reader.own_rate,
        "emotion": next(iter(scores)) if has_emotion else None,
        **({"reason": outputs["reason"]} if "reason" in outputs else {}),
        "scores": dict(sorted(scores.items())),
        **({"temperature": pipe.temperature} if scores and pipe.calibration else {}),
        "enhanced": enhanced,
        **reader.facts,
        **speech,
        **({"task_outputs": further} if further else {}),
    }


def failure(recording: Recording, error: BaseException) -> dict[str, str]:
    """The record of a failed recording.

    Args:
        recording: the recording.
        error: the reason of the failure.
    """
    return {"file": str(recording.path), "error": one_line(error)}


def _source_of(path: Path, stack: ExitStack) -> BinaryIO:
    """Opens standard input or a pipe, from which several tracks may be read."""
    source = sys.stdin.buffer if path == STDIN else stack.enter_context(path.open("rb"))
    return stack.enter_context(rewindable(source))


def _plain(output: Any) -> Any:
    """The output of a task, JSON-serializable."""
    return output.tolist() if isinstance(output, np.ndarray) else output


def _speech_seconds(outputs: dict[str, Any]) -> float:
    return round(sum((segment["end"] - segment["start"] for segment in outputs["segments"]), 0.0), 3)

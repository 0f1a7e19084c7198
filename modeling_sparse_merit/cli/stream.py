# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit stream`: processes live audio in a pipe.

torch uses one thread unless `--threads` is given: windows of 2 s are too short for more with the embedded checkpoints,
and on a busy CPU, waiting threads make it several times slower.
"""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from .options import (
    DeviceOption,
    ModelOption,
    Precision,
    RevisionOption,
    Vad,
    errors_in_one_line,
    load_pipeline,
    quieten_notices,
    speech_detector,
)
from .printing import INTERRUPTED

if TYPE_CHECKING:
    from ..inference.pcm import PcmReader
    from ..models.sparse_merit.cutting import Stride
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.streaming import StreamingEnhancer, StreamOutput

STDIN, STDOUT = 0, 1
PIPE_BYTES = 1 << 20  # buffer for audio that arrives while the model is loaded, 30 s of speech at 16 kHz


class RawFormat(StrEnum):
    """Encodings of raw PCM."""

    S16LE = "s16le"
    S32LE = "s32le"
    F32LE = "f32le"


@dataclass(frozen=True)
class Options:
    """Options of `sparse-merit stream`.

    Args:
        stream: arguments of `pipe.stream` other than rate and tasks.
        vad: voice activity detector.
        threads: number of CPU threads of torch.
        has_audio: whether enhanced audio is written to standard output.
        event_files: file descriptors to which events are written as lines of JSON.
        quiet: print errors only.
    """

    stream: dict[str, Any]
    vad: Vad
    threads: int
    has_audio: bool
    event_files: tuple[int, ...]
    quiet: bool


def stream(
    source: Annotated[str, typer.Argument(help="- for standard input, or the path of a pipe or file.")],
    raw_format: Annotated[
        RawFormat | None, typer.Option("--format", help="Encoding of raw PCM, s16le by default; a WAV states its own.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Sampling rate of raw PCM in Hz, 16000 by default; a WAV states its own.", min=1)
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Channels of raw PCM, 1 by default; a WAV states its own.", min=1)
    ] = None,
    channel: Annotated[str, typer.Option(help="mix (mean of the channels), left, right, or a number from 1.")] = "mix",
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print segments and changes of emotion as lines of JSON instead of audio.")
    ] = False,
    segments: Annotated[
        Path | None, typer.Option(help="Write the lines of --json to this file, in addition to the audio on stdout.")
    ] = None,
    model: ModelOption = None,
    min_score: Annotated[
        float,
        typer.Option(help="Emotions with a smaller (calibrated) score are reported as unsure.", min=0, max=1),
    ] = 0.0,
    vad: Annotated[
        Vad,
        typer.Option(help="Voice activity detector: silero (extra vad), level, or auto (silero if installed)."),
    ] = Vad.AUTO,
    chunk_length: Annotated[
        float | None,
        typer.Option(help="Window in seconds, 2 by default; with --stride-length, it determines the latency."),
    ] = None,
    stride_length: Annotated[
        str | None,
        typer.Option(
            metavar="LEFT,RIGHT",
            help="Past and future context of a window in seconds, 1.6,0.08 by default; or one number for both.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="CPU threads of the model; large models are faster with more.", min=1)
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    device: DeviceOption = None,
    precision: Annotated[Precision, typer.Option(help="bf16 and int8 are for large models.")] = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Enhance live audio in a pipe and track its emotion: raw PCM or WAV in, raw PCM or lines of JSON out.

    The audio on stdout is mono at the rate of the input, in s16le (f32le if the input is f32le). Every block is
    written as soon as it is final.

    Example: sparse-merit stream - --rate 16000 --json < call.pcm
    """
    with errors_in_one_line(), _quiet_ends(), ExitStack() as stack:
        windows = {"chunk_length_s": chunk_length, "stride_length_s": _stride(stride_length), "min_score": min_score}
        given = {"encoding": raw_format and raw_format.value, "sampling_rate": rate, "channels": channels}
        file = _Input(source, stack)
        if not json_lines and os.isatty(STDOUT):
            raise ValueError("Standard output is a terminal: send the audio to a file or a program, or give --json.")
        from ..inference.pcm import PcmReader

        reader = PcmReader(file, file.name, {name: value for name, value in given.items() if value}, channel)
        event_files = [STDOUT] if json_lines else []
        if segments is not None:
            event_files.append(stack.enter_context(segments.open("wb", buffering=0)).fileno())
        known = {name: value for name, value in windows.items() if value is not None}
        options = Options(known, vad, threads, not json_lines, tuple(event_files), quiet)
        if quiet:
            quieten_notices()
        pipe = load_pipeline(model, device, precision.value, revision)
        file.end_at_interrupt()
        _run(pipe, reader, options)
        if file.is_interrupted:
            raise KeyboardInterrupt


class _Input:
    """Reads available input without waiting for more.

    Args:
        source: `-` for standard input, or a path.
        stack: closes the file at the end.
    """

    def __init__(self, source: str, stack: ExitStack):
        from ..models.sparse_merit.audio import open_recording

        self.name, self._descriptor = "Standard input", STDIN
        if source != "-":
            file: BinaryIO = stack.enter_context(open_recording(source))
            self.name, self._descriptor = source, file.fileno()
        if os.isatty(self._descriptor):
            raise ValueError(f"{self.name} is a terminal: pipe audio into the command.")
        self.is_interrupted = self._is_reading = False
        _widen_pipe(self._descriptor)

    def __call__(self, size: int) -> bytes:
        """Reads at most `size` bytes; none at the end."""
        try:
            self._is_reading = True
            return b"" if self.is_interrupted else os.read(self._descriptor, size)
        except KeyboardInterrupt:
            if not self.is_interrupted:
                raise
            return b""
        finally:
            self._is_reading = False

    def end_at_interrupt(self) -> None:
        """From now on, Ctrl-C ends the input; a second one ends the command."""
        if (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):  # otherwise it is ignored, as by shells in the background
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.is_interrupted = True
        if self._is_reading:
            raise KeyboardInterrupt


def _widen_pipe(descriptor: int) -> None:
    """Enlarges the buffer of a pipe, if the system supports it, for audio that arrives while the model is loaded."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


@contextmanager
def _quiet_ends() -> Iterator[None]:
    """Exits without a message if the reader of the output is closed, and after Ctrl-C."""
    try:
        yield
    except BrokenPipeError:
        return
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _stride(text: str | None) -> "Stride | None":
    """Parses the context in seconds from "LEFT,RIGHT" or one number."""
    if text is None:
        return None
    try:
        sides = tuple(float(side) for side in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise ValueError(f"--stride-length is {text!r}; expected LEFT,RIGHT or one number, in seconds.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _run(pipe: "SpeechEnhancementAndEmotionPipeline", reader: "PcmReader", options: Options) -> None:
    """Runs the model on the stream until its end."""
    import torch

    from ..models.sparse_merit.audio import check_length

    torch.set_num_threads(options.threads)
    enhancer = _enhancer(pipe, reader.format.sampling_rate, options)
    if not options.quiet:
        typer.echo(_latency(enhancer), err=True)
    write = _Writer("f32le" if reader.format.encoding == "f32le" else "s16le", options)
    for block in reader:
        write(enhancer.process(block))
    for note in () if options.quiet else reader.notes:
        typer.echo(f"Note: {note}", err=True)
    check_length(reader.samples, reader.format.sampling_rate, reader.name)
    write(enhancer.finish())


def _enhancer(
    pipe: "SpeechEnhancementAndEmotionPipeline", sampling_rate: int, options: Options
) -> "StreamingEnhancer":
    """Opens a stream of the pipeline with the required tasks.

    Raises:
        ValueError: the model lacks a task.
    """
    from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT

    needed = {ENHANCEMENT: options.has_audio, EMOTION: bool(options.event_files)}
    tasks = tuple(task for task, is_needed in needed.items() if is_needed)
    if missing := [task for task in tasks if task not in pipe.model.config.tasks]:
        raise ValueError(f"The model lacks the task {missing[0]}; its tasks are {', '.join(pipe.model.config.tasks)}.")
    detector = speech_detector(options.vad)[1] if EMOTION in tasks else None
    return pipe.stream(sampling_rate, tasks=tasks, detector=detector, **options.stream)


def _latency(enhancer: "StreamingEnhancer") -> str:
    left, piece, right = enhancer.window_s
    return (
        f"Latency at most {enhancer.latency_ms:.0f} ms, excluding computation; window {left + piece + right:g} s: "
        f"{left:g} s past, {piece:g} s new, {right:g} s look-ahead"
    )


class _Writer:
    """Writes final output immediately.

    Args:
        encoding: encoding of the audio.
        options: determine what is written where, and the smallest score of an emotion.
    """

    def __init__(self, encoding: str, options: Options):
        self._encoding, self._options = encoding, options
        self._label: str | None = None
        self._has_label = False

    def __call__(self, output: "StreamOutput") -> None:
        from ..inference.pcm import encode_pcm

        if self._options.has_audio:
            _write(STDOUT, encode_pcm(output.audio, self._encoding))
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in self._events(output))
        for descriptor in self._options.event_files:
            _write(descriptor, lines.encode())

    def _events(self, output: "StreamOutput") -> Iterable[dict[str, Any]]:
        """Segments that have ended, and changes of the emotion."""
        yield from output.segments
        if not output.emotion:
            return
        score = output.emotion[0]["score"]
        label = output.emotion[0]["label"] if score >= self._options.stream["min_score"] else None
        if not self._has_label or label != self._label:
            self._label, self._has_label = label, True
            yield {"time": round(output.seconds, 3), "emotion": label, "score": round(score, 6)}


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common parts of the commands: options, loading a checkpoint, one-line errors, quiet libraries."""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .. import DEFAULT_CHECKPOINT
from ..files import OutputError, one_line
from ..inference.segments import SegmentFormat
from ..models.sparse_merit.sources import PACKAGE, locate

if TYPE_CHECKING:
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.streaming import DetectorFactory

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name of an embedded checkpoint, or folder or Hub id of a checkpoint or of adapters; "
        f"{DEFAULT_CHECKPOINT.name} by default.",
    ),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch or commit of a model on the Hub; main by default.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...; by default the fastest available.")
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")]
ChannelOption = Annotated[
    str,
    typer.Option(help="mix (mean of the channels), left, right, a number from 1, or each (all channels separately)."),
]
RateOption = Annotated[
    int | None,
    typer.Option(
        help="Sampling rate of the output in Hz; by default that of each recording. The model works at 16 kHz, so "
        "enhanced speech has no content above 8 kHz at any rate.",
        min=4_000,
    ),
]
PlotOption = Annotated[bool, typer.Option("--plot", help="Also draw a PNG for each recording.")]
SegmentsOption = Annotated[
    SegmentFormat | None,
    typer.Option(help="Also write the emotion of each speech segment to NAME.segments.csv, .vtt or .rttm."),
]
MinScoreOption = Annotated[
    float, typer.Option(help="Emotions with a smaller (calibrated) score are reported as unsure.", min=0, max=1)
]
EmotionsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME_OR_FILE",
        help="Also recognise further emotions: the name of a task that comes with the checkpoint, such as six, or a "
        "file of `export --task`.",
    ),
]
DistressOption = Annotated[
    str,
    typer.Option(
        metavar="LABEL,...",
        help="Also add up and smooth the scores of these emotions, such as angry,fear, over the segments of speech.",
    ),
]
ChunkLengthOption = Annotated[
    float | None,
    typer.Option(help="Longest window in seconds, 10 by default; longer recordings are cut at quiet positions."),
]
StrideLengthOption = Annotated[
    float | None, typer.Option(help="Context on both sides of a window in seconds, 0.04 by default.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


class Precision(StrEnum):
    """Precisions, passed to `from_pretrained` as `dtype`."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


class Vad(StrEnum):
    """Voice activity detectors."""

    AUTO = "auto"
    SILERO = "silero"
    LEVEL = "level"


VadOption = Annotated[
    Vad,
    typer.Option(
        help="Voice activity detector: silero (Silero VAD, from the extra vad), level (simple: mistakes some "
        "noises for speech), or auto (silero if installed)."
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="bf16 and int8 need less memory, but are slower with the embedded checkpoints.")
]


def load_pipeline(
    model: str | None,
    device: str | None,
    precision: str = "fp32",
    revision: str | None = None,
    further_tasks: Sequence[str] = (),
) -> "SpeechEnhancementAndEmotionPipeline":
    """Loads a checkpoint quietly.

    Args:
        model: name, folder or Hub id of a checkpoint; None is the default checkpoint.
        device: torch device; None is the fastest available.
        precision: "fp32", "bf16" or "int8".
        revision: branch or commit of a model on the Hub.
        further_tasks: names or files of tasks to add.

    Raises:
        OSError: the checkpoint or a task does not exist.
        ValueError: the checkpoint or the device is not usable.
    """
    source = resolve_model(model, revision)
    with _no_garbage_collection():
        import torch
        from transformers.utils import logging as transformers_logging

        from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"Device {device!r} is not usable here: {one_line(error)}") from error
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(
        source, device=device, dtype=precision, revision=revision, further_tasks=further_tasks
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disables garbage collection during imports, which create many permanent objects; this makes short commands
    noticeably faster.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def resolve_model(model: str | None, revision: str | None) -> str:
    """Resolves `--model` to an existing folder or a Hub id.

    Args:
        model: name of an embedded checkpoint, folder or Hub id; None is the default checkpoint.
        revision: branch or commit of a model on the Hub.

    Raises:
        FileNotFoundError: the embedded checkpoint is missing.
        ValueError: a revision was given for a local folder.
    """
    if model is None and not (DEFAULT_CHECKPOINT / "config.json").exists():
        raise FileNotFoundError("This installation lacks the embedded checkpoint: reinstall it or give --model.")
    source = locate(model or DEFAULT_CHECKPOINT)
    if revision is not None and Path(source).is_dir():
        raise ValueError(
            f"--revision {revision} applies to models on the Hub only: give a Hub id with --model, or leave it out."
        )
    return source


def speech_detector(vad: Vad) -> "tuple[str, DetectorFactory | None]":
    """The name of a voice activity detector, and its factory; None for the detector of the pipeline.

    Raises:
        ImportError: Silero VAD was requested but is not installed.
    """
    has_silero = find_spec("silero_vad") is not None and find_spec("onnxruntime") is not None
    if vad is Vad.LEVEL or (vad is Vad.AUTO and not has_silero):
        return Vad.LEVEL.value, None
    from ..inference.silero import SileroDetector

    SileroDetector()  # raises if a package is missing
    return Vad.SILERO.value, SileroDetector


def quieten_notices() -> None:
    """Hides log messages of the package below errors, such as the licence of an embedded checkpoint."""
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)


def quieten_hub_client() -> None:
    """Hides messages about repeated connection attempts, and progress bars where there is no terminal."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


def quieten_datasets() -> None:
    """Hides hints at options that this command does not have, and progress bars where there is no terminal."""
    from datasets import disable_progress_bars
    from datasets.utils import logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


USER_ERRORS = (OSError, ValueError, ImportError, ArithmeticError, RecursionError, OutputError)


@contextmanager
def needing_datasets() -> Iterator[None]:
    """Says what to install if an import of modules that read datasets fails.

    Raises:
        ImportError: a package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}. Datasets need: pip install 'modeling-sparse-merit[train]'") from error


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turns an error that the user can fix into one line on stderr and exit code 2.

    Raises:
        typer.Exit: with code 2, in place of the error.
    """
    try:
        yield
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError  # of a configuration

        if not isinstance(error, (*USER_ERRORS, StrictDataclassError)):
            raise
        typer.secho(printable(f"Error: {one_line(error)}"), fg="red", err=True)
        raise typer.Exit(2) from error


def printable(text: str) -> str:
    """Replaces bytes of a file name that are not UTF-8 by question marks, so that terminals can show it."""
    return text.encode("utf-8", errors="replace").decode("utf-8")

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: options, loading of a checkpoint, errors in one line, quiet libraries."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .. import DEFAULT_CHECKPOINT
from ..files import one_line
from ..models.sparse_merit.sources import PACKAGE, locate

if TYPE_CHECKING:
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.streaming import DetectorFactory

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="The name of a checkpoint inside the package, or a folder or a Hub id of a checkpoint or of adapters; "
        f"{DEFAULT_CHECKPOINT.name} by default.",
    ),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch or commit of a model on the Hub; main by default.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...; the fastest there is by default.")
]


class Precision(StrEnum):
    """What `from_pretrained` takes as `dtype`."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


class Vad(StrEnum):
    """What finds speech."""

    AUTO = "auto"
    SILERO = "silero"
    LEVEL = "level"


def load_pipeline(
    model: str | None, device: str | None, precision: str = "fp32", revision: str | None = None
) -> "SpeechEnhancementAndEmotionPipeline":
    """Loads a checkpoint quietly.

    Raises:
        OSError: there is no such checkpoint. ValueError: it, or the device, is not usable.
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
        source, device=device, dtype=precision, revision=revision
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For imports, which make many objects, all to stay: garbage is not looked for among them, then and at exit, which
    takes a good part of a short command's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def resolve_model(model: str | None, revision: str | None) -> str:
    """Returns a folder that exists, or a Hub id, which alone has revisions."""
    if model is None and not (DEFAULT_CHECKPOINT / "config.json").exists():
        raise FileNotFoundError("This installation lacks the embedded checkpoint: reinstall it or give --model.")
    source = locate(model or DEFAULT_CHECKPOINT)
    if revision is not None and Path(source).is_dir():
        raise ValueError(f"--revision {revision} is of a model on the Hub: give its id by --model, or leave it out.")
    return source


def speech_detector(vad: Vad) -> "tuple[str, DetectorFactory | None]":
    """The name of what finds speech, and what makes it; None for that of the pipeline.

    Raises:
        ImportError: Silero VAD is asked for and is not installed.
    """
    has_silero = find_spec("silero_vad") is not None and find_spec("onnxruntime") is not None
    if vad is Vad.LEVEL or (vad is Vad.AUTO and not has_silero):
        return Vad.LEVEL.value, None
    from ..inference.silero import SileroDetector

    SileroDetector()  # says now what is missing
    return Vad.SILERO.value, SileroDetector


def quieten_notices() -> None:
    """Leaves out what the package logs below errors, such as the licence of a checkpoint inside it."""
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)


def quieten_hub_client() -> None:
    """Leaves it to the one error at the end to say why several attempts to connect failed; bars are for terminals."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


def quieten_datasets() -> None:
    """Leaves out hints at options that this command does not have; bars are for terminals."""
    from datasets import disable_progress_bars
    from datasets.utils import logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turns an error that the user can fix into one line on stderr and exit code 2."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        typer.secho(printable(f"Error: {one_line(error)}"), fg="red", err=True)
        raise typer.Exit(2) from error


def printable(text: str) -> str:
    """Returns the text with a question mark for bytes of a file name that are no UTF-8, which no terminal takes."""
    return text.encode("utf-8", errors="replace").decode("utf-8")

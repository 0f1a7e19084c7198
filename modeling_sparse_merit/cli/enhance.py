# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit enhance` and `demo`."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import BATCH_SECONDS
from ..extras import import_extra
from ..files import OutputError
from ..inference.segments import SegmentFormat
from .options import (
    ChannelOption,
    ChunkLengthOption,
    DeviceOption,
    DistressOption,
    EmotionsOption,
    MinScoreOption,
    ModelOption,
    OutputOption,
    PlotOption,
    Precision,
    PrecisionOption,
    QuietOption,
    RateOption,
    RevisionOption,
    SegmentsOption,
    StrideLengthOption,
    Vad,
    VadOption,
    errors_in_one_line,
    load_pipeline,
    quieten_notices,
    speech_detector,
)
from .printing import INTERRUPTED, INTERRUPTION, Summary, print_json, print_results

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..inference.files import Recording
    from ..inference.results import Results, Settings
    from ..inference.tracks import Treatment
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.pipeline_speech_text import Transcriber

DEMO_RECORDING = Path(__file__).parents[1] / "demo" / "noisy_speech.flac"
LAUNCHED = "ACCELERATE_MIXED_PRECISION" in os.environ  # by `accelerate launch`, for one process or several


@dataclass(frozen=True)
class Options:
    """How `sparse-merit enhance` runs, and how it treats recordings: `treatment` has the fields of a `Treatment`."""

    treatment: dict[str, Any] = field(default_factory=dict)
    vad: Vad = Vad.AUTO
    batch_seconds: float = BATCH_SECONDS
    overwrite: bool = False
    quiet: bool = False
    transcribe: str | None = None
    context: str | None = None


def enhance(
    recordings: Annotated[
        list[str],
        typer.Argument(
            help="Audio files, folders (searched recursively), quoted globs, and - for standard input. "
            "M4A, WebM, WMA and others need ffmpeg."
        ),
    ],
    output: OutputOption = Path("enhanced"),
    model: ModelOption = None,
    channel: ChannelOption = "mix",
    rate: RateOption = None,
    plot: PlotOption = False,
    segments: SegmentsOption = None,
    min_score: MinScoreOption = 0.0,
    emotions: EmotionsOption = None,
    distress: DistressOption = "",
    transcribe: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL_OR_FOLDER",
            help="Also transcribe each speech segment with a model for speech recognition (its folder, or the Hub id "
            "of one that was downloaded), or read NAME.txt of each recording from a folder.",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also recognise the emotion of each speech segment in the context of the others, of all channels "
            "together, with a conversation model: its folder, or the Hub id of one that was downloaded.",
        ),
    ] = None,
    vad: VadOption = Vad.AUTO,
    chunk_length: ChunkLengthOption = None,
    stride_length: StrideLengthOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Process recordings again that an earlier run has finished.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print only the records, as in results.jsonl, on stdout.")
    ] = False,
    quiet: QuietOption = False,
    batch_seconds: Annotated[
        float, typer.Option(help="Seconds of audio in one batch, including padding.", min=1)
    ] = BATCH_SECONDS,
    device: DeviceOption = None,
    precision: PrecisionOption = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Enhance recordings and recognise their emotion. Writes NAME.enhanced.wav for each and results.jsonl for all.

    Interrupted runs resume: recordings that were processed with the same model and settings are skipped.

    On several processes or machines: accelerate launch --multi_gpu -m modeling_sparse_merit.cli enhance RECORDINGS

    Example: sparse-merit enhance recordings/ "more/*.mp3" -o clean
    """
    with errors_in_one_line():
        treatment = checked_treatment(channel, rate, plot, segments, min_score, distress, chunk_length, stride_length)
        options = Options(treatment, vad, batch_seconds, overwrite, quiet or json_lines, transcribe, context)
        load = partial(
            load_pipeline, model, precision=precision.value, revision=revision, further_tasks=emotions or ()
        )
        show = print_json if json_lines else None
        summary = _enhance_recordings(recordings, output, load, device, options, show)
    if summary is None:
        return
    print_results(summary, output, is_quiet=options.quiet)
    if summary.stopped == INTERRUPTION:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # at once: threads may still compute, or wait for a pipe
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo_results"),
    model: ModelOption = None,
) -> None:
    """Enhance the demo recording of the package, and print the paths of the results.

    Example: sparse-merit demo -o demo_results
    """
    recording = output / DEMO_RECORDING.name
    with errors_in_one_line():
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DEMO_RECORDING, recording)
        options = Options({"plot": True}, overwrite=True)
        summary = _enhance_recordings([str(recording)], output, partial(load_pipeline, model), None, options)
    assert summary is not None
    print_results(summary, output)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    enhanced = summary.shown[0]["enhanced"]
    typer.echo(f"Listen before:  {recording}")
    if enhanced is not None:
        typer.echo(f"Listen after:   {enhanced}")
    typer.echo(f"Look:           {recording.with_suffix('.enhanced.png')}")


def checked_treatment(
    channel: str,
    rate: int | None,
    plot: bool,
    segments: SegmentFormat | None,
    min_score: float,
    distress: str,
    chunk_length: float | None,
    stride_length: float | None,
) -> dict[str, Any]:
    """Fields of a `Treatment` from the options of a command.

    Args:
        channel, rate, plot, segments, min_score, distress, chunk_length, stride_length: the values of the options.

    Raises:
        ValueError: the channel or the windows are invalid.
    """
    from ..models.sparse_merit.audio import checked_channel
    from ..models.sparse_merit.cutting import WindowCutter

    given = {"chunk_length_s": chunk_length, "stride_length_s": stride_length}
    windows = {name: value for name, value in given.items() if value is not None}
    WindowCutter(**windows)  # raises if the options are invalid
    labels = tuple(filter(None, (label.strip() for label in distress.split(","))))
    fields = {"rate": rate, "plot": plot, "segments": segments, "min_score": min_score, **windows}
    return {**fields, "channel": checked_channel(channel), "distress": labels}


def load_treatment(
    load: "Callable[[str | None], SpeechEnhancementAndEmotionPipeline]", device: str | None, options: Options
) -> "tuple[SpeechEnhancementAndEmotionPipeline, Treatment, Settings]":
    """The pipeline, how it treats recordings, and the settings that identify the results.

    Args:
        load: loads the pipeline on a device.
        device: torch device; None is the fastest available.
        options: the options of the command.

    Raises:
        ImportError: an option needs a package that is not installed.
        FileNotFoundError: there is no such transcriber or conversation model.
        ValueError: an option needs a task that the model lacks, or the transcriber or the conversation model is
            another kind of model.
    """
    if options.treatment.get("plot"):
        import_extra("matplotlib", "demo")
    vad, detector = speech_detector(options.vad)
    pipe = load(device)
    needing = [name for name in ("segments", "context") if options.treatment.get(name) or getattr(options, name, None)]
    if needing and "emotion" not in pipe.model.config.tasks:
        tasks = ", ".join(pipe.model.config.tasks)
        raise ValueError(
            f"--{needing[0]} needs a model with the task emotion; this one has {tasks}. Leave the option out."
        )
    from ..inference.distress import task_with_labels
    from ..inference.results import settings_of
    from ..inference.tracks import Treatment

    if labels := options.treatment.get("distress"):
        task_with_labels(pipe.model.tasks, pipe.model.config, labels)
    transcriber, facts = _load_transcriber(options.transcribe, pipe)
    context = None
    if options.context is not None:
        from ..inference.context import load_context

        min_score = options.treatment.get("min_score", 0.0)
        context, facts["context"] = load_context(options.context, transcriber, pipe.device, min_score)
    treatment = Treatment(**options.treatment, detector=detector, transcriber=transcriber, context=context)
    return pipe, treatment, settings_of(pipe, vad=vad, **treatment.facts, **facts)


def _enhance_recordings(
    arguments: list[str],
    output: Path,
    load: "Callable[[str | None], SpeechEnhancementAndEmotionPipeline]",
    device: str | None,
    options: Options,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Summary | None:
    """Runs the model on all recordings that are not done yet, and writes all results.

    Args:
        load: loads the pipeline on a device.
        show: called at the end with the record of every recording, including those of earlier runs.

    Returns:
        The summary to print; None in other processes of `accelerate launch` than the first.
    """
    recordings = _find_recordings(arguments, output)
    state = _join_processes(device) if LAUNCHED else None
    if options.quiet or (state is not None and not state.is_main_process):
        quieten_notices()
    chosen = device or (None if state is None else str(state.device))
    pipe, treatment, settings = load_treatment(load, chosen, options)
    from ..inference.results import Results

    if isinstance(treatment.transcriber, Path):
        from ..inference.transcripts import check_transcripts

        check_transcripts(treatment.transcriber, recordings)
    process = 0 if state is None else state.process_index
    with Results(output, settings, options.overwrite, process) as results:
        recordings = results.placed(recordings) if process == 0 else []
        left = [recording for recording in recordings if not results.is_done(recording, treatment.further_files)]
        stopped = _run(pipe, results, left, treatment, options, state)
        if process != 0:
            return None
        results.close()
        summary = Summary(len(recordings), len(recordings) - len(left), stopped=stopped)
        try:
            results.sort(recordings)
        except OutputError:
            pass  # the lines are kept in the order of completion
        for record in results.records(left):
            summary.add(record)
        if show is not None:
            for record in results.records(recordings):
                show(record)
    return summary


def _load_transcriber(
    source: str | None, pipe: "SpeechEnhancementAndEmotionPipeline"
) -> "tuple[Transcriber | Path | None, dict[str, str]]":
    """The transcriber of `--transcribe`, and what the records depend on: nothing without the option."""
    if source is None:
        return None, {}
    from ..inference.transcripts import load_transcriber

    transcriber, identity = load_transcriber(source, pipe.device)
    return transcriber, {"transcriber": identity}


def _run(
    pipe: "SpeechEnhancementAndEmotionPipeline",
    results: "Results",
    left: "list[Recording]",
    treatment: "Treatment",
    options: Options,
    state: "PartialState | None",
) -> str | None:
    """Processes this process's share; returns the reason if it stopped early, else None."""
    from ..inference.batching import enhance_recordings

    if state is not None:
        from ..inference.distributed import share_of

        left = share_of(left, state)
    is_shown = not options.quiet and (state is None or state.is_main_process)
    stopped = None
    try:
        with _progress(is_shown) as progress:
            for _ in enhance_recordings(pipe, left, options.batch_seconds, results, progress, **vars(treatment)):
                pass  # its line is in the folder
    except OutputError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = INTERRUPTION
    if state is not None:
        state.wait_for_everyone()
        state.destroy_process_group()
    return stopped


def _join_processes(device: str | None) -> "PartialState":
    try:
        from ..inference.distributed import join_processes
    except ImportError as error:
        raise ImportError(f"{error}. Several processes need: pip install 'modeling-sparse-merit[train]'") from error
    return join_processes(device)


@contextmanager
def _progress(is_shown: bool) -> Iterator[Callable[[float, float], None]]:
    """Shows a progress bar that counts seconds of audio; yields the function that advances it.

    The bar uses its own file descriptor, because decoding MP3 files redirects stderr.
    """
    if not (is_shown and Console(stderr=True).is_terminal):
        yield lambda done, total: None
        return
    with open(os.dup(2), "w", encoding="utf-8") as stderr:
        columns = (TextColumn("Enhancing"), BarColumn(), TextColumn("{task.fields[audio]}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(file=stderr), transient=True) as bars:
            task = bars.add_task("", total=None, audio="")

            def advance(done: float, total: float) -> None:
                audio = f"{_clock(done)} of {_clock(total)} of audio, left"
                bars.update(task, completed=done, total=total, audio=audio)

            yield advance


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _find_recordings(arguments: list[str], output: Path) -> "list[Recording]":
    """Finds the recordings.

    Raises:
        FileNotFoundError: there are no recordings.
    """
    from ..inference.files import ENHANCED_SUFFIX, find_recordings

    recordings, skipped = find_recordings(arguments, output)
    if all(recording.error for recording in recordings):
        passed_over = f" ({skipped} *{ENHANCED_SUFFIX} of an earlier run were skipped)" if skipped else ""
        raise FileNotFoundError(
            f"No recording found in {', '.join(arguments)}{passed_over}: give audio files, folders or globs."
        )
    return recordings

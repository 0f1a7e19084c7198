# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit enhance` and `demo`."""

import json
import logging
import os
import shutil
import sys
import time
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
from ..files import OutputError, one_line
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
    from ..inference.corpora import Loaded
    from ..inference.files import Recording
    from ..inference.results import Results, Settings
    from ..inference.tracks import Treatment
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.pipeline_speech_text import Transcriber

DEMO_RECORDING = Path(__file__).parents[1] / "demo" / "noisy_speech.flac"


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


@dataclass(frozen=True)
class Pool:
    """Actors of a Ray cluster: its address, their number, and the GPUs of each."""

    address: str
    actors: int
    gpus: float


def enhance(
    recordings: Annotated[
        list[str],
        typer.Argument(
            help="Audio files, folders (searched recursively), quoted globs, - for standard input, and with --ray "
            "URLs. M4A, WebM, WMA and others need ffmpeg."
        ),
    ],
    output: OutputOption = "enhanced",
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
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Use the actors of a Ray cluster: its address, auto for a running one, or local to start one here. "
            "RECORDINGS and --output may then be URLs, such as s3://BUCKET/FOLDER.",
        ),
    ] = None,
    actors: Annotated[int, typer.Option(help="Number of actors with --ray.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of each actor; a fraction shares a GPU.", min=0)] = 0.0,
) -> None:
    """Enhance recordings and recognise their emotion. Writes NAME.enhanced.wav for each and results.jsonl for all.

    Interrupted runs resume: recordings that were processed with the same model and settings are skipped.

    Example: sparse-merit enhance recordings/ "more/*.mp3" -o clean
    """
    with errors_in_one_line():
        treatment = checked_treatment(channel, rate, plot, segments, min_score, distress, chunk_length, stride_length)
        options = Options(treatment, vad, batch_seconds, overwrite, quiet or json_lines, transcribe, context)
        load = partial(
            load_pipeline, model, precision=precision.value, revision=revision, further_tasks=emotions or ()
        )
        show = print_json if json_lines else None
        if ray is not None:
            pool = Pool(ray, actors, gpus)
            summary = _enhance_corpus(
                recordings, output, partial(load_treatment, load, device, options), options, pool, show
            )
        else:
            if urls := [place for place in (*recordings, output) if "://" in place]:
                raise ValueError(f"{urls[0]} is a URL, which needs --ray: add --ray local, or give files and folders.")
            summary = _enhance_recordings(recordings, Path(output), load, device, options, show)
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
    print_results(summary, str(output))
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
) -> Summary:
    """Runs the model on all recordings that are not done yet, and writes all results.

    Args:
        load: loads the pipeline on a device.
        show: called at the end with the record of every recording, including those of earlier runs.
    """
    recordings = _find_recordings(arguments, output)
    if options.quiet:
        quieten_notices()
    pipe, treatment, settings = load_treatment(load, device, options)
    from ..inference.results import Results

    if isinstance(treatment.transcriber, Path):
        from ..inference.transcripts import check_transcripts

        check_transcripts(treatment.transcriber, recordings)
    with Results(output, settings, options.overwrite) as results:
        recordings = results.placed(recordings)
        left = [recording for recording in recordings if not results.is_done(recording, treatment.further_files)]
        stopped = _run(pipe, results, left, treatment, options)
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


def _enhance_corpus(
    arguments: list[str],
    output: str,
    load: "Callable[[], Loaded]",
    options: Options,
    pool: Pool,
    show: Callable[[dict[str, Any]], None] | None,
) -> Summary:
    """Runs actors on all recordings that are not done yet, and writes all results; arguments as above."""
    ray = import_extra("ray", "ray")
    import_extra("ray.data", "ray")
    from ..inference.ray_corpora import enhance_dataset, read_sources

    if options.quiet:
        quieten_notices()
    started = time.time_ns()
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(pool.address, log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        with _progress(not options.quiet) as progress:
            rows = enhance_dataset(
                read_sources(arguments),
                output,
                load,
                actors=pool.actors,
                num_gpus=pool.gpus,
                batch_seconds=options.batch_seconds,
                overwrite=options.overwrite,
                progress=progress,
            ).to_pandas()
    except KeyboardInterrupt:
        typer.secho("Stopped: interrupted. Run the command again to resume.", fg="red", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except ray.exceptions.RayError as error:
        raise OutputError(f"{one_line(error)[-500:]}. Run the command again to resume") from error
    finally:
        ray.shutdown()
    is_new = rows["finished_ns"] > started
    summary = Summary(rows["path"].nunique(), rows["path"][~is_new].nunique())
    for record in map(json.loads, rows["record"][is_new]):
        summary.add(record)
    if show is not None:
        for record in map(json.loads, rows["record"]):
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
) -> str | None:
    """Processes recordings; returns the reason if it stopped early, else None."""
    from ..inference.batching import enhance_recordings

    try:
        with _progress(not options.quiet) as progress:
            for _ in enhance_recordings(pipe, left, options.batch_seconds, results, progress, **vars(treatment)):
                pass  # its line is in the folder
    except OutputError as error:
        return str(error)
    except KeyboardInterrupt:
        return INTERRUPTION
    return None


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

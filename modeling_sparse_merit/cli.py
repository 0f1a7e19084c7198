# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The command `sparse-merit`: enhance, demo, info, evaluate, prepare, convert, export, push.

torch and transformers are imported inside the commands, so that `sparse-merit --help` answers at once. Exit codes:
0 all went well, 1 some recordings failed (they are listed, the rest is done), 2 nothing could be done, or the disk is
full, 130 interrupted.
"""

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import BATCH_SECONDS, DEFAULT_CHECKPOINT, __version__
from .files import OutputError

if TYPE_CHECKING:
    from accelerate import PartialState

    from .audio import Channel
    from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from .recordings import Recording
    from .results import Results

CORPORA = {
    "ravdess": "RAVDESS, from its file names.",
    "emodb": "EmoDB, from its file names.",
    "nemo": "nEMO, from its list or its file names.",
    "msp_podcast": "MSP-Podcast, from its consensus labels.",
    "folder": "Any folder with a metadata.csv, such as a private corpus.",
    "noise": "A folder of noises or room impulse responses.",
    "noisy": "A frozen noisy test set of speech tables and noise tables.",
    "descriptors": "A speech table with acoustic descriptors, at several speeds.",
    "synthetic_noise": "Synthetic noises, and babble of speech tables.",
}
DEMO_RECORDING = Path(__file__).parent / "demo" / "noisy_speech.flac"
MAX_TABLE_ROWS = 100
MIN_FILE_WIDTH = 14  # cells for paths
INTERRUPTION = "interrupted"
INTERRUPTED = 130  # exit code of a command that Ctrl-C stopped
LAUNCHED = "ACCELERATE_MIXED_PRECISION" in os.environ  # by `accelerate launch`, for one process or several

app = typer.Typer(
    name="sparse-merit",
    help="Clean noisy speech and recognise its emotion.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Folder or Hub id of a checkpoint; the embedded one by default.")
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


@dataclass
class Summary:
    """What is printed of a run, however long it was.

    Args:
        total, skipped: recordings of the run, and those of them that an earlier run had done.
        done: of the others.
        shown: the first records of recordings that are done.
        failed: records of those that failed.
        warnings: what is unusual in recordings.
        stopped: why the run ended before all was done; None where it did not.
    """

    total: int
    skipped: int = 0
    done: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: str | None = None

    def add(self, record: dict[str, Any]) -> None:
        if "error" in record:
            self.failed.append(record)
            return
        self.done += record["resume"]["lines"] == 1 or record["channel"] == 1
        self.warnings += [warning for warning in record.get("warnings", ()) if warning not in self.warnings[-1:]]
        if len(self.shown) < MAX_TABLE_ROWS:
            self.shown.append(record)

    @property
    def exit_code(self) -> int:
        if self.stopped is not None:
            return INTERRUPTED if self.stopped == INTERRUPTION else 2
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Options:
    """How `sparse-merit enhance` treats recordings."""

    rate: int | None = None
    plot: bool = False
    channel: "Channel" = "mix"
    batch_seconds: float = BATCH_SECONDS
    overwrite: bool = False
    quiet: bool = False


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Clean noisy speech and recognise its emotion."""
    if version:
        typer.echo(f"sparse-merit {__version__}")
        raise typer.Exit()


@app.command()
def enhance(
    recordings: Annotated[
        list[str],
        typer.Argument(
            help="Audio files, folders (searched in depth), quoted globs, and - for standard input. "
            "M4A, WebM, WMA and others need ffmpeg."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("enhanced"),
    model: ModelOption = None,
    channel: Annotated[
        str, typer.Option(help="mix (mean of the channels), left, right, a number from 1, or each, one by one.")
    ] = "mix",
    rate: Annotated[
        int | None,
        typer.Option(
            help="Sampling rate to write, in Hz; each recording's own by default. The model works at 16 kHz: at any "
            "rate, enhanced speech has nothing above 8 kHz.",
            min=4_000,
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a PNG for each recording too.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do again what an earlier run with the same settings has done.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print the records, as in results.jsonl, and nothing else, on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")] = False,
    batch_seconds: Annotated[
        float, typer.Option(help="Seconds of audio, padding included, that go through the model at once.", min=1)
    ] = BATCH_SECONDS,
    device: DeviceOption = None,
    precision: Annotated[
        Precision, typer.Option(help="bf16 and int8 need less memory and answer almost alike.")
    ] = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Enhance recordings and recognise their emotion: NAME.enhanced.wav for each, results.jsonl and a table for all.

    A second run into a folder goes on where the first one ended: recordings that were done with the same model and
    settings are skipped.

    On several processes or machines: accelerate launch --multi_gpu -m modeling_sparse_merit.cli enhance RECORDINGS
    """
    with _errors_in_one_line():
        from .audio import channel_number

        chosen = channel if channel in ("mix", "each") else channel_number(channel)
        options = Options(rate, plot, chosen, batch_seconds, overwrite, quiet or json_lines)
        load = partial(_load_pipeline, model, precision=precision.value, revision=revision)
        show = _print_json if json_lines else None
        summary = _enhance_recordings(recordings, output, load, device, options, show)
    if summary is None:
        return
    _print_results(summary, output, is_quiet=options.quiet)
    if summary.stopped == INTERRUPTION:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # at once: threads may still compute, or wait for a pipe
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo_results"),
    model: ModelOption = None,
) -> None:
    """Enhance the recording that comes with the package, and say where the results lie."""
    recording = output / DEMO_RECORDING.name
    with _errors_in_one_line():
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DEMO_RECORDING, recording)
        options = Options(plot=True, overwrite=True)
        summary = _enhance_recordings([str(recording)], output, partial(_load_pipeline, model), None, options)
    assert summary is not None
    _print_results(summary, output)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    enhanced = summary.shown[0]["enhanced"]
    typer.echo(f"Listen before:  {recording}")
    if enhanced is not None:
        typer.echo(f"Listen after:   {enhanced}")
    typer.echo(f"Look:           {recording.with_suffix('.enhanced.png')}")


@app.command()
def info(model: ModelOption = None, revision: RevisionOption = None) -> None:
    """Say what a checkpoint is: tasks, labels, experts, size, licence."""
    with _errors_in_one_line():
        facts = _describe(_resolve_model(model, revision), revision)
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(value))
    Console().print(table)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Option(help="YAML file that names the systems, the test clips and the conditions.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results, in place of the configured one.")
    ] = None,
) -> None:
    """Measure systems on the same clips, clean and in noise: emotion, enhancement, tables, intervals, figures.

    On several processes: accelerate launch --multi_gpu -m modeling_sparse_merit.cli evaluate --config FILE
    """
    with _errors_in_one_line():
        try:
            from .evaluation import evaluate as run_evaluation
        except ImportError as error:
            raise ImportError(f"{error}. Evaluation needs: pip install 'modeling-sparse-merit[train]'") from error
        from transformers.utils import logging

        logging.disable_progress_bar()
        _quieten_datasets()
        run_evaluation(config, output=output)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; made where there is none.")],
    model: ModelOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is in DIR.")] = False,
    revision: RevisionOption = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write a graph for onnxruntime, which needs no torch.")] = False,
    precision: Annotated[Precision, typer.Option(help="Of an ONNX graph: fp32 or int8.")] = Precision.FP32,
) -> None:
    """Write a checkpoint with all its code and its card: it runs where this package is not installed."""
    with _errors_in_one_line():
        if onnx:
            difference = _export_onnx(model, folder, overwrite, revision, precision.value)
            what_next = f"see its README.md; largest difference from torch: {difference:.1g}"
        elif precision != Precision.FP32:
            raise ValueError(f"--precision {precision.value} is of an ONNX graph: add --onnx, or leave it out.")
        else:
            from transformers.utils import logging

            from .hub import export_checkpoint

            logging.disable_progress_bar()
            export_checkpoint(_resolve_model(model, revision), folder, overwrite, revision)
            what_next = f"pipeline(model={str(folder)!r}, trust_remote_code=True)"
    typer.echo(f"{folder} is ready: {what_next}")


def _export_onnx(model: str | None, folder: Path, overwrite: bool, revision: str | None, precision: str) -> float:
    """Writes an ONNX graph; returns the largest difference of its outputs from the model's."""
    from .onnx_export import export_onnx

    pipe = _load_pipeline(model, "cpu", revision=revision)
    return max(export_onnx(pipe.model, pipe.feature_extractor, folder, overwrite, precision).values())


@app.command()
def push(
    folder: Annotated[
        Path, typer.Argument(help="A checkpoint (`sparse-merit export`), adapters or a table (`prepare`).")
    ],
    repo_id: Annotated[str, typer.Argument(help="NAME/REPOSITORY on the Hub; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to, made where there is none.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Token with write access; HF_TOKEN or that of `hf auth login` by default.")
    ] = None,
    i_may_redistribute: Annotated[
        str | None, typer.Option(metavar="LICENCE", help="For a table: the licence under which you may pass it on.")
    ] = None,
) -> None:
    """Publish a checkpoint, adapters or a table, its card included, on the Hugging Face Hub."""
    with _errors_in_one_line():
        _quieten_hub_client()
        if _is_table(folder):
            from dataset_scripts.publish import push_table

            _quieten_datasets()
            commit = push_table(folder, repo_id, private, revision, token, i_may_redistribute)
        else:
            from .hub import push_checkpoint

            commit = push_checkpoint(folder, repo_id, private, revision, token)
    typer.echo(f"Pushed {folder} to {commit.repo_url}, revision {commit.oid}")


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="The published weights: a Hub id (RogerTzeng/Sparse-MERIT) or a folder; or a `transformers` WavLM, "
            "which becomes the encoder of a fresh model; or adapters, which are merged into their model."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new checkpoint.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="The emotions, in the order of the classifier's outputs; angry,sad,happy,neutral by default."
        ),
    ] = None,
    mean: Annotated[float | None, typer.Option(help="Mean of the training corpus' samples.")] = None,
    std: Annotated[float | None, typer.Option(help="Their standard deviation.")] = None,
    measure: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Recordings to measure mean and deviation from.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="NAME of variant_NAME_mmoe.pt instead of final_mmoe.pt; or multitask.")
    ] = None,
    router: Annotated[str | None, typer.Option(help="sparse or dense, which weights do not tell.")] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where final_ssl.pt is within SOURCE, if there are several.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is in DIR.")] = False,
) -> None:
    """Make a checkpoint out of the weights that the authors of the paper published, a WavLM, or adapters."""
    with _errors_in_one_line():
        from transformers.utils import logging

        from .conversion import convert as run_conversion

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        names = None if labels is None else [label.strip() for label in labels.split(",")]
        statistics = _input_statistics(mean, std, measure)
        run_conversion(source, target, names, statistics, variant, router, folder, overwrite)
    typer.echo(f"{target} is ready: sparse-merit info --model {target}")


prepare = typer.Typer(help="Turn a corpus into a table, to train on or to publish.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")


def _add_corpus(name: str, help: str) -> None:
    """Makes `sparse-merit prepare NAME` hand all its arguments to the script of that name, `--help` among them."""

    @prepare.command(
        name,
        help=help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        _run_dataset_script(name, context.args)


def _run_dataset_script(name: str, arguments: list[str]) -> None:
    """Runs a dataset script; where it stops with a message, that is the error."""
    with _errors_in_one_line():
        try:
            script = import_module(f"dataset_scripts.{name}")
        except ImportError as error:
            raise ImportError(f"{error}. Tables need: pip install 'modeling-sparse-merit[train]'") from error
        _quieten_hub_client()
        _quieten_datasets()
        try:
            script.main(arguments, prog=f"sparse-merit prepare {name}")
        except SystemExit as stop:
            if isinstance(stop.code, str):
                typer.secho(stop.code.replace("error", "Error", 1), fg="red", err=True)
                raise typer.Exit(2) from stop
            raise typer.Exit(stop.code or 0) from stop


for _name, _help in CORPORA.items():
    _add_corpus(_name, _help)


def _enhance_recordings(
    arguments: list[str],
    output: Path,
    load: "Callable[[str | None], SpeechEnhancementAndEmotionPipeline]",
    device: str | None,
    options: Options,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Summary | None:
    """Runs the model on everything that the arguments name and that is not done yet, and writes all results.

    Args:
        load: the pipeline, for a device.
        show: is given the record of every recording at the end, of an earlier run too.

    Returns:
        what is to be printed; None in the other processes of `accelerate launch`.
    """
    found = _find_recordings(arguments, output)
    if options.plot:
        from .plotting import require_matplotlib

        require_matplotlib()
    state = _join_processes(device) if LAUNCHED else None
    pipe = load(device or (None if state is None else str(state.device)))
    from .results import Results, settings_of

    settings = settings_of(pipe.model, rate=options.rate, channel=options.channel)
    process = 0 if state is None else state.process_index
    with Results(output, settings, options.overwrite, process) as results:
        recordings = results.placed(found) if process == 0 else []
        left = [recording for recording in recordings if not results.is_done(recording, options.plot)]
        stopped = _run(pipe, results, left, options, state)
        if process != 0:
            return None
        results.close()
        summary = Summary(len(recordings), len(recordings) - len(left), stopped=stopped)
        try:
            results.sort(recordings)
        except OutputError:
            pass  # its lines are there, in the order in which they were made
        for record in results.records(left):
            summary.add(record)
        for record in results.records(recordings) if show is not None else ():
            show(record)
    return summary


def _run(
    pipe: "SpeechEnhancementAndEmotionPipeline",
    results: "Results",
    left: "list[Recording]",
    options: Options,
    state: "PartialState | None",
) -> str | None:
    """Does this process's share of what is left; returns why it stopped before the end, None where it did not."""
    from .batches import enhance_recordings

    if state is not None:
        from .processes import share_of

        left = share_of(left, state)
    is_shown = not options.quiet and (state is None or state.is_main_process)
    chosen = {name: getattr(options, name) for name in ("rate", "plot", "channel", "batch_seconds")}
    stopped = None
    try:
        with _progress(is_shown) as progress:
            for _ in enhance_recordings(pipe, left, **chosen, results=results, progress=progress):
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
        from .processes import join_processes
    except ImportError as error:
        raise ImportError(f"{error}. Several processes need: pip install 'modeling-sparse-merit[train]'") from error
    return join_processes(device)


@contextmanager
def _progress(is_shown: bool) -> Iterator[Callable[[float, float], None]]:
    """A bar on a terminal that counts seconds of audio, and what moves it on.

    It has a file of its own, because decoding MP3 files redirects stderr.
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
        FileNotFoundError: there is none.
    """
    from .recordings import ENHANCED_SUFFIX, find_recordings

    recordings, skipped = find_recordings(arguments, output)
    if all(recording.error for recording in recordings):
        passed_over = f" ({skipped} *{ENHANCED_SUFFIX} of an earlier run were passed over)" if skipped else ""
        raise FileNotFoundError(
            f"No recording found in {', '.join(arguments)}{passed_over}: give audio files, folders that hold some, or "
            "globs."
        )
    return recordings


def _load_pipeline(
    model: str | None, device: str | None, precision: str = "fp32", revision: str | None = None
) -> "SpeechEnhancementAndEmotionPipeline":
    """Loads a checkpoint quietly.

    Raises:
        OSError: there is no such checkpoint. ValueError: it, or the device, is not usable.
    """
    source = _resolve_model(model, revision)
    with _no_garbage_collection():
        import torch
        from transformers.utils import logging

        from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
        from .recordings import one_line

    logging.set_verbosity_error()
    logging.disable_progress_bar()
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


def _resolve_model(model: str | None, revision: str | None) -> str:
    """Returns a folder that exists, or a Hub id, which alone has revisions."""
    if revision is not None and (model is None or Path(model).expanduser().is_dir()):
        raise ValueError(f"--revision {revision} is of a model on the Hub: give its id by --model, or leave it out.")
    if model is None:
        if not (DEFAULT_CHECKPOINT / "config.json").exists():
            raise FileNotFoundError(
                "This installation lacks the embedded checkpoint: install it anew or give --model."
            )
        return str(DEFAULT_CHECKPOINT)
    folder = Path(model).expanduser()
    if folder.is_dir() and not (folder / "config.json").exists():
        raise FileNotFoundError(f"{model!r} holds no config.json: give a folder written by save_pretrained.")
    if not folder.is_dir() and (folder.exists() or model[:1] in "./~" or model.count("/") > 1):
        raise FileNotFoundError(f"{model!r} is no folder: give a checkpoint's folder or a Hub id such as name/model.")
    return str(folder) if folder.is_dir() else model


def _describe(source: str, revision: str | None) -> dict[str, str]:
    """Returns what a checkpoint's configuration and card say, by name; no weights are loaded."""
    import torch

    from . import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion

    config = SparseMeritConfig.from_pretrained(source, **({"revision": revision} if revision else {}))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in SparseMeritForSpeechEnhancementAndEmotion(config).parameters())
    facts = {
        "Model": source,
        "Tasks": ", ".join(config.tasks),
        "Emotions": ", ".join(config.id2label[i] for i in sorted(config.id2label))
        if "emotion" in config.tasks
        else "-",
        "Encoder": f"{config.num_hidden_layers} layers of width {config.hidden_size}",
        "Integration": config.integration,
        "Experts": f"{config.num_experts} of width {config.expert_hidden_size}, {config.router} router",
        "Parameters": f"{parameters / 1e6:.2f} million",
    }
    licence = _licence(source, revision)
    return facts if licence is None else {**facts, "Licence": licence}


def _licence(source: str, revision: str | None) -> str | None:
    """Returns the licence that the model card states, None where there is no card."""
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    card = Path(source) / "README.md"
    try:
        card = card if Path(source).is_dir() else Path(hf_hub_download(source, "README.md", revision=revision))
        data = ModelCard(card.read_text(encoding="utf-8")).data
    except (FileNotFoundError, EntryNotFoundError):
        return None
    return data.get("license_name") or data.get("license")


def _is_table(folder: Path) -> bool:
    return (folder / "state.json").exists() or any(folder.glob("*.parquet"))


def _quieten_hub_client() -> None:
    """Leaves it to the one error at the end to say why several attempts to connect failed; bars are for terminals."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


def _quieten_datasets() -> None:
    """Leaves out hints at options that this command does not have; bars are for terminals."""
    from datasets import disable_progress_bars
    from datasets.utils import logging

    logging.set_verbosity_error()
    if not Console(stderr=True).is_terminal:
        disable_progress_bars()


def _input_statistics(mean: float | None, std: float | None, measure: Path | None) -> tuple[float, float] | None:
    """Returns the mean and deviation that were given or are to be measured; None where nothing was asked."""
    from .conversion import measure_statistics
    from .recordings import expand

    if (mean is None) != (std is None) or (measure is not None and mean is not None):
        raise ValueError("Give --mean and --std together, or --measure alone.")
    if measure is None:
        return None if mean is None or std is None else (mean, std)
    return measure_statistics(path for path, _ in expand(measure.expanduser()))


def _print_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record))


def _print_results(summary: Summary, output: Path, is_quiet: bool = False) -> None:
    """Prints the table of what succeeded, then what is unusual, and what failed and why."""
    if not is_quiet:
        _print_done(summary, output)
    for record in summary.failed:
        message = record["error"].removeprefix(f"{record['file']} ")
        typer.secho(_printable(f"Failed: {record['file']}: {message}"), fg="red", err=True)
    if summary.stopped is not None:
        done = summary.done + summary.skipped
        message = (
            f"Stopped: {summary.stopped}. {done} of {summary.total} recordings are done; the same command goes on."
        )
        typer.secho(_printable(message), fg="red", err=True)


def _print_done(summary: Summary, output: Path) -> None:
    console = Console()
    if summary.shown:
        console.print(results_table(summary.shown, console.width))
    if summary.done > len(summary.shown):
        console.print(f"... and {summary.done - len(summary.shown)} more")
    for warning in summary.warnings:
        typer.secho(_printable(f"Note: {warning}"), fg="yellow", err=True)
    skipped = f" ({summary.skipped} by an earlier run; --overwrite does them again)" if summary.skipped else ""
    done = summary.done + summary.skipped
    typer.echo(f"{done} of {summary.total} recordings done{skipped}: {output / 'results.jsonl'}")


def results_table(records: list[dict[str, Any]], width: int) -> Table:
    """A table with one line for each record, at most `width` columns wide.

    There is a column for each emotion where they fit, else one for the score of the recognised emotion; on a narrow
    terminal other columns go too. Paths are shortened in the middle.
    """
    columns = {
        "Seconds": [f"{record['seconds']:.2f}" for record in records],
        "Channel": [str(record["channel"]) for record in records],
        "Emotion": [record["emotion"] or "-" for record in records],
        "Score": [f"{record['scores'].get(record['emotion'], 0):.2f}" for record in records],
    }
    columns |= {label: [f"{record['scores'][label]:.2f}" for record in records] for label in records[0]["scores"]}
    if all(record["channel"] in (1, "mix") for record in records):
        del columns["Channel"]
    labels = list(records[0]["scores"])
    for names in (
        ["Seconds", "Channel", "Emotion", *labels],
        ["Seconds", "Channel", "Emotion", "Score"],
        ["Channel", "Emotion", "Score"],
        ["Channel", "Emotion"],
        ["Emotion"],
    ):
        shown = {name: columns[name] for name in names if name in columns}
        room = width - 2 - sum(3 + max(map(cell_len, [name, *cells])) for name, cells in shown.items())
        if room >= MIN_FILE_WIDTH:
            break
    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("File", no_wrap=True)
    for name in shown:
        table.add_column(name, no_wrap=True, justify="left" if name == "Emotion" else "right")
    for place, record in enumerate(records):
        cells = [Text(values[place], style="bold" if name == "Emotion" else "") for name, values in shown.items()]
        table.add_row(Text(_shortened(_printable(record["file"]), max(8, room))), *cells)
    return table


def _shortened(path: str, width: int) -> str:
    """A path of at most `width` cells, without its middle."""
    if cell_len(path) <= width:
        return path
    head, tail = (width - 1) // 3, width - 1 - (width - 1) // 3
    end = len(path)
    while cell_len(path[end - 1 :]) <= tail:
        end -= 1
    return f"{set_cell_size(path, head).rstrip()}…{path[end:]}"


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turns an error that the user can mend into one line on stderr and exit code 2."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        from .recordings import one_line

        typer.secho(_printable(f"Error: {one_line(error)}"), fg="red", err=True)
        raise typer.Exit(2) from error


def _printable(text: str) -> str:
    """Returns the text with a question mark for bytes of a file name that are no UTF-8, which no terminal takes."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


if __name__ == "__main__":
    app()

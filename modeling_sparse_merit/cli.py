# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The command `sparse-merit`: enhance, demo, info, evaluate, prepare, convert, export, push.

torch and transformers are imported inside the commands, so that `sparse-merit --help` answers at once. Exit codes:
0 all went well, 1 some recordings failed (they are listed, the rest is done), 2 nothing could be done.
"""

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from . import BATCH_SECONDS, DEFAULT_CHECKPOINT, __version__

if TYPE_CHECKING:
    from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from .recordings import Recording

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
    """What is printed of a run, however long it was."""

    done: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        if "error" in record:
            self.failed.append(record)
            return
        self.done += 1
        if len(self.shown) < MAX_TABLE_ROWS:
            self.shown.append(record)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Clean noisy speech and recognise its emotion."""
    if version:
        typer.echo(f"sparse-merit {__version__}")
        raise typer.Exit()


@app.command()
def enhance(
    recordings: Annotated[
        list[str], typer.Argument(help="Files (WAV, FLAC, OGG, MP3), folders (searched in depth) and quoted globs.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("enhanced"),
    model: ModelOption = None,
    rate: Annotated[
        int | None, typer.Option(help="Sampling rate to write, in Hz; each recording's own by default.", min=4_000)
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a PNG for each recording too.")] = False,
    batch_seconds: Annotated[
        float, typer.Option(help="Seconds of audio, padding included, that go through the model at once.", min=1)
    ] = BATCH_SECONDS,
    device: DeviceOption = None,
    precision: Annotated[
        Precision, typer.Option(help="bf16 and int8 need less memory and answer almost alike.")
    ] = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Clean recordings and tell their emotion: NAME.enhanced.wav for each, results.jsonl and a table for all.

    On several processes or machines: accelerate launch --multi_gpu -m modeling_sparse_merit.cli enhance RECORDINGS
    """
    with _errors_in_one_line():
        options = {"batch_seconds": batch_seconds, "rate": rate, "plot": plot}
        load = partial(_load_pipeline, model, precision=precision.value, revision=revision)
        summary = _enhance_recordings(recordings, output, load, device, options)
    if summary is None:
        return
    _print_results(summary, output)
    if summary.failed:
        raise typer.Exit(1)


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
        summary = _enhance_recordings([str(recording)], output, partial(_load_pipeline, model), None, {"plot": True})
    _print_results(summary, output)
    if summary.failed:
        raise typer.Exit(1)
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
    options: dict[str, Any],
) -> Summary | None:
    """Runs the model on everything that the arguments name and writes all results.

    Records are written as they are made, to a file that gets its name `results.jsonl` when it is complete.

    Args:
        load: the pipeline, for a device.
        options: of `enhance_recordings`.

    Returns:
        what is to be printed; None in the other processes of `accelerate launch`.
    """
    recordings = _find_recordings(arguments, output)
    if options["plot"]:
        from .plotting import require_matplotlib

        require_matplotlib()
    if LAUNCHED:
        return _enhance_in_processes(recordings, output, load, device, options)
    pipe = load(device)
    from .batches import enhance_recordings

    with _progress(len(recordings)) as progress:
        return _write_records(enhance_recordings(pipe, recordings, **options, progress=progress), output)


def _enhance_in_processes(
    recordings: "list[Recording]",
    output: Path,
    load: "Callable[[str | None], SpeechEnhancementAndEmotionPipeline]",
    device: str | None,
    options: dict[str, Any],
) -> Summary | None:
    """Does this process's share; the first one waits for all, and writes the results."""
    try:
        from .shards import describe_model, join_processes, share_out
    except ImportError as error:
        raise ImportError(f"{error}. Several processes need: pip install 'modeling-sparse-merit[train]'") from error
    from .batches import enhance_recordings

    state, folder = join_processes(device), output / "shards"
    pipe = load(device or str(state.device))
    with _progress(len(recordings) // state.num_processes, state.is_main_process) as progress:
        enhance = partial(enhance_recordings, pipe, **options, progress=progress)
        facts = {"model": describe_model(pipe.model), "rate": options.get("rate"), "plot": options["plot"]}
        shards = share_out(enhance, recordings, folder, facts, state)
    state.destroy_process_group()
    if not state.is_main_process:
        return None
    summary = _write_records((record for shard in shards for record in shard.read()), output)
    shutil.rmtree(folder)
    return summary


@contextmanager
def _progress(total: int, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, and what moves it on."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (is_shown and console.is_terminal)) as bars:
        yield partial(bars.advance, bars.add_task("Enhancing", total=total))


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
            f"No recording found in {', '.join(arguments)}{passed_over}: give WAV, FLAC, OGG or MP3 files, "
            "folders that hold some, or globs."
        )
    return recordings


def _write_records(records: Iterable[dict[str, Any]], output: Path) -> Summary:
    """Writes `results.jsonl`, line by line as the records come; the name is its own when it is complete."""
    output.mkdir(parents=True, exist_ok=True)
    summary, partial_file = Summary(), output / "results.jsonl.tmp"
    with open(partial_file, "w", encoding="utf-8", buffering=1) as lines:
        for record in records:
            lines.write(json.dumps(record) + "\n")
            summary.add(record)
    os.replace(partial_file, output / "results.jsonl")
    return summary


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


def _print_results(summary: Summary, output: Path) -> None:
    """Prints the table of what succeeded, then what failed and why."""
    console = Console()
    if summary.shown:
        console.print(_results_table(summary.shown))
    if summary.done > len(summary.shown):
        console.print(f"... and {summary.done - len(summary.shown)} more")
    total = summary.done + len(summary.failed)
    typer.echo(f"{summary.done} of {total} recordings done: {output / 'results.jsonl'}")
    for record in summary.failed:
        typer.secho(_printable(f"Failed: {record['file']}: {record['error']}"), fg="red", err=True)


def _results_table(records: list[dict[str, Any]]) -> Table:
    """Returns a table with a row for each record and a column for each emotion."""
    labels = list(records[0]["scores"])
    table = Table()
    table.add_column("File", overflow="fold")
    table.add_column("Seconds", justify="right")
    table.add_column("Emotion", style="bold")
    for label in labels:
        table.add_column(label, justify="right")
    for record in records:
        scores = [f"{record['scores'][label]:.2f}" for label in labels]
        table.add_row(Text(_printable(record["file"])), f"{record['seconds']:.2f}", record["emotion"] or "-", *scores)
    return table


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

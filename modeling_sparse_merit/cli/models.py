# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit export`, `push` and `convert`."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import replacing
from .options import (
    ModelOption,
    Precision,
    RevisionOption,
    errors_in_one_line,
    load_pipeline,
    printable,
    quieten_datasets,
    quieten_hub_client,
    resolve_model,
)


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Target folder, created if missing; the file for --task.")
    ],
    model: ModelOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing export in DIR.")] = False,
    task: Annotated[
        str | None,
        typer.Option(help="Write one task, trained with freeze_experts, to a file for `enhance --emotions`."),
    ] = None,
    revision: RevisionOption = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write an ONNX graph for onnxruntime, which does not need torch.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Precision of an ONNX graph: fp32 or int8.")] = Precision.FP32,
    half: Annotated[
        bool, typer.Option("--half", help="Store weights in fp16 to halve the size; they are loaded in fp32.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Report of `sparse-merit evaluate`; the card shows this model's results in it."
        ),
    ] = None,
    speech_model: Annotated[
        str | None,
        typer.Option(
            metavar="USER/MODEL", help="For a conversation model: the Hub id of the model of its speech embeddings."
        ),
    ] = None,
    text_model: Annotated[
        str | None, typer.Option(metavar="USER/MODEL", help="The same for its text embeddings.")
    ] = None,
    space: Annotated[
        bool, typer.Option("--space", help="Write a Hugging Face Space with the page of `sparse-merit app`.")
    ] = False,
) -> None:
    """Write a checkpoint with its code and card, so that it runs without this package.

    Example: sparse-merit export my_model --model runs/small/best
    """
    with errors_in_one_line():
        if task is not None:
            if space or onnx or half or results or precision != Precision.FP32:
                raise ValueError("--task writes the head of a task: leave out the other options but --model.")
            _export_task(model, task, folder, overwrite, revision)
            what_next = f"sparse-merit enhance RECORDINGS --emotions {folder}"
        elif space:
            _export_space(
                model, folder, overwrite, revision, onnx or half or bool(results) or precision != Precision.FP32
            )
            what_next = f"python {folder / 'app.py'}, or hf upload USER/NAME {folder} --repo-type space"
        elif onnx and (half or results):
            option = "--half" if half else "--results"
            raise ValueError(f"{option} applies to checkpoints only: leave out {option} or --onnx.")
        elif onnx:
            difference = _export_onnx(model, folder, overwrite, revision, precision.value)
            what_next = f"see its README.md; largest difference from torch: {difference:.1g}"
        elif precision != Precision.FP32:
            raise ValueError(
                f"--precision {precision.value} applies to ONNX graphs only: add --onnx, or leave it out."
            )
        else:
            from transformers.utils import logging

            from ..hub.export import export_checkpoint

            logging.disable_progress_bar()
            named = {name: value for name, value in (("speech", speech_model), ("text", text_model)) if value}
            source = resolve_model(model, revision)
            export_checkpoint(source, folder, overwrite, revision, _note, half, results, named)
            what_next = f"pipeline(model={str(folder)!r}, trust_remote_code=True)"
    typer.echo(f"{folder} is ready: {what_next}")


def _export_space(model: str | None, folder: Path, overwrite: bool, revision: str | None, has_others: bool) -> None:
    """Writes a Space; raises ValueError for options that do not apply to it."""
    from transformers.utils import logging

    from ..app.space import export_space

    if has_others:
        raise ValueError(
            "--space writes the checkpoint as it is: leave out --onnx, --half, --precision and --results."
        )
    logging.disable_progress_bar()
    export_space(resolve_model(model, revision), folder, overwrite, revision)


def _export_task(model: str | None, task: str, file: Path, overwrite: bool, revision: str | None) -> None:
    """Writes the head and the router of a task to a file."""
    from ..models.sparse_merit.task_files import save_task

    if file.suffix != ".safetensors":
        raise ValueError(f"{file} has another suffix; --task writes a file NAME.safetensors.")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists already: give a new file, or --overwrite.")
    pipe = load_pipeline(model, "cpu", revision=revision)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_task(pipe.model, task, temporary)


def _note(text: str) -> None:
    typer.secho(printable(f"Note: {text}"), fg="yellow", err=True)


def _export_onnx(model: str | None, folder: Path, overwrite: bool, revision: str | None, precision: str) -> float:
    """Writes an ONNX graph; returns the largest difference of its outputs from the model's."""
    from ..convert.onnx import export_onnx

    pipe = load_pipeline(model, "cpu", revision=revision)
    return max(export_onnx(pipe.model, pipe.feature_extractor, folder, overwrite, precision).values())


def push(
    folder: Annotated[
        Path, typer.Argument(help="A checkpoint (`sparse-merit export`), adapters or a dataset (`prepare`).")
    ],
    repo_id: Annotated[str, typer.Argument(help="NAME/REPOSITORY on the Hub, created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to, created if missing.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Token with write access; by default that of HF_TOKEN or `hf auth login`.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="NAME/MODEL", help="For adapters: the Hub id of the adapted checkpoint."),
    ] = None,
    i_may_redistribute: Annotated[
        str | None,
        typer.Option(metavar="LICENCE", help="For a dataset: the licence under which you may redistribute it."),
    ] = None,
) -> None:
    """Publish a checkpoint, adapters or a dataset with its card on the Hugging Face Hub.

    Example: sparse-merit push my_model USER/my_model --private
    """
    with errors_in_one_line():
        quieten_hub_client()
        if _is_dataset(folder):
            from ..hub.datasets import push_dataset

            quieten_datasets()
            commit = push_dataset(folder, repo_id, private, revision, token, i_may_redistribute)
        else:
            from ..hub.push import push_checkpoint

            commit = push_checkpoint(folder, repo_id, private, revision, token, base)
    typer.echo(f"Pushed {folder} to {commit.repo_url}, revision {commit.oid}")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="The published weights: a Hub id (RogerTzeng/Sparse-MERIT) or a folder; or a WavLM, Whisper, HuBERT "
            "or wav2vec 2.0 (openai/whisper-base), which becomes the encoder of a new model; or adapters, which are "
            "merged into their model."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new checkpoint.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="The emotions, in the order of the classifier's outputs; angry,sad,happy,neutral by default."
        ),
    ] = None,
    mean: Annotated[float | None, typer.Option(help="Mean of the samples of the training corpus.")] = None,
    std: Annotated[float | None, typer.Option(help="Standard deviation of these samples.")] = None,
    measure: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Recordings from which to measure --mean and --std.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="NAME of variant_NAME_mmoe.pt instead of final_mmoe.pt; or multitask.")
    ] = None,
    router: Annotated[str | None, typer.Option(help="sparse or dense; it cannot be derived from the weights.")] = None,
    folder: Annotated[
        str | None, typer.Option(help="Subfolder of SOURCE with final_ssl.pt, if there are several.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint in DIR.")] = False,
    layers: Annotated[int | None, typer.Option(help="Number of layers of an encoder to keep; all by default.")] = None,
) -> None:
    """Convert the weights published with the paper, an encoder, or adapters to a checkpoint.

    Example: sparse-merit convert openai/whisper-base whisper --layers 4 --labels angry,sad,happy,neutral
    """
    with errors_in_one_line():
        from transformers.utils import logging

        from ..convert.published import convert as run_conversion

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        names = None if labels is None else [label.strip() for label in labels.split(",")]
        statistics = _input_statistics(mean, std, measure)
        run_conversion(source, target, names, statistics, variant, router, folder, overwrite, layers)
    typer.echo(f"{target} is ready: sparse-merit info --model {target}")


def _is_dataset(folder: Path) -> bool:
    return (folder / "state.json").exists() or any(folder.glob("*.parquet"))


def _input_statistics(mean: float | None, std: float | None, measure: Path | None) -> tuple[float, float] | None:
    """Mean and standard deviation, given or measured; None if neither was requested."""
    from ..convert.published import measure_statistics
    from ..inference.files import expand

    if (mean is None) != (std is None) or (measure is not None and mean is not None):
        raise ValueError("Give --mean and --std together, or only --measure.")
    if measure is None:
        return None if mean is None or std is None else (mean, std)
    return measure_statistics(path for path, _ in expand(measure.expanduser()))

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit reader-study`: blinded studies in which people label recordings."""

from pathlib import Path
from typing import Annotated

import typer

from .options import errors_in_one_line, needing_datasets, quieten_datasets, quieten_hub_client

reader_study = typer.Typer(
    help="Have people label recordings as they are, in noise and after enhancement, blinded.", no_args_is_help=True
)


@reader_study.command()
def make(
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    data: Annotated[str, typer.Option(help="Dataset of clips with labels.")],
    noise: Annotated[str, typer.Option(help="Noise dataset.")],
    enhancer: Annotated[
        str | None, typer.Option(help="Checkpoint that enhances, or the name of an enhancer of another package.")
    ] = None,
    snr_db: Annotated[float, typer.Option(help="Signal-to-noise ratio in dB.")] = 0.0,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the labels.")] = "label",
    split: Annotated[str, typer.Option(help="Split of both datasets.")] = "test",
    clips: Annotated[int, typer.Option(help="Number of clips, drawn at random.")] = 20,
    readers: Annotated[int, typer.Option(help="Number of readers.")] = 7,
    seed: Annotated[int, typer.Option(help="Seed of the clips, the mixtures and the orders.")] = 0,
    title: Annotated[str, typer.Option(help="Title of the pages.")] = "Listening study",
) -> None:
    """Make a page for each reader, and the key to all pages.

    Example: sparse-merit reader-study make study --data datasets/calls --noise datasets/noise --enhancer base
    """
    with errors_in_one_line():
        quieten_hub_client()
        quieten_datasets()
        with needing_datasets():
            from ..reader_study.study import KEY_FILE, PAGES, RESPONSES, make_study

        key = make_study(folder, data, noise, enhancer, snr_db, label, split, clips, readers, seed, title)
    items = len(next(iter(key["readers"].values())))
    typer.echo(
        f"{readers} pages with {items} recordings each: {folder / PAGES}\nThe key, which readers must not see: "
        f"{folder / KEY_FILE}\nPut the files that the pages save into {folder / RESPONSES}"
    )


@reader_study.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of the study.")],
    normal: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Label of normal clips, for specificity and sensitivity.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals and the tests.")] = 0,
) -> None:
    """Report scores, confidence and time of the readers in each condition, with paired tests.

    Example: sparse-merit reader-study report study
    """
    with errors_in_one_line():
        with needing_datasets():
            from ..reader_study.report import as_markdown, report_study

        results = report_study(folder, normal, seed)
    typer.echo(as_markdown(results))

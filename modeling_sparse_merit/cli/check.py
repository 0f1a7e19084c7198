# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit check`: looks for faults of a dataset before hours are spent on it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .options import errors_in_one_line, needing_datasets, printable, quieten_datasets, quieten_hub_client

if TYPE_CHECKING:
    from ..data.check import DatasetCheck

COLOURS = {"error": "red", "warning": "yellow"}


def check(
    dataset: Annotated[
        str, typer.Argument(help="A dataset (folder, Parquet file or Hub id), or a folder with metadata.csv.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, with the names of all clips concerned.")
    ] = False,
) -> None:
    """Look for faults of a dataset: damaged, silent, clipped or narrowband recordings, copies, speakers, labels.

    Exit code 1 means errors: a training would stop, or its scores would be wrong. Warnings alone give 0.

    Example: sparse-merit check datasets/calls
    """
    with errors_in_one_line():
        quieten_hub_client()
        quieten_datasets()
        with needing_datasets():
            from ..data.check import check_dataset
        result = check_dataset(dataset)
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        _print(result)
    if result.errors:
        raise typer.Exit(1)


def _print(result: "DatasetCheck") -> None:
    console = Console()
    console.print(_splits_table(result))
    for finding in result.findings:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(
            Text(finding.severity.capitalize(), style=f"bold {COLOURS[finding.severity]}"),
            Text(printable(finding.message)),
        )
        grid.add_row("Why", Text(finding.reason))
        grid.add_row("To do", Text(finding.remedy))
        console.print(grid, "")
    errors = len(result.errors)
    warnings = len(result.findings) - errors
    typer.echo(f"{printable(result.dataset)}: {_count(errors, 'error')}, {_count(warnings, 'warning')}")


def _splits_table(result: "DatasetCheck") -> Table:
    """A column for each split: clips, minutes, speakers, and clips of each label."""
    splits = list(result.splits.values())
    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for name in result.splits:
        table.add_column(printable(name), justify="right")
    table.add_row("clips", *(str(split.clips) for split in splits))
    table.add_row("minutes", *(f"{split.seconds / 60:.1f}" for split in splits))
    table.add_row("speakers", *(str(split.speakers or "-") for split in splits))
    for label in sorted({label for split in splits for label in split.labels}):
        table.add_row(Text(printable(label)), *(str(split.labels.get(label, "-")) for split in splits))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

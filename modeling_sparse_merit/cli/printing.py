# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Output of `enhance`: a table of results, notes and failures."""

import json
from dataclasses import dataclass, field
from typing import Any

import typer
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .options import printable

MAX_TABLE_ROWS = 100
MIN_FILE_WIDTH = 14  # cells for paths
INTERRUPTION = "interrupted"
INTERRUPTED = 130  # exit code of a command that Ctrl-C stopped


@dataclass
class Summary:
    """The part of a run that is printed, of bounded size.

    Args:
        total, skipped: number of recordings, and of those finished by an earlier run.
        done: number of recordings finished by this run.
        shown: the first records of finished recordings.
        failed: records of failed recordings.
        warnings: sentences about anything unusual in recordings.
        stopped: why the run ended early; None if it did not.
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


def print_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record))


def print_results(summary: Summary, output: str, is_quiet: bool = False) -> None:
    """Prints the table of results, failures with their reasons, and warnings.

    Args:
        summary: the run.
        output: folder or URL of the results.
        is_quiet: print warnings and failures only.
    """
    if not is_quiet:
        _print_done(summary, output)
    for record in summary.failed:
        message = record["error"].removeprefix(f"{record['file']} ")
        typer.secho(printable(f"Failed: {record['file']}: {message}"), fg="red", err=True)
    if summary.stopped is not None:
        done = summary.done + summary.skipped
        progress = f"{done} of {summary.total} recordings are done"
        message = f"Stopped: {summary.stopped}. {progress}; run the command again to resume."
        typer.secho(printable(message), fg="red", err=True)


def _print_done(summary: Summary, output: str) -> None:
    console = Console()
    if summary.shown:
        console.print(results_table(summary.shown, console.width))
    if summary.done > len(summary.shown):
        console.print(f"... and {summary.done - len(summary.shown)} more")
    for warning in summary.warnings:
        typer.secho(printable(f"Note: {warning}"), fg="yellow", err=True)
    skipped = f" ({summary.skipped} by an earlier run; --overwrite processes them again)" if summary.skipped else ""
    done = summary.done + summary.skipped
    typer.echo(f"{done} of {summary.total} recordings done{skipped}: {output.rstrip('/')}/results.jsonl")


def results_table(records: list[dict[str, Any]], width: int) -> Table:
    """A table with one line per record.

    It has a column for each emotion if they fit, else one for the score of the recognised emotion; on a narrow
    terminal, further columns are left out. Paths are shortened in the middle.

    Args:
        records: records of finished recordings.
        width: maximum width in columns of the terminal.
    """
    columns = {
        "Seconds": [f"{record['seconds']:.2f}" for record in records],
        "Channel": [str(record["channel"]) for record in records],
        "Emotion": [record["emotion"] or record.get("reason", "-") for record in records],
        "Score": [_score(record, record["emotion"]) for record in records],
    }
    labels = sorted({label for record in records for label in record["scores"]})
    columns |= {label: [_score(record, label) for record in records] for label in labels}
    if all(record["channel"] in (1, "mix") for record in records):
        del columns["Channel"]
    for names in (
        ["Seconds", "Channel", "Emotion", *labels],
        ["Seconds", "Channel", "Emotion", "Score"],
        ["Channel", "Emotion", "Score"],
        ["Channel", "Emotion"],
        ["Emotion"],
    ):
        shown = {name: columns[name] for name in names if name in columns}
        free = width - 2 - sum(3 + max(map(cell_len, [name, *cells])) for name, cells in shown.items())
        if free >= MIN_FILE_WIDTH:
            break
    table = Table(box=box.SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("File", no_wrap=True)
    for name in shown:
        table.add_column(name, no_wrap=True, justify="left" if name == "Emotion" else "right")
    for place, record in enumerate(records):
        cells = [Text(values[place], style="bold" if name == "Emotion" else "") for name, values in shown.items()]
        table.add_row(Text(_shortened(printable(record["file"]), max(8, free))), *cells)
    return table


def _score(record: dict[str, Any], label: str | None) -> str:
    return f"{record['scores'][label]:.2f}" if label in record["scores"] else "-"


def _shortened(path: str, width: int) -> str:
    """A path of at most `width` cells, without its middle."""
    if cell_len(path) <= width:
        return path
    head, tail = (width - 1) // 3, width - 1 - (width - 1) // 3
    end = len(path)
    while cell_len(path[end - 1 :]) <= tail:
        end -= 1
    return f"{set_cell_size(path, head).rstrip()}…{path[end:]}"

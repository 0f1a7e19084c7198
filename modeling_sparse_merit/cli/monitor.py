# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit monitor-reference` and `sparse-merit shadow-report`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import errors_in_one_line


def monitor_reference(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Folders of results of `enhance`, `watch` or `evaluate`."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("reference.json"),
    system: Annotated[str | None, typer.Option(help="System of an evaluation, if it has several.")] = None,
    condition: Annotated[str, typer.Option(help="Condition of an evaluation; all takes every one.")] = "clean",
) -> None:
    """Make the reference that drift is measured against: emotions, confidence, level and experts of good recordings.

    Give a few hundred recordings or more that are like those in service. Results of `enhance` have the level, those of
    `evaluate` the use of the experts; with both, the reference has all signals.

    Example: sparse-merit monitor-reference typical_calls/ -o reference.json
    """
    with errors_in_one_line():
        from ..monitoring.sources import build_reference

        reference = build_reference(folders, system, condition)
        reference.save(output)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(reference.recordings.items()))
    typer.echo(f"Recordings of each signal: {counts}\nWritten to {output}")


def shadow_report(
    folder: Annotated[Path, typer.Argument(help="Folder of `sparse-merit serve --record`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the report; that of the record by default.")
    ] = None,
    feedback: Annotated[
        Path | None, typer.Option(help="File of corrected emotions; feedback.jsonl of the folder by default.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Reference of monitor-reference; the primary model by default.")
    ] = None,
    require: Annotated[
        str, typer.Option(help='Conditions for the candidate, such as "kappa>=0.6,p95_ratio<=1.2,failures<=0.001".')
    ] = "",
) -> None:
    """Report how a candidate did in shadow mode: agreement, latency, failures, drift, corrected emotions.

    Ends with exit code 1 if a condition of --require is not met or its value is unknown.

    Example: sparse-merit shadow-report record/ --require "kappa>=0.6,failures<=0.001"
    """
    with errors_in_one_line():
        from ..monitoring.drift import Reference
        from ..monitoring.shadow_report import (
            FEEDBACK,
            build_report,
            parse_requirements,
            read_comparisons,
            read_corrections,
            render_report,
            write_report,
        )

        requirements = parse_requirements(require)
        lines = read_comparisons(folder)
        path = feedback or folder / FEEDBACK
        corrections = read_corrections(path) if feedback is not None or path.exists() else []
        known = None if reference is None else Reference.load(reference)
        report = build_report(lines, corrections, known, requirements)
        path = write_report(report, output or folder)
    typer.echo(f"{render_report(report)}\nWritten to {path}")
    if not all(each["is_met"] for each in report["requirements"]):
        raise typer.Exit(1)

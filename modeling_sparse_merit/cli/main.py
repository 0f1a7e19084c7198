# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The command `sparse-merit` with all its subcommands.

torch and transformers are imported inside the commands, so that `sparse-merit --help` is fast. Exit codes: 0 success,
1 some recordings failed (they are listed, the others are done), a dataset has errors or a requirement is not met,
2 invalid usage or a full disk, 130 interrupted.
"""

from typing import Annotated

import typer

from .. import __version__
from .check import check
from .embed import embed
from .enhance import demo, enhance
from .experiments import calibrate, evaluate, train
from .info import info
from .mix import mix
from .models import convert, export, push
from .monitor import monitor_reference, shadow_report
from .page import show_page
from .prepare import ListsCommand, prepare
from .reader_study import reader_study
from .serve import serve
from .stream import stream
from .watch import watch

app = typer.Typer(
    name="sparse-merit",
    help="Enhance noisy speech and recognise its emotion.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Enhance noisy speech and recognise its emotion."""
    if version:
        typer.echo(f"sparse-merit {__version__}")
        raise typer.Exit()


COMMANDS = (
    *(enhance, watch, stream, serve, shadow_report, monitor_reference, demo, info),
    *(check, embed, evaluate, calibrate, export, push, convert),
)
for _command in COMMANDS:
    app.command()(_command)
app.command(name="app")(show_page)
app.command(cls=ListsCommand)(mix)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.add_typer(prepare, name="prepare")
app.add_typer(reader_study, name="reader-study")

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit prepare`: converts corpora and other sources to datasets."""

from importlib import import_module

import typer

from ..data.corpora import CORPORA, corpus
from .options import errors_in_one_line, quieten_datasets, quieten_hub_client

COMMANDS = {
    "noisy": ("evaluation.prepare_noisy", "A frozen noisy test set of speech datasets and noise datasets."),
    "descriptors": ("data.acoustic_features", "A speech dataset with acoustic descriptors, at several speeds."),
    "synthetic_noise": ("data.synthetic_noise", "Synthetic noises, and babble of speech datasets."),
}
"""Other sources: module and help."""

prepare = typer.Typer(help="Convert a corpus to a dataset for training or publication.", no_args_is_help=True)


def _add(name: str, help: str) -> None:
    """Adds `sparse-merit prepare NAME`, which passes on all arguments, including `--help`."""

    @prepare.command(
        name,
        help=help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        _run(name, context.args)


def _run(name: str, arguments: list[str]) -> None:
    """Runs a command; an exit message becomes its error."""
    with errors_in_one_line():
        try:
            from ..hub.datasets import push_dataset

            if name in CORPORA:
                main = corpus(name).main
            else:
                main = import_module(f"modeling_sparse_merit.{COMMANDS[name][0]}").main
        except ImportError as error:
            raise ImportError(f"{error}. Datasets need: pip install 'modeling-sparse-merit[train]'") from error
        quieten_hub_client()
        quieten_datasets()
        try:
            main(arguments, prog=f"sparse-merit prepare {name}", publish=push_dataset)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                typer.secho(stop.code.replace("error", "Error", 1), fg="red", err=True)
                raise typer.Exit(2) from stop
            raise typer.Exit(stop.code or 0) from stop


for _name, _help in CORPORA.items():
    _add(_name, _help)
for _name, (_, _help) in COMMANDS.items():
    _add(_name, _help)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit mix`: noisy files with their clean references."""

from pathlib import Path
from typing import Annotated

import typer

from .options import errors_in_one_line, printable, quieten_datasets


def transmission_names() -> list[str]:
    """Names of the simulated transmissions, for the completion of the shell."""
    from ..data.transmission import TRANSMISSIONS

    return list(TRANSMISSIONS)


def mix(
    speech: Annotated[str, typer.Argument(help="Clean speech: an audio file, a folder or a quoted glob.")],
    noise: Annotated[str, typer.Argument(help="Noise: an audio file, a folder or a quoted glob.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    snr_db: Annotated[
        list[float] | None, typer.Option(help="Signal-to-noise ratios in dB; -5 0 5 by default.")
    ] = None,
    transmission: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=transmission_names,
            help="Send the mixtures through a telephone line or codec, such as telephone, gsm or mp3.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed that selects the noises and their segments.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that `mix` has written.")] = False,
) -> None:
    """Mix speech with noise: noisy files, the clean reference of each, and mixtures.csv, which lists what was mixed.

    Frozen test sets for `evaluate` are made by `sparse-merit prepare noisy`.

    Example: sparse-merit mix speech/ noises/ -o mixed --snr-db -5 0 5 --transmission gsm
    """
    with errors_in_one_line():
        quieten_datasets()
        try:
            from ..evaluation.mix_files import mix_files
        except ImportError as error:
            raise ImportError(f"{error}. Mixing needs: pip install 'modeling-sparse-merit[train]'") from error
        result = mix_files(speech, noise, output, snr_db or (-5, 0, 5), transmission, seed, overwrite)
    for file, reason in result.failed.items():
        typer.secho(printable(f"Failed: {file}: {reason}"), fg="red", err=True)
    typer.echo(f"{result.mixtures} mixtures: {output / 'mixtures.csv'}")
    if result.failed:
        raise typer.Exit(1)

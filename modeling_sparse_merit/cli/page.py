# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit app`."""

from typing import Annotated

import typer

from ..app.limits import Limits
from .options import DeviceOption, ModelOption, errors_in_one_line


def show_page(
    model: ModelOption = None,
    device: DeviceOption = None,
    port: Annotated[
        int | None, typer.Option(help="Port; by default the first free one from 7860.", min=1, max=65_535)
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="Longest recording in minutes.", min=0.1)] = Limits.minutes,
    max_megabytes: Annotated[int, typer.Option(help="Largest file in MB.", min=1)] = Limits.megabytes,
) -> None:
    """Open a page in the browser that enhances recordings and shows their emotion. Recordings stay on this computer.

    Example: sparse-merit app --model tiny
    """
    with errors_in_one_line():
        from ..app.page import serve

        serve(model, device, Limits(max_minutes, max_megabytes), port=port, started=_tell)


def _tell(url: str) -> None:
    typer.echo(f"Open {url} in a browser. Ctrl-C ends the page and deletes its files.")

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Command-line options that several benchmarks share."""

from typing import Annotated

import typer

NameOption = Annotated[str, typer.Option(help="Of the files that are written.")]
SpeechOption = Annotated[list[str], typer.Option(help="Speech datasets.")]
NoiseOption = Annotated[str, typer.Option(help="A noise dataset.")]
ModelOption = Annotated[str | None, typer.Option(help="A checkpoint; the embedded one by default.")]
SplitOption = Annotated[str, typer.Option(help="Of the speech and noise datasets.")]

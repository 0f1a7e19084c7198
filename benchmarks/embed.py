# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Embeds a checkpoint into the package: `python -m benchmarks.embed NAME --model runs/NAME/best --half`.

`benchmarks/results/NAME/training_data.yaml` must exist. Without --model, only licence and card are rewritten, for
example after an evaluation, whose results.json is then `benchmarks/results/NAME/evaluation.json`.
"""

from pathlib import Path
from typing import Annotated

import typer

from modeling_sparse_merit.hub.embedded import document_checkpoint, embed_checkpoint

ROOT = Path(__file__).parents[1]


def main(
    name: Annotated[str, typer.Argument(help="Name of the checkpoint, such as base.")],
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of the checkpoint.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in fp16.")] = False,
) -> None:
    """Writes a checkpoint, its licence and its card into the package."""
    folder = ROOT / "modeling_sparse_merit" / "checkpoints" / name
    records = ROOT / "benchmarks" / "results" / name
    if model is None:
        document_checkpoint(folder, records)
    else:
        embed_checkpoint(model, folder, records, half)
    typer.echo(f"{folder} is ready: sparse-merit info --model {name}")


if __name__ == "__main__":
    typer.run(main)

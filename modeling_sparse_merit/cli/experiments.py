# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit train` and `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import errors_in_one_line, quieten_datasets


def train(context: typer.Context) -> None:
    """Train a model with the settings of a YAML file: sparse-merit train CONFIG.yaml [--field value ...].

    On several processes: accelerate launch -m modeling_sparse_merit.cli train CONFIG.yaml

    Example: sparse-merit train CONFIG.yaml --learning_rate 1e-4
    """
    with errors_in_one_line():
        try:
            from ..training.run import main
        except ImportError as error:
            raise ImportError(f"{error}. Training needs: pip install 'modeling-sparse-merit[train]'") from error
        main(context.args)


def evaluate(
    config: Annotated[Path, typer.Option(help="YAML file that names the systems, the test clips and the conditions.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; overrides the configured one.")
    ] = None,
) -> None:
    """Evaluate emotion recognition and enhancement of one or more systems on the same clean and noisy clips.

    On several processes: accelerate launch --multi_gpu -m modeling_sparse_merit.cli evaluate --config FILE

    Example: sparse-merit evaluate --config evaluation.yaml -o results
    """
    with errors_in_one_line():
        try:
            from ..evaluation import evaluate as run_evaluation
        except ImportError as error:
            raise ImportError(f"{error}. Evaluation needs: pip install 'modeling-sparse-merit[train]'") from error
        from transformers.utils import logging

        logging.disable_progress_bar()
        quieten_datasets()
        run_evaluation(config, output=output)

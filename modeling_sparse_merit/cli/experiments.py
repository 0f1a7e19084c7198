# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit train`, `evaluate` and `calibrate`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from .options import DeviceOption, errors_in_one_line, quieten_datasets

TRAININGS = ("speech_text", "conversation", "enhancer", "classifier")
"""First arguments of `train` that train another model than Sparse MERIT."""


def train(context: typer.Context) -> None:
    """Train a model with the settings of a YAML file: sparse-merit train CONFIG.yaml [--field value ...].

    A model of speech and text: sparse-merit train speech_text CONFIG.yaml [--field value ...]. Likewise conversation,
    a model of dialogues; enhancer, an audio enhancer; and classifier, a classifier of sounds. On several processes:
    accelerate launch -m modeling_sparse_merit.cli train CONFIG.yaml

    Example: sparse-merit train CONFIG.yaml --learning_rate 1e-4
    """
    name, arguments = "run", context.args
    if arguments and arguments[0] in TRAININGS:
        name, *arguments = arguments
    with errors_in_one_line():
        try:
            training = import_module(f"..training.{name}", __package__)
        except ImportError as error:
            raise ImportError(f"{error}. Training needs: pip install 'modeling-sparse-merit[train]'") from error
        training.main(arguments)


def evaluate(
    config: Annotated[Path, typer.Option(help="YAML file that names the systems, the test clips and the conditions.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; overrides the configured one.")
    ] = None,
) -> None:
    """Evaluate emotion recognition and enhancement of one or more systems on the same clean and noisy clips.

    Conversation models are evaluated on the utterances of datasets with embeddings.

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


def calibrate(
    model: Annotated[str, typer.Argument(help="Name of an embedded checkpoint, folder or Hub id.")],
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET...", help="Speech datasets with dev and test.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")] = Path("calibration"),
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of `evaluate`, which names noise, SNRs and transmissions; clean by default."),
    ] = None,
    recall: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=SHARE", help="Choose a threshold for an emotion that has this recall on dev."),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Calibrate emotion scores: fit a temperature on dev, and measure on test what it changes.

    Writes calibration.json next to the weights, which pipelines apply, and a report. The scores are decision support,
    not a decision.

    Example: sparse-merit calibrate runs/small/best datasets/calls --config evaluation.yaml --recall angry=0.9
    """
    with errors_in_one_line():
        recalls = _recalls(recall or [])
        try:
            from ..evaluation.calibration import calibrate as run_calibration
        except ImportError as error:
            raise ImportError(f"{error}. Calibration needs: pip install 'modeling-sparse-merit[train]'") from error
        from transformers.utils import logging

        logging.disable_progress_bar()
        quieten_datasets()
        run_calibration(model, datasets, output, config, recalls, device)


def _recalls(given: list[str]) -> dict[str, float]:
    """Emotions with their required recalls."""
    recalls: dict[str, float] = {}
    for text in given:
        label, _, share = text.rpartition("=")
        try:
            recalls[label] = float(share)
        except ValueError:
            label = ""
        if not label:
            raise ValueError(f"--recall is {text!r}; expected LABEL=SHARE, such as angry=0.9.")
    return recalls

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a run: written under a temporary name, renamed, then pruned. A killed run keeps a complete one."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, load_model, save_file
from torch.optim.swa_utils import AveragedModel

from ..files import replace_folder

PROGRESS_FILE = "progress.json"
MODEL_FILE = "model.safetensors"
BALANCING_FILE = "model_1.safetensors"  # what accelerate calls the second of the modules it prepared
AVERAGE_FILE = "average.safetensors"


@dataclass
class Progress:
    """
    The progress of a run.

    Args:
        epoch: Finished epochs, over all stages.
        step: Finished optimizer steps.
        best_score: The best score of all validations.
        waited: Validations of this stage since the last one with a new best score.
    """

    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    waited: int = 0


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest number; unfinished ones (`.tmp`) do not count."""
    return next(reversed(_checkpoints(folder)), None)


def save_checkpoint(
    accelerator: Accelerator, folder: Path, progress: Progress, average: AveragedModel | None, keep: int
) -> None:
    """
    Writes `checkpoint-EPOCH`. It gets its name when it is complete; then older checkpoints are deleted.

    Args:
        accelerator: Has the prepared model, optimizer and schedule.
        folder: Folder of the run.
        progress: The progress of the run.
        average: The moving average of the weights, if there is one.
        keep: How many checkpoints remain.
    """
    final = folder / f"checkpoint-{progress.epoch}"
    partial = final.with_name(final.name + ".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if average is not None:
            save_file(average.state_dict(), partial / AVERAGE_FILE)
        (partial / PROGRESS_FILE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        replace_folder(partial, final)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_weights(checkpoint: Path, model: torch.nn.Module, average: AveragedModel | None) -> None:
    """
    Loads the weights and their average; `accelerator.load_state` loads everything else.

    Args:
        checkpoint: Folder of the checkpoint.
        model: The model, before it is prepared.
        average: The moving average of its weights, if there is one.
    """
    load_model(model, checkpoint / MODEL_FILE)
    if average is not None:
        average.load_state_dict(load_file(checkpoint / AVERAGE_FILE))


def load_progress(checkpoint: Path) -> Progress:
    """The progress of the run when `checkpoint` was written."""
    return Progress(**json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8")))


def _checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, the oldest first."""
    complete = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(complete, key=lambda path: int(path.name.split("-")[1]))

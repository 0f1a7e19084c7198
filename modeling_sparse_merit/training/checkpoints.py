# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a run: written beside and renamed, pruned afterwards, so that a killed run finds a whole one."""

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
    Where a run stands.

    Attributes:
        epoch: Finished epochs, over all stages.
        step: Optimizer steps.
        best_score: Of all validations.
        waited: Validations of this stage since the last one that was better than all before.
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
    """Writes `checkpoint-EPOCH` in full before it gets its name and before older ones go."""
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
    """Brings the weights and their average back to where they were; `accelerator.load_state` does so for the rest."""
    load_model(model, checkpoint / MODEL_FILE)
    if average is not None:
        average.load_state_dict(load_file(checkpoint / AVERAGE_FILE))


def load_progress(checkpoint: Path) -> Progress:
    """Where the run stood when `checkpoint` was written."""
    return Progress(**json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8")))


def _checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, the oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))

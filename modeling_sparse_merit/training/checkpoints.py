# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Checkpoints of a run: written under a temporary name, renamed, then pruned. A killed run keeps a complete one.

`checkpoint-2` was written after two epochs, and `checkpoint-2-350` in the third one, after step 350 of the run.
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.checkpointing import load_accelerator_state
from safetensors.torch import load_file, load_model, save_file
from torch.optim.swa_utils import AveragedModel

from ..files import replace_folder, replacing
from .interruption import write_errors

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
        batches: Batches of each process in the unfinished epoch that are done.
        sums: {name: [sum, number]} of the values of these batches, over all processes.
        to_validate: Whether the last finished epoch is still to be validated.
        processes: Number of processes.
    """

    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    waited: int = 0
    batches: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    to_validate: bool = False
    processes: int = 1

    @property
    def checkpoint(self) -> str:
        """Name of a checkpoint with this progress."""
        return f"checkpoint-{self.epoch}" + (f"-{self.step}" if self.batches else "")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest number; unfinished ones (`.tmp`) do not count."""
    return next(reversed(_checkpoints(folder)), None)


def save_checkpoint(
    accelerator: Accelerator, folder: Path, progress: Progress, average: AveragedModel | None, keep: int
) -> None:
    """
    Writes a checkpoint. It gets its name when it is complete; then older checkpoints are deleted.

    Args:
        accelerator: Has the prepared model, optimizer and schedule.
        folder: Folder of the run.
        progress: The progress of the run.
        average: The moving average of the weights, if there is one.
        keep: How many checkpoints remain.

    Raises:
        OutputError: The disk is full, for example. Earlier checkpoints remain.
    """
    final = folder / progress.checkpoint
    partial = final.with_name(final.name + ".tmp")
    if accelerator.is_main_process:
        for unfinished in folder.glob("checkpoint-*.tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with write_errors(final, lambda: newest_checkpoint(folder)):
            accelerator.save_state(str(partial))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                if average is not None:
                    save_file(average.state_dict(), partial / AVERAGE_FILE)
                (partial / PROGRESS_FILE).write_text(json.dumps(asdict(progress)), encoding="utf-8")
                replace_folder(partial, final)
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
    if accelerator.is_main_process:
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def save_progress(checkpoint: Path, progress: Progress) -> None:
    """
    Replaces the progress in a checkpoint whose weights have not changed since.

    Args:
        checkpoint: Folder of the checkpoint.
        progress: The progress of the run.

    Raises:
        OutputError: The disk is full, for example. The checkpoint remains as it is.
    """
    with write_errors(checkpoint, lambda: checkpoint), replacing(checkpoint / PROGRESS_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")


def load_random_states(checkpoint: Path, accelerator: Accelerator) -> None:
    """
    Sets the random generators of this process to their states when `checkpoint` was written.

    Args:
        checkpoint: Folder of the checkpoint.
        accelerator: Knows which process this is.
    """
    load_accelerator_state(str(checkpoint), [], [], [], [], accelerator.process_index)


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
    complete = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+(-\d+)?", path.name)]
    return sorted(complete, key=lambda path: [int(number) for number in path.name.split("-")[1:]])

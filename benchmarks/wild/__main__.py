# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains the systems of a folder of `benchmarks/wild` with several seeds, and scores them on the test split.

A file of the folder is a system, except for `base.yaml`, which has what they share. Finished runs are skipped, and
interrupted ones resume. Scores are means over the seeds, with 95 % bootstrap intervals over clips and over speakers
(of MELD, dialogues), and differences from the baseline with p-values of paired permutation tests, corrected by Holm.
Writes `NAME.json` and `NAME.md` to `benchmarks/results/wild`.

    python -m benchmarks.wild emobank --text-model TEXT_ENCODER
    python -m benchmarks.wild meld --text-model TEXT_ENCODER
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.wild.scores import compare, describe, markdown
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import SpeechTextForEmotion, SpeechTextProcessor
from modeling_sparse_merit.evaluation.statistics import Resampling
from modeling_sparse_merit.files import sha256_of_files
from modeling_sparse_merit.models.sparse_merit.configuration_speech_text import SPEECH
from modeling_sparse_merit.data.datasets import read_datasets
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.speech_text import SpeechTextSettings
from modeling_sparse_merit.training.speech_text_clips import Collator
from modeling_sparse_merit.training.speech_text import load_clips
from modeling_sparse_merit.training.targets import configured_tasks

FOLDER, RUNS = Path(__file__).parent, Path("runs/wild")
FINISHED = "finished"  # an empty file in the folder of a finished run
BASELINES = {"emobank": "frozen", "meld": "ce_natural"}
UNITS = {"emobank": "source_file", "meld": "dialogue"}
"""Column whose values are drawn together for the interval over speakers."""
CLIPS_AT_ONCE = 32


def train(folder: Path, arguments: list[str]) -> None:
    """Trains one run unless it is finished."""
    if (folder / FINISHED).exists():
        return
    print(f"Training {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "modeling_sparse_merit.training.speech_text", *arguments], check=True)
    (folder / FINISHED).touch()


@torch.inference_mode()
def predict(best: Path, settings: SpeechTextSettings) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[Any]]:
    """
    Predictions of a trained model for the test split.

    Args:
        best: Folder of the model.
        settings: Settings of its training.

    Returns:
        Targets and predictions {task: classes (clips,) or ratings (clips, K)}, and the rows of the clips.
    """
    model, processor = SpeechTextForEmotion.from_pretrained(best).eval(), SpeechTextProcessor.from_pretrained(best)
    tasks = configured_tasks(settings, model.tasks)
    clips, collate = load_clips(settings, "test", tasks, model), Collator(processor)
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in tasks}
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        examples = [clips[index] for index in range(start, min(start + CLIPS_AT_ONCE, len(clips)))]
        outputs = model(**{name: value for name, value in collate(examples).items() if "labels" not in name})
        for name, task in tasks.items():
            values = outputs.of(name)
            predicted[name].append((values.argmax(-1) if task.kind == "classification" else values).numpy())
    targets = {name: np.stack([target[name] for target in clips.targets]) for name in tasks}
    return targets, {name: np.concatenate(values) for name, values in predicted.items()}, clips.kept

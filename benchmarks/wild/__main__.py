# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains the systems of a folder of `benchmarks/wild` with several seeds, and scores them on the test split.

A file of the folder is a system, except for `base.yaml`, which has what they share. Finished runs are skipped, and
interrupted ones resume. Scores are means over the seeds, with 95 % bootstrap intervals over clips and over speakers
(of MELD, dialogues), and differences from the baseline with p-values of paired permutation tests, corrected by Holm.
Writes `NAME.json` and `NAME.md` to `benchmarks/results/wild`.

    python -m benchmarks.wild emobank --text-model TEXT_ENCODER
    python -m benchmarks.wild meld --text-model TEXT_ENCODER
    python -m benchmarks.wild acted --text-model TEXT_ENCODER
"""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import yaml
from transformers import AutoConfig

from benchmarks.wild.scores import Predictions, score_systems, scores_as_markdown
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import SpeechTextForEmotion, SpeechTextProcessor
from modeling_sparse_merit.models.sparse_merit.configuration_speech_text import SPEECH
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.speech_text import SpeechTextSettings, embed_once, load_clips
from modeling_sparse_merit.training.speech_text_clips import Collator
from modeling_sparse_merit.training.targets import configured_tasks

FOLDER, RUNS = Path(__file__).parent, Path("runs/wild")
FINISHED = "finished"  # an empty file in the folder of a finished run
BASELINES = {"emobank": "frozen", "meld": "ce_natural", "acted": "speech"}
UNITS = {"meld": "dialogue", "acted": "speaker"}
"""Column whose values are drawn together for the interval over speakers; none for EmoBank."""
CLIPS_AT_ONCE = 32


def train(folder: Path, arguments: list[str]) -> None:
    """Trains one run unless it is finished."""
    if (folder / FINISHED).exists():
        return
    print(f"Training {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "modeling_sparse_merit.training.speech_text", *arguments], check=True)
    (folder / FINISHED).touch()


@torch.inference_mode()
def predict(best: Path, settings: SpeechTextSettings, unit: str | None) -> Predictions:
    """
    Predictions of a trained model for the test split.

    Args:
        best: Folder of the model.
        settings: Settings of its training.
        unit: The column whose values are drawn together, if any.
    """
    model, processor = SpeechTextForEmotion.from_pretrained(best).eval(), SpeechTextProcessor.from_pretrained(best)
    (name,) = tasks = configured_tasks(settings, model.tasks)
    clips, collate = load_clips(settings, "test", tasks, model), Collator(processor)
    embed_once(model, processor, clips, settings)
    predicted = []
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        batch = collate([clips[index] for index in range(start, min(start + CLIPS_AT_ONCE, len(clips)))])
        outputs = model(**{key: value for key, value in batch.items() if "labels" not in key})
        values = outputs.of(name)
        predicted.append((values.argmax(-1) if tasks[name].kind == "classification" else values).numpy())
    true = np.stack([targets[name] for targets in clips.targets])
    units = [None] * len(true) if unit is None else [str(value) for value in clips.described[unit]]
    return Predictions(tasks[name], true, np.concatenate(predicted), units)


def main(
    group: Annotated[str, typer.Argument(help=f"The folder: {' or '.join(BASELINES)}.")],
    text_model: Annotated[str, typer.Option(help="Text encoder of transformers: a folder or a Hub id.")],
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
) -> None:
    """Trains and scores the systems of a folder, and writes the results."""
    files = {path.stem: path for path in sorted((FOLDER / group).glob("*.yaml")) if path.stem != "base"}
    members: dict[str, list[Predictions]] = {}
    for name, path in files.items():
        for seed in range(seeds):
            folder = RUNS / group / name / str(seed)
            arguments = [str(path), "--seed", str(seed), "--output_dir", str(folder)]
            if yaml.safe_load(path.read_text(encoding="utf-8")).get("stage") != SPEECH:
                arguments += ["--text_model", text_model]
            settings = parse_fields(SpeechTextSettings, arguments, "")
            train(folder, arguments)
            members.setdefault(name, []).append(predict(folder / "best", settings, UNITS.get(group)))
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.wild", *sys.argv[1:]]).replace(text_model, "TEXT_ENCODER"),
        "commit": commit(),
        "text_encoder": AutoConfig.from_pretrained(text_model).to_dict(),
        "seeds": seeds,
        **score_systems(members, BASELINES[group]),
    }
    write_results(RESULTS / "wild" / group, result, scores_as_markdown(group, result))
    print(scores_as_markdown(group, result))


if __name__ == "__main__":
    typer.run(main)

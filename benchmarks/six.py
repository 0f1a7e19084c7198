# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Six emotions on the experts of sparse-merit-base, next to its four emotions, on test clips of six emotions.

Reads the clips of `sparse-merit evaluate --config benchmarks/six/evaluation.yaml`, whose model has both tasks. The
four emotions are always wrong about fear and surprise: their macro-F1 over six classes is the cost of forcing four
classes on six. Differences have p-values of a paired permutation test over speakers. Writes `six.json` and `six.md` to
`benchmarks/results/six`.

    sparse-merit train benchmarks/six/training.yaml --seed 0 --output_dir runs/six/0
    python -m benchmarks.six --task-file modeling_sparse_merit/checkpoints/base/tasks/six.safetensors
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as parquet
import typer

from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SparseMeritFeatureExtractor
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion as Model
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation.statistics import (
    Resampling,
    compare_macro_f1,
    emotion_scores,
    resampled_score,
)
from modeling_sparse_merit.evaluation.task_scores import PREFIX
from modeling_sparse_merit.models.sparse_merit.task_files import add_task

CONFIG = Path(__file__).parent / "six" / "evaluation.yaml"
WHOLE, EVALUATION = Path("runs/six/whole"), Path("runs/six/evaluation")
TEST = Path("runs/six/test")
CORPORA = ("ravdess", "emodb", "emodb_more", "nemo", "ased")
TASK, RARE = "six", "fear"
RESAMPLES, SEED = 1_000, 0


def write_whole(task_file: Path) -> list[str]:
    """Writes the default checkpoint with the task to `WHOLE`; returns the labels of the task."""
    model = Model.from_pretrained(DEFAULT_CHECKPOINT)
    add_task(model, task_file)
    model.save_pretrained(WHOLE)
    SparseMeritFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(WHOLE)
    return list(model.config.clip_tasks[TASK]["labels"])


def write_test_set(labels: list[str]) -> None:
    """Writes the test clips of the six emotions, with a column `six`, which is no column that the emotions share."""
    for corpus in CORPORA:
        dataset = read_dataset(f"tables/{corpus}")
        names = dataset.features["emotion"].names
        emotions = [None if number is None else names[number] for number in dataset["emotion"]]
        chosen = [row for row, split in enumerate(dataset["split"]) if split == "test" and emotions[row] in labels]
        test = dataset.select(chosen).add_column(TASK, [emotions[row] for row in chosen])
        test.save_to_disk(str(TEST / corpus))


def described(rows: list[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
    """Scores of both tasks on the clips of one condition."""
    true, six, four = (
        np.array([labels.index(row[column]) for row in rows]) for column in (TASK, f"{PREFIX}{TASK}", "predicted")
    )
    resampling = Resampling([row["speaker"] for row in rows], RESAMPLES, SEED)
    names = {"six": six[None], "four": four[None]}
    scores = {
        name: emotion_scores(true, predicted, len(labels), resampling, stream)["macro_f1"].describe()
        for stream, (name, predicted) in enumerate(names.items())
    }
    is_rare, hit = true == labels.index(RARE), six == labels.index(RARE)

    def share_of(clips: np.ndarray) -> dict[str, Any]:
        """The share of some clips that are fear and taken for it."""

        def share(counts: np.ndarray) -> np.ndarray:
            return ((counts * (is_rare & hit)).sum(1) / np.maximum((counts * clips).sum(1), 1))[:, None]

        return resampled_score(share, len(rows), 1, resampling, 0).describe()

    known = np.isin(true, np.unique(four))  # clips of the four classes
    return {
        "clips": len(rows),
        "speakers": len({row["speaker"] for row in rows}),
        "macro_f1": scores,
        "difference": compare_macro_f1(true, six[None], four[None], len(labels), resampling, (0, 1)).describe(),
        "recall_of_fear": share_of(is_rare),
        "precision_of_fear": share_of(hit),
        "accuracy_on_four_classes": {
            "six": float((six == true)[known].mean()),
            "four": float((four == true)[known].mean()),
        },
        "fear_taken_for": {label: int((is_rare & (four == place)).sum()) for place, label in enumerate(labels)},
    }


def shown(score: dict[str, Any]) -> str:
    """A score with its interval over speakers."""
    low, high = score["speaker_interval"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def as_markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    first = next(iter(results["conditions"].values()))
    lines = [
        f"{first['clips']} test clips of {first['speakers']} speakers, intervals over speakers; commit "
        f"{results['commit']}, seed of the training {results['seed']}, dev macro-F1 of the seeds "
        f"{', '.join(f'{value:.3f}' for value in results['dev_macro_f1'])}.",
        "",
        "| condition | macro-F1, six | forced into four | difference | p | recall of fear | precision of fear |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in results["conditions"].items():
        difference = row["difference"]
        low, high = difference["difference_speaker_interval"]
        lines.append(
            f"| {name} | {shown(row['macro_f1']['six'])} | {shown(row['macro_f1']['four'])} | "
            f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | {difference['speaker_p']:.4f} | "
            f"{shown(row['recall_of_fear'])} | {shown(row['precision_of_fear'])} |"
        )
    lines += [
        "",
        "Accuracy on the clips of the four classes, where the task six may also name fear and surprise:",
        "",
        "| condition | six classes | four classes |",
        "|---|---|---|",
    ]
    for name, row in results["conditions"].items():
        accuracy = row["accuracy_on_four_classes"]
        lines.append(f"| {name} | {accuracy['six']:.3f} | {accuracy['four']:.3f} |")
    return "\n".join(lines)


def best_scores(folders: list[Path]) -> list[float]:
    """The best score on dev of each training."""
    results = [json.loads((folder / "best" / "dev_results.json").read_text()) for folder in folders]
    return [result["dev"][f"{TASK}/macro_f1"] for result in results]


def main(
    task_file: Annotated[Path, typer.Option(help="File of the task.")],
    seed: Annotated[int, typer.Option(help="Seed of the training that the file is from.")] = 0,
) -> None:
    """Evaluates the task on the test split."""
    labels = write_whole(task_file)
    write_test_set(labels)
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "evaluate", "--config", str(CONFIG)]
    subprocess.run(command, check=True)
    conditions = {}
    for path in sorted((EVALUATION / "clips" / "model" / "0").glob("*.parquet")):
        conditions[path.stem] = described(parquet.read_table(path).to_pylist(), labels)
    dev = best_scores(sorted(Path("runs/six").glob("[0-9]*")))
    results = {"commit": commit(), "seed": seed, "dev_macro_f1": dev, "labels": labels, "conditions": conditions}
    write_results(RESULTS / "six" / "six", results, as_markdown(results))


if __name__ == "__main__":
    typer.run(main)

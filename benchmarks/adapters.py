# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning with adapters on labels of the base model: initialising the classifier from the base or at random.

Two runs per seed differ only in the names of the emotions: with the names of the base, its classifier rows are reused;
with unknown names, the rows are initialised at random. Both runs and the base are scored on the same dev mixtures of
unseen speakers.
Writes `adapters.json` and `adapters.md` to `benchmarks/results`.

    python -m benchmarks.adapters --speech tables/ased --noise tables/esc10
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from datasets import ClassLabel, Dataset

from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, __version__
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.files import sha256_of_file
from modeling_sparse_merit.training import build, dataset
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings
from modeling_sparse_merit.training.validation import validate

LABELS = ("angry", "sad", "neutral")
ADAPTERS = ("--lora_rank", "8")
SCORES = ("macro_f1", "si_sdr_gain")


def renamed(name: str) -> str:
    """A word that the base does not have."""
    return f"my_{name}"


def draw_clips(table: str, clips: int, seed: int) -> Dataset:
    """A dataset with so many training clips of the labels, drawn at random, and all its dev clips of the labels."""
    rows = read_dataset(table)
    names = rows.features["emotion"].names
    labelled = [emotion is not None and names[emotion] in LABELS for emotion in rows["emotion"]]
    chosen = [i for i, split in enumerate(rows["split"]) if labelled[i] and split == "dev"]
    train = [i for i, split in enumerate(rows["split"]) if labelled[i] and split == "train"]
    drawn = np.random.default_rng(seed).permutation(train)[:clips]
    return rows.select([*chosen, *sorted(drawn.tolist())])


def write_both(rows: Dataset, folder: Path) -> tuple[str, str]:
    """Writes the dataset, and a copy whose emotions have other names; returns both paths."""
    names = [renamed(name) for name in rows.features["emotion"].names]
    paths = [str(folder / name) for name in ("known.parquet", "renamed.parquet")]
    rows.to_parquet(paths[0])
    rows.cast_column("emotion", ClassLabel(names=names)).to_parquet(paths[1])
    return paths[0], paths[1]


def score_base(settings: TrainingSettings) -> dict[str, float]:
    """Scores of the base, with the settings' labels alone, before any training."""
    accelerator = Accelerator()
    loader = dataset.build_loader(
        dataset.load_clips(settings, "dev"), build.build_feature_extractor(settings), settings, shuffle=False
    )
    model = accelerator.prepare(build.build_model(settings))
    scores = validate(accelerator, model, accelerator.prepare(loader), len(settings.labels))
    return {name: scores[name] for name in SCORES}


def train(arguments: list[str], folder: Path) -> list[dict[str, float]]:
    """Trains, and returns the dev scores after each epoch."""
    training_run.main([*arguments, "--output_dir", str(folder)])
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: entry[f"dev/{name}"] for name in SCORES} for entry in entries if "dev/macro_f1" in entry]


def compare(speech: str, noise: str, clips: int, epochs: int, seed: int) -> dict[str, Any]:
    """Both runs on one draw of training clips, and the base on their dev mixtures."""
    rows = draw_clips(speech, clips, seed)
    counts = {f"{split}_clips": rows["split"][:].count(split) for split in ("train", "dev")}
    shared = ["--model", str(DEFAULT_CHECKPOINT), "--noise", noise, "--seed", str(seed)]
    shared += ["--learning_rate", "5e-4", "--epochs", str(epochs)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_both(rows, folder)
        known = [*shared, "--speech", paths[0], "--labels", *LABELS]
        own = [*shared, "--speech", paths[1], "--labels", *map(renamed, LABELS)]
        return {
            **counts,
            "seed": seed,
            "base": score_base(parse_settings(known)),
            "taken_over": train([*known, *ADAPTERS], folder / "taken_over"),
            "random": train([*own, *ADAPTERS], folder / "random"),
        }


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    runs = results["runs"]
    kept = sum(run["taken_over"][0]["macro_f1"] >= run["base"]["macro_f1"] for run in runs)
    lines = [
        "# Adapters on labels that the base has",
        "",
        f"`{results['command']}`, commit {results['commit']}: adapters of rank 8 on {results['model']} (SHA-256 "
        f"{results['sha256'][:12]}), learning rate 5e-4, batches of 32 clips, on {results['speech']} with noise of "
        f"{results['noise']}; labels {', '.join(LABELS)}. Macro-F1 on the mixtures of {runs[0]['dev_clips']} dev "
        "clips, whose speakers are not among those of the training clips. The classifier's rows are those of the "
        "base, or, under names that the base does not have, drawn at random.",
        "",
        f"| training clips | seed | rows | base | {' | '.join(f'epoch {n + 1}' for n in range(results['epochs']))} |",
        "|---|---|---|---|" + "---|" * results["epochs"],
    ]
    for run in runs:
        for name, title in (("taken_over", "taken over"), ("random", "at random")):
            curve = " | ".join(f"{scores['macro_f1']:.3f}" for scores in run[name])
            cells = f"{run['train_clips']} | {run['seed']} | {title} | {run['base']['macro_f1']:.3f}"
            lines.append(f"| {cells} | {curve} |")
    verdict = (
        f"With rows taken over, macro-F1 after the first epoch is not below the base in {kept} of {len(runs)} runs."
    )
    return "\n".join([*lines, "", verdict]) + "\n"


def main(
    speech: Annotated[str, typer.Option(help="Dataset of speech with emotions, train and dev.")],
    noise: Annotated[str, typer.Option(help="Dataset of noise, train and dev.")],
    clips: Annotated[list[int] | None, typer.Option(help="Numbers of training clips; 80 and 320 by default.")] = None,
    epochs: Annotated[int, typer.Option(help="Of each run.")] = 5,
    seeds: Annotated[int, typer.Option(help="Runs of each kind.")] = 2,
) -> None:
    """Trains both kinds of run for each seed and writes the results."""
    torch.set_num_threads(1)
    measured = commit()
    runs = [compare(speech, noise, number, epochs, seed) for number in clips or (80, 320) for seed in range(seeds)]
    results = {
        "command": " ".join(["python -m benchmarks.adapters", *sys.argv[1:]]),
        "commit": measured,
        "version": __version__,
        "model": f"sparse-merit-{DEFAULT_CHECKPOINT.name}",
        "sha256": sha256_of_file(DEFAULT_CHECKPOINT / "model.safetensors"),
        "speech": Path(speech).name,
        "noise": Path(noise).name,
        "epochs": epochs,
        "runs": runs,
    }
    write_results(RESULTS / "adapters", results, render(results))


if __name__ == "__main__":
    typer.run(main)

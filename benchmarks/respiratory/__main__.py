# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Enhancement before the classification of respiratory sounds (arXiv 2407.13895): trains the enhancers and the three arms
of the classifier for each fold of patients, and scores them on held-out patients in noise that they were not trained
on. Finished runs are skipped, and interrupted ones resume. Writes `enhancement` and `classification` (.json and .md)
to `benchmarks/results/respiratory`. The figures are no clinical claim.

    python -m benchmarks.respiratory ICBHI_FOLDER --public-clips CLIPS_FOLDER
"""

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from benchmarks.respiratory.classification import ARMS, measure_arms
from benchmarks.respiratory.costs import measure_costs
from benchmarks.respiratory.enhancement import measure_gains, measure_published_clips
from benchmarks.respiratory.folds import Fold, make_folds
from benchmarks.respiratory.tables import classification_as_markdown, enhancement_as_markdown
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.training import classifier, enhancer

FOLDER, RUNS = Path(__file__).parent, Path("runs/respiratory")
STRUCTURES = ("mask_lstm", "wave_u_net")
CLEANED_BY = "mask_lstm"
"""The enhancer of the third arm."""
FINISHED = "finished"  # an empty file in the folder of a finished run
COMMAND = "python -m benchmarks.respiratory ICBHI_FOLDER --public-clips CLIPS_FOLDER"


def train_enhancers(fold: Fold) -> None:
    """Trains the enhancers of a fold that are not finished."""
    for structure in STRUCTURES:
        _train(fold, enhancer, structure, ["--data", str(fold.recordings)])


def train_arms(fold: Fold) -> None:
    """Trains the classifiers of a fold that are not finished."""
    for arm in ARMS:
        options = ["--data", str(fold.cycles)]
        if arm == "enhanced":
            options += ["--cleaned_by", str(fold.folder / CLEANED_BY / "best")]
        _train(fold, classifier, f"cnn14_{arm}", options)


def _train(fold: Fold, training: ModuleType, name: str, options: list[str]) -> None:
    folder = fold.folder / name
    if not (folder / FINISHED).exists():
        print(f"Training {folder}", flush=True)
        training.main([str(FOLDER / f"{name}.yaml"), "--output_dir", str(folder), *options])
        (folder / FINISHED).touch()


def main(
    icbhi: Annotated[Path, typer.Argument(help="ICBHI 2017, or a part of it.")],
    public_clips: Annotated[Path, typer.Option(help="The nine clips of the authors, NAME_clean.flac and so on.")],
    noise: Annotated[list[str] | None, typer.Option(help="Noise datasets for the test.")] = None,
) -> None:
    """Trains, scores, and writes the results."""
    noise = noise or ["tables/urbansound8k", "tables/nonspeech_noisex"]
    folds = make_folds(icbhi, RUNS)
    for fold in folds:
        train_enhancers(fold)
    origin = {"command": COMMAND, "commit": commit()}
    tested = [row for fold in folds for row in read_dataset(fold.recordings, "test")["patient"]]
    enhancement = {
        **origin,
        "recordings": len(tested),
        "patients": len(set(tested)),
        "gains": measure_gains(folds, STRUCTURES, noise),
        "published_clips": measure_published_clips(public_clips, folds, STRUCTURES),
        "costs": measure_costs({name: folds[0].folder / name / "best" for name in STRUCTURES}),
    }
    write_results(RESULTS / "respiratory" / "enhancement", enhancement, enhancement_as_markdown(enhancement))
    for fold in folds:
        train_arms(fold)
    classification = {**origin, **measure_arms(folds, noise, CLEANED_BY)}
    text = classification_as_markdown(classification)
    write_results(RESULTS / "respiratory" / "classification", classification, text)


if __name__ == "__main__":
    typer.run(main)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Folds over patients: every patient is tested once, by models that were trained on others."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus

NUM_FOLDS = 2


@dataclass(frozen=True)
class Fold:
    """
    A fold: its held-out patients, and its datasets.

    Attributes:
        folder: of the datasets and of the runs.
        dev, test: patients.
    """

    folder: Path
    dev: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def cycles(self) -> Path:
        """The dataset of the breathing cycles."""
        return self.folder / "cycles"

    @property
    def recordings(self) -> Path:
        """The dataset of the recordings."""
        return self.folder / "recordings"


def make_folds(corpus_folder: Path, runs: Path) -> list[Fold]:
    """
    Writes the datasets of each fold, where they do not exist yet.

    Args:
        corpus_folder: ICBHI 2017, or a part of it.
        runs: folder of the folds.
    """
    icbhi, folds = corpus("icbhi"), []
    for number, (dev, test) in enumerate(divide(icbhi.build(corpus_folder, test=()))):
        fold = Fold(runs / f"fold_{number}", dev, test)
        folds.append(fold)
        for folder, is_whole in ((fold.cycles, False), (fold.recordings, True)):
            if not folder.exists():
                dataset = icbhi.build(corpus_folder, recordings=is_whole, dev=dev, test=test)
                prepare.write_dataset(dataset, folder, embed=True)
    return folds


def divide(cycles: Dataset) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """
    Patients of the dev and of the test split of each fold. Patients with abnormal cycles are dealt out first, so that
    each part has some; a third of the patients that are not tested are dev.

    Args:
        cycles: dataset of breathing cycles.
    """
    patients = cycles["patient"][:]
    normal = cycles.features["label"].str2int("normal")
    abnormal = Counter(patient for patient, label in zip(patients, cycles["label"], strict=True) if label != normal)
    ordered = sorted(set(patients), key=lambda patient: (-abnormal[patient], patient))
    parts = [tuple(ordered[number::NUM_FOLDS]) for number in range(NUM_FOLDS)]
    others = [[patient for patient in ordered if patient not in part] for part in parts]
    return [(tuple(rest[2::3]), part) for part, rest in zip(parts, others, strict=True)]

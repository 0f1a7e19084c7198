# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""ICBHI scores of the arms of a classifier by SNR, with intervals over patients, and by device."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.respiratory.enhancement import HIGH_PASS
from benchmarks.respiratory.folds import Fold
from modeling_sparse_merit import Cnn14ForAudioClassification
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.high_pass import high_pass
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.evaluation.statistics import (
    Resampling,
    confusion_cells,
    percentile_interval,
    resampled_confusion,
)
from modeling_sparse_merit.metrics.icbhi import CLASSES, icbhi_from_confusion
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, load_audio
from modeling_sparse_merit.training.cascade import AudioEnhancement
from modeling_sparse_merit.training.classifier import ClassifierCollator
from modeling_sparse_merit.training.sounds import waveform_extractor

ARMS = ("clean", "injected", "enhanced")
SNR_DB = (None, 10.0, 0.0)
SCORES = ("specificity", "sensitivity", "score")
RESAMPLES = 2_000
CLIPS_AT_ONCE = 16


def measure_arms(folds: Sequence[Fold], noise: Sequence[str], enhancer: str) -> dict[str, Any]:
    """
    Scores of each arm at each SNR, and their differences from the arm that was trained on clean sounds.

    Args:
        folds: the folds.
        noise: noise datasets that were not trained on; their test split is taken.
        enhancer: name of the enhancer of the third arm.
    """
    predicted: dict[tuple[str, float | None], list[int]] = {}
    true, patients, devices = [], [], []
    for fold in folds:
        cycles = read_dataset(fold.cycles, "test")
        true += cycles["label"][:]
        patients += cycles["patient"][:]
        devices += cycles["device"][:]
        for snr_db in SNR_DB:
            sounds = list(_sounds(cycles, noise, snr_db))
            for arm in ARMS:
                predicted.setdefault((arm, snr_db), []).extend(_predict(fold, arm, sounds, enhancer))
    labels, resampling = np.array(true), Resampling(patients, RESAMPLES, 0)
    draws = {key: _draws(labels, np.array(values), resampling) for key, values in predicted.items()}
    return {
        "cycles": {name: int((labels == index).sum()) for index, name in enumerate(CLASSES)},
        "patients": len(set(patients)),
        "scores": [
            {"arm": arm, "snr_db": snr_db, **_described(draws[arm, snr_db], draws["clean", snr_db])}
            for snr_db in SNR_DB
            for arm in ARMS
        ],
        "devices": {arm: _by_device(labels, predicted, np.array(devices), arm) for arm in ARMS},
    }


def _sounds(cycles: Any, noise: Sequence[str], snr_db: float | None) -> Iterator[np.ndarray]:
    recipe = None
    if snr_db is not None:
        recipe = MixingRecipe(read_datasets(noise, split="test"), snr_db=snr_db, level_db=None)
    for index, row in enumerate(cycles):
        breath = high_pass(load_audio(row["audio"]), HIGH_PASS, SAMPLING_RATE)
        yield breath if recipe is None else recipe.apply(breath, recipe.draw(index), row["recording"]).noisy


@torch.inference_mode()
def _predict(fold: Fold, arm: str, sounds: list[np.ndarray], enhancer: str) -> Iterator[int]:
    """Classes of some sounds; the third arm enhances them first, as in its training."""
    model = Cnn14ForAudioClassification.from_pretrained(fold.folder / f"cnn14_{arm}" / "best").eval()
    best = str(fold.folder / enhancer / "best")
    enhance = AudioEnhancement(best, torch.device("cpu")) if arm == "enhanced" else None
    collate = ClassifierCollator(waveform_extractor(), enhance)
    for start in range(0, len(sounds), CLIPS_AT_ONCE):
        part = sounds[start : start + CLIPS_AT_ONCE]
        batch = collate([{"noisy": sound, "targets": {"label": 0}} for sound in part])
        yield from model(batch["input_values"], batch["attention_mask"]).logits.argmax(-1).tolist()


def _draws(true: np.ndarray, predicted: np.ndarray, resampling: Resampling) -> np.ndarray:
    """The scores, then those of every resample of the patients: (1 + resamples, 3)."""
    cells = confusion_cells(true, predicted[None], len(CLASSES))
    counts = resampling.counts["speaker"]
    assert counts is not None  # there are several patients
    counts = np.concatenate([np.ones((1, len(true))), counts])
    return icbhi_from_confusion(resampled_confusion(cells, counts)[:, 0])


def _described(draws: np.ndarray, baseline: np.ndarray) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for place, name in enumerate(SCORES):
        values, difference = draws[:, place], draws[:, place] - baseline[:, place]
        described[name] = {"value": float(values[0]), "interval": percentile_interval(values[1:])}
        described[f"{name}_difference"] = {
            "value": float(difference[0]),
            "interval": percentile_interval(difference[1:]),
        }
    return described


def _by_device(true: np.ndarray, predicted: dict[Any, list[int]], devices: np.ndarray, arm: str) -> dict[str, Any]:
    """Specificity, sensitivity and score of the sounds without noise; None where undefined."""
    scores = {}
    for device in sorted(set(devices)):
        own = devices == device
        cells = confusion_cells(true[own], np.array(predicted[arm, None])[None, own], len(CLASSES))
        values = icbhi_from_confusion(resampled_confusion(cells, np.ones((1, own.sum())))[0, 0])
        scores[device] = {
            "cycles": int(own.sum()),
            **{name: None if np.isnan(value) else float(value) for name, value in zip(SCORES, values, strict=True)},
        }
    return scores

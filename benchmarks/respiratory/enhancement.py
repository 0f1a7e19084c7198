# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Gains of enhancers on breath in unseen noise, with patients held out, and on the public clips of the authors."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.intervals import estimate
from benchmarks.respiratory.filters import FILTERS
from benchmarks.respiratory.folds import Fold
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.high_pass import high_pass
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.metrics import si_sdr
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, load_audio
from modeling_sparse_merit.training.cascade import AudioEnhancement
from modeling_sparse_merit.training.validation import enhancement_scores

SNR_DB = (-5.0, 2.5, 7.5, 12.5)
SECONDS = 10
HIGH_PASS = 60.0  # Hz; below it is rumble, more than 60 % of the energy of each of these recordings
CLIPS_AT_ONCE = 7
GAINS = ("si_sdr_gain", "segmental_snr_gain")
PUBLISHED = ("CMGAN", "WaveUNet", "MANNER", "PHASEN")

Enhance = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class NoisyClip:
    """
    A mixture of breath and noise.

    Attributes:
        noisy, clean: (samples,) at 16 kHz.
        patient: whose breath it is.
        snr_db: signal-to-noise ratio in dB.
    """

    noisy: np.ndarray
    clean: np.ndarray
    patient: str
    snr_db: float


def systems_of(fold: Fold, structures: Sequence[str]) -> dict[str, Enhance]:
    """
    The filters, and the enhancers that were trained for a fold.

    Args:
        fold: the fold.
        structures: names of the enhancers.
    """
    systems: dict[str, Enhance] = {name: _each(function) for name, function in FILTERS.items()}
    device = torch.device("cpu")
    return systems | {name: AudioEnhancement(str(fold.folder / name / "best"), device) for name in structures}


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Enhance:
    return lambda recordings: [function(recording) for recording in recordings]


def noisy_clips(fold: Fold, noise: Sequence[str]) -> Iterator[NoisyClip]:
    """
    The first ten seconds of each recording of the held-out patients, without rumble, in noise at each SNR.

    Args:
        fold: the fold.
        noise: noise datasets, whose test split is taken.
    """
    recordings, noises = read_dataset(fold.recordings, "test"), read_datasets(noise, split="test")
    for number, snr_db in enumerate(SNR_DB):
        recipe = MixingRecipe(noises, snr_db=snr_db, level_db=None, seed=number)
        for index, row in enumerate(recordings):
            breath = load_audio(row["audio"])[: SECONDS * SAMPLING_RATE]
            mixture = recipe.apply(high_pass(breath, HIGH_PASS, SAMPLING_RATE), recipe.draw(index), row["recording"])
            yield NoisyClip(mixture.noisy, mixture.clean, row["patient"], snr_db)


def measure_gains(folds: Sequence[Fold], structures: Sequence[str], noise: Sequence[str]) -> dict[str, Any]:
    """
    Mean gains of each system at each SNR, with intervals over patients.

    Args:
        folds: the folds.
        structures: names of the enhancers.
        noise: noise datasets that were not trained on.

    Returns:
        {system: {snr: {measure: estimate}}}.
    """
    gains: dict[tuple[str, float, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fold in folds:
        clips, systems = list(noisy_clips(fold, noise)), systems_of(fold, structures)
        for name, enhance in systems.items():
            for clip, enhanced in zip(clips, _enhanced([clip.noisy for clip in clips], enhance), strict=True):
                scores = enhancement_scores(clip.clean, clip.noisy, enhanced)
                for measure in GAINS:
                    gains[name, clip.snr_db, measure][clip.patient].append(scores[measure])
    measured: dict[str, Any] = {}
    for (name, snr_db, measure), patients in gains.items():
        means = np.array([np.mean(values) for values in patients.values()])  # (patients,)
        measured.setdefault(name, {}).setdefault(f"{snr_db:g}", {})[measure] = estimate(means)
    return measured


def _enhanced(recordings: list[np.ndarray], enhance: Enhance) -> Iterator[np.ndarray]:
    for start in range(0, len(recordings), CLIPS_AT_ONCE):
        yield from enhance(recordings[start : start + CLIPS_AT_ONCE])


def measure_published_clips(folder: Path, folds: Sequence[Fold], structures: Sequence[str]) -> dict[str, Any]:
    """
    Gains of SI-SDR on the nine public clips of the authors, and differences from their enhancers on the same clips,
    with intervals over clips. An enhancer has one model for each fold; its gain is the mean over them.

    Args:
        folder: of the clips, NAME_clean.flac, NAME_noisy.flac, NAME_CMGAN.flac and so on.
        folds: the folds.
        structures: names of the enhancers.
    """
    names = sorted(path.name.removesuffix("_clean.flac") for path in folder.glob("*_clean.flac"))
    clean, noisy = ([load_audio(str(folder / f"{name}_{kind}.flac")) for name in names] for kind in ("clean", "noisy"))
    before = np.array([si_sdr(*pair) for pair in zip(clean, noisy, strict=True)])
    own: dict[str, list[np.ndarray]] = defaultdict(list)
    for system in PUBLISHED:
        outputs = [load_audio(str(folder / f"{name}_{system}.flac")) for name in names]
        own[f"{system} of the authors"].append(_gains(clean, outputs, before))
    for fold in folds:
        for system, enhance in systems_of(fold, structures).items():
            own[system].append(_gains(clean, list(_enhanced(noisy, enhance)), before))
    gains = {system: np.mean(members, axis=0) for system, members in own.items()}
    best = gains["CMGAN of the authors"], gains["WaveUNet of the authors"]
    return {
        "clips": len(names),
        "si_sdr_noisy": float(before.mean()),
        "systems": {
            system: {
                "gain": estimate(values),
                "from_cmgan": estimate(values - best[0]),
                "from_wave_u_net": estimate(values - best[1]),
            }
            for system, values in gains.items()
        },
    }


def _gains(clean: Sequence[np.ndarray], outputs: Sequence[np.ndarray], before: np.ndarray) -> np.ndarray:
    return np.array([si_sdr(*pair) for pair in zip(clean, outputs, strict=True)]) - before

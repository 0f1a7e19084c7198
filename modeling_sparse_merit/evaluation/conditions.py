# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Test conditions: clean speech and every noise pool at every SNR, without and with simulated transmissions.

A mixture depends on (seed, pool, SNR, row of the speech datasets) only, so it does not depend on which clips are
evaluated. Transmissions are applied to the same mixtures; the SNR is that before the transmission.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ..data.datasets import read_dataset, read_datasets
from ..data.mixing import MixingParameters, MixingRecipe, Mixture, audible_segment, rms, transmitted
from ..data.transmission import TRANSMISSIONS
from ..models.sparse_merit.audio import load_audio
from .configuration import EvaluationConfig


@dataclass(frozen=True)
class Condition:
    """One test condition. `pool` and `snr_db` are None for clean speech; `transmission` is None without one."""

    pool: str | None = None
    snr_db: float | None = None
    transmission: str | None = None

    @property
    def name(self) -> str:
        """Name in reports and of the results file, such as "clean", "urbansound8k_-5dB" or "clean@gsm"."""
        return self.mixture_name + ("" if self.transmission is None else f"@{self.transmission}")

    @property
    def mixture_name(self) -> str:
        """The name of the condition before the transmission."""
        return "clean" if self.pool is None else f"{self.pool}_{self.snr_db:g}dB"

    @property
    def is_its_target(self) -> bool:
        """Whether the input equals the target: clean speech, at most band-limited."""
        return self.pool is None and (self.transmission is None or TRANSMISSIONS[self.transmission].codec is None)


@dataclass(frozen=True)
class Example:
    """One clip in one condition.

    Attributes:
        row: number of the clip.
        noisy: input of the systems, float32 (samples,) at 16 kHz.
        clean: target of the enhancement, (samples,).
        facts: further columns of the frozen test set.
    """

    row: int
    noisy: np.ndarray
    clean: np.ndarray
    facts: dict[str, Any]


class Clips:
    """The clips of the speech datasets that are evaluated, by their rows.

    Args:
        config: selects datasets, split and rows.
        labels: the emotion classes; a clip with another emotion, or none, counts as unlabelled.

    Attributes:
        dataset: the rows of all speech datasets, concatenated.
        corpora: name of each row's dataset.
        rows: indices of the evaluated rows.

    Raises:
        ValueError: no row is left.
    """

    def __init__(self, config: EvaluationConfig, labels: Sequence[str]):
        self.dataset = read_datasets(config.speech, split=config.speech_split)
        emotions = dict(enumerate(column_names(self.dataset, "emotion")))
        source = f"{config.speech} (split {config.speech_split!r})"
        self.rows = choose_clips(emotions, labels, config, source)
        self.corpora = _corpora(config.speech, config.speech_split)
        self._files = column_names(self.dataset, "source_file")

    def load(self, row: int) -> np.ndarray:
        """The recording of a row, float32 (samples,) at 16 kHz."""
        return load_audio(self.dataset[row]["audio"])

    def name(self, row: int) -> str:
        """Name of a clip in error messages."""
        return f"row {row} of the speech datasets ({self._files[row]})"


def _corpora(paths: Sequence[str], split: str | None) -> list[str]:
    """The dataset name of each row: the last part of its path, or the whole path if two datasets share the last
    part."""
    names = [Path(path).name.removesuffix(".parquet") for path in paths]
    corpora = []
    for path, name in zip(paths, names, strict=True):
        splits = column_names(read_dataset(path), "split")
        corpora += [name if names.count(name) == 1 else path] * sum(split in (None, name) for name in splits)
    return corpora


def choose_clips(
    emotions: dict[int, str | None], labels: Sequence[str], config: EvaluationConfig, source: str
) -> list[int]:
    """Selects the clips to evaluate.

    Args:
        emotions: `{row: emotion}` of all clips.
        labels: the emotion classes.
        config: `clips`, `max_clips` and `seed` determine the selection.
        source: name of the datasets in error messages.

    Raises:
        ValueError: no clip is left.
    """
    chosen = [row for row, emotion in sorted(emotions.items()) if emotion in labels or config.clips == "all"]
    if not chosen:
        known = sorted({str(emotion) for emotion in emotions.values()})
        raise ValueError(
            f"No clip of {source} has one of the emotions {list(labels)}; its emotions are {known}. "
            "Check `labels` and the split, or set `clips: all` to measure enhancement alone."
        )
    if config.max_clips is None or config.max_clips >= len(chosen):
        return chosen
    picks = np.random.default_rng(config.seed).choice(len(chosen), config.max_clips, replace=False)
    return [chosen[pick] for pick in sorted(picks)]


class Listener:
    """Mixes clips in one condition.

    Args:
        clips: the test clips.
        condition: the test condition.
        noise: the noise dataset of the condition; None for clean.
        seed: seed of the evaluation.
    """

    def __init__(self, clips: Clips, condition: Condition, noise: Dataset | None, seed: int):
        self.clips, self.condition = clips, condition
        self.stream = zlib.crc32(condition.mixture_name.encode())  # the same on every machine, unlike hash()
        self.recipe = None
        if noise is not None and condition.snr_db is not None:
            self.recipe = MixingRecipe(noise, snr_db=condition.snr_db, level_db=None, seed=seed)
            self.noise_files = recording_names(noise)

    def example(self, row: int) -> Example:
        """One clip in this condition.

        Its facts are `mixture`, the drawn parameters as JSON; `noise_file`; `noise_offset`, the sample at which the
        noise starts (it loops at its end); `speech_gain` and `noise_gain`, the factors of both recordings in the
        mixture. In clean conditions, all but `speech_gain` are None.
        """
        mixture, facts = self._mixed(row)
        if (name := self.condition.transmission) is not None:
            mixture, facts = self._transmitted(name, mixture, facts)
        return Example(row, mixture.noisy, mixture.clean, facts)

    def _mixed(self, row: int) -> tuple[Mixture, dict[str, Any]]:
        """One clip before the transmission, and its facts."""
        speech = self.clips.load(row)
        if self.recipe is None:
            facts = dict.fromkeys(("mixture", "noise_file", "noise_offset", "noise_gain"))
            return Mixture(speech, speech, np.zeros_like(speech)), facts | {"speech_gain": 1.0}
        parameters = self.recipe.draw(row, epoch=self.stream)
        mixture = self.recipe.apply(speech, parameters, name=self.clips.name(row))
        parameters = replace(parameters, transmission=self.condition.transmission)
        assert parameters.noise_index is not None  # every example has noise
        noise = self.recipe.noise[parameters.noise_index]  # (noise samples,)
        facts = {"noise_file": self.noise_files[parameters.noise_index], **_gains(speech, noise, parameters, mixture)}
        return mixture, {"mixture": json.dumps(asdict(parameters)), **facts}

    def _transmitted(self, name: str, mixture: Mixture, facts: dict[str, Any]) -> tuple[Mixture, dict[str, Any]]:
        """The transmitted mixture, and the facts with the gains of its speech and noise."""
        received = transmitted(mixture, name)
        limited = TRANSMISSIONS[name].band_limit(mixture.clean)
        scale = rms(received.clean) / rms(limited) if limited.any() else 1.0
        return received, facts | {gain: facts[gain] and facts[gain] * scale for gain in ("speech_gain", "noise_gain")}


def _gains(speech: np.ndarray, noise: np.ndarray, parameters: MixingParameters, mixture: Mixture) -> dict[str, Any]:
    """Where the noise starts, and the gains of both recordings."""
    segment = audible_segment(noise, len(speech), parameters.noise_offset)  # (samples,)
    assert segment is not None  # else there is no mixture
    return {
        "noise_offset": find_segment(noise, segment, parameters.noise_offset),
        "noise_gain": rms(mixture.noise) / rms(segment),
        "speech_gain": rms(mixture.clean) / rms(speech),
    }


def find_segment(noise: np.ndarray, segment: np.ndarray, offset: float) -> int:
    """Index of the first sample of an `audible_segment`: the drawn position, or a multiple of its length later.

    Args:
        noise: (samples,).
        segment: `audible_segment(noise, length, offset)`.
        offset: the drawn fraction in [0, 1) of the possible positions.
    """
    places = len(noise) - len(segment) + 1 if len(noise) >= len(segment) else len(noise)
    starts = int(offset * places) + len(segment) * np.arange(math.ceil(len(noise) / len(segment)))
    samples = np.arange(len(segment))
    return next(int(at) for at in starts % len(noise) if np.array_equal(noise[(at + samples) % len(noise)], segment))


def list_conditions(config: EvaluationConfig) -> list[Condition]:
    """All conditions: clean if requested, then each pool at each SNR; then the same with each transmission."""
    noisy = [Condition(pool, snr_db) for pool in config.noise for snr_db in config.snr_db]
    mixed = ([Condition()] if config.clean else []) + noisy
    return [replace(condition, transmission=name) for name in (None, *config.transmissions) for condition in mixed]


def load_noise(config: EvaluationConfig) -> dict[str, Dataset]:
    """The dataset of each noise pool."""
    return {pool: read_dataset(path, split=config.noise_split) for pool, path in config.noise.items()}


def dataset_sha256(dataset: Dataset) -> str:
    """SHA-256 of a dataset's rows, audio included."""
    digest = hashlib.sha256()
    for row in dataset:
        audio = row.pop("audio")
        digest.update(json.dumps([row, audio["path"]], sort_keys=True, default=str).encode())
        digest.update(audio["bytes"] or b"")
    return digest.hexdigest()


def recording_names(dataset: Dataset) -> list[str]:
    """Names of the recordings of a dataset: their names in the corpus, or their row numbers."""
    return [name or f"row {row}" for row, name in enumerate(column_names(dataset, "source_file"))]


def column_names(dataset: Dataset, column: str) -> list[str | None]:
    """A column as text: class numbers become names; missing columns and values become None.

    Args:
        dataset: any dataset.
        column: name of the column.
    """
    if column not in dataset.column_names:
        return [None] * len(dataset)
    feature, values = dataset.features[column], list(dataset[column])
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return values

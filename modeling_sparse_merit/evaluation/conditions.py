# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The test conditions, clean and every noise pool at every SNR, and the clips as they are heard in each. A mixture
depends on (seed, condition, row of the speech tables) alone, so every system hears identical samples."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from datasets import ClassLabel, Dataset

from ..audio import load_audio
from ..mixing import MixingRecipe
from ..tables import concatenate_tables, load_table
from .configuration import EvaluationConfig


@dataclass(frozen=True)
class Condition:
    """One test condition. `pool` and `snr_db` are None for the recordings as they are."""

    pool: str | None = None
    snr_db: float | None = None

    @property
    def name(self) -> str:
        """Such as "clean" or "urbansound8k_-5dB"; also the name of its file."""
        return "clean" if self.pool is None else f"{self.pool}_{self.snr_db:g}dB"


@dataclass(frozen=True)
class Example:
    """One clip in one condition: `noisy` is what the system hears, `clean` what it should give back; both (samples,).
    `mixture` is the JSON of what was drawn, None for clean."""

    row: int
    noisy: np.ndarray
    clean: np.ndarray
    mixture: str | None


class Clips:
    """The test clips: rows of the speech tables with their emotions as names.

    Args:
        config: says which tables, split and rows.
        labels: the emotion classes; a clip with another emotion, or none, counts as unlabelled.

    Raises:
        ValueError: no row is left.
    """

    def __init__(self, config: EvaluationConfig, labels: list[str]):
        self.table = concatenate_tables(config.speech, split=config.speech_split)
        self.sha256 = table_sha256(self.table)
        known = set(labels)
        self.emotions = [name if name in known else None for name in _names(self.table, "emotion")]
        chosen = [row for row, name in enumerate(self.emotions) if name is not None or config.clips == "all"]
        if not chosen:
            found = sorted({str(name) for name in _names(self.table, "emotion")})
            raise ValueError(
                f"No clip of {config.speech} (split {config.speech_split!r}) has one of the emotions {labels}; found "
                f"{found}. Check `labels` and `speech_split`, or set `clips: all` to measure enhancement alone."
            )
        if config.max_clips is not None and config.max_clips < len(chosen):
            picks = np.random.default_rng(config.seed).choice(len(chosen), config.max_clips, replace=False)
            chosen = [chosen[pick] for pick in sorted(picks)]
        self.rows = chosen
        self._speakers, self._files = _names(self.table, "speaker"), _names(self.table, "source_file")

    def describe(self, row: int) -> dict:
        """What identifies a clip in the per-clip results."""
        return {
            "row": row,
            "source_file": self._files[row],
            "speaker": self._speakers[row],
            "emotion": self.emotions[row],
        }

    def load(self, row: int) -> np.ndarray:
        """The recording of a row, float32 (samples,) at 16 kHz."""
        return load_audio(self.table[row]["audio"])

    def name(self, row: int) -> str:
        """What errors call a clip."""
        return f"row {row} of the speech tables ({self._files[row]})"

    def batches(self, seconds: float) -> Iterator[list[int]]:
        """Rows in batches of like length, each at most `seconds` of audio, padding included, or a single clip."""
        durations = list(self.table["duration"])
        batch = []
        for row in sorted(self.rows, key=lambda row: durations[row]):
            # rows come by rising length, so the newest one sets the padded length of the batch
            if batch and durations[row] * (len(batch) + 1) > seconds:
                yield batch
                batch = []
            batch.append(row)
        yield batch


class Listener:
    """Puts clips into one condition.

    Args:
        clips: the test clips.
        condition: what they are heard in.
        noise: the rows of the condition's pool; None for clean.
        seed: of the evaluation.
    """

    def __init__(self, clips: Clips, condition: Condition, noise: Dataset | None, seed: int):
        self.clips = clips
        self.stream = zlib.crc32(condition.name.encode())  # the same on every machine, unlike hash()
        self.recipe = None
        if noise is not None:
            self.recipe = MixingRecipe(noise, snr_db=condition.snr_db, level_db=None, seed=seed)

    def example(self, row: int) -> Example:
        """One clip as it is heard in this condition."""
        speech = self.clips.load(row)
        if self.recipe is None:
            return Example(row, speech, speech, None)
        parameters = self.recipe.draw(row, epoch=self.stream)
        mixture = self.recipe.apply(speech, parameters, name=self.clips.name(row))
        return Example(row, mixture.noisy, mixture.clean, json.dumps(asdict(parameters)))


def list_conditions(config: EvaluationConfig) -> list[Condition]:
    """Clean first where asked for, then each pool at each SNR."""
    noisy = [Condition(pool, snr_db) for pool in config.noise for snr_db in config.snr_db]
    return ([Condition()] if config.clean else []) + noisy


def load_noise(config: EvaluationConfig) -> dict[str, Dataset]:
    """The rows of each noise pool."""
    return {pool: load_table(path, split=config.noise_split) for pool, path in config.noise.items()}


def table_sha256(table: Dataset) -> str:
    """SHA-256 of a table's rows, audio included."""
    digest = hashlib.sha256()
    for row in table:
        audio = row.pop("audio")
        digest.update(json.dumps([row, audio["path"]], sort_keys=True, default=str).encode())
        digest.update(audio["bytes"] or b"")
    return digest.hexdigest()


def _names(table: Dataset, column: str) -> list[str | None]:
    """A column as text; class numbers become names, a missing column or value is None."""
    if column not in table.column_names:
        return [None] * len(table)
    feature, values = table.features[column], list(table[column])
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    return values

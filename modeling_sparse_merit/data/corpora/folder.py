# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Any folder of recordings with a `metadata.csv`, such as a private corpus.

`metadata.csv` needs a column `file_name` (relative to the folder) and may have `emotion`, `speaker`, `split`,
`gender`, `language`, `text`, `sentence`, `source_file`, `arousal`, `valence` and `dominance`. Other columns are left
out unless `--column emotion=label` maps them. An empty cell is None, and so is a speaker called `unknown`.

Clean targets of speech enhancement need a quiet background: `--min-dynamic-range 41` leaves noisier recordings out.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features

from ...models.sparse_merit.audio import SAMPLING_RATE, load_audio
from ..datasets import EMOTIONS, DatasetError, speech_features
from .base import Corpus

FRAME = SAMPLING_RATE // 50
"""20 ms."""


class MetadataFolder(Corpus):
    """A folder with `metadata.csv`.

    Options:
        labels: the emotion vocabulary, in the order of the class numbers.
        columns: maps columns of the dataset to those of the file, such as `{"emotion": "label"}`.
        min_dynamic_range: leave out recordings with a smaller `dynamic_range`, in dB.
    """

    independent = "speaker"

    def rows(  # type: ignore[override]  # its own options
        self,
        folder: Path,
        notes: Counter[str],
        labels: Sequence[str] = EMOTIONS,
        columns: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        min_dynamic_range: float | None = None,
    ) -> Iterator[dict[str, str]]:
        """Yields one row for each line of `metadata.csv`.

        Args:
            folder: the folder of the recordings.
            notes: counts of rows left out; added to the description.
            labels: the emotion vocabulary; used by `features`.
            columns: maps columns of the dataset to those of the file, such as `{"emotion": "label"}`.
            min_dynamic_range: leave out recordings with a smaller `dynamic_range`, in dB; None keeps all.

        Raises:
            DatasetError: `metadata.csv` is missing or lacks a column, or `columns` has an unknown one.
        """
        columns = dict(columns or {})
        unknown = sorted(set(columns) - {"file_name", *self.features(labels)})
        if unknown:
            known = ", ".join(self.features(labels))
            raise DatasetError(
                f"--column {unknown[0]}=... is not a column of a speech dataset; expected one of {known}"
            )
        for row in metadata_rows(folder, columns):
            if min_dynamic_range is not None and _is_noisy(folder / row["file"], min_dynamic_range):
                notes[f"recordings with a dynamic range below {min_dynamic_range:g} dB were left out"] += 1
            else:
                yield row

    def features(self, labels: Sequence[str] = EMOTIONS, **options: Any) -> Features:
        return speech_features(labels)


def dynamic_range(waveform: np.ndarray) -> float:
    """Difference in dB between the 95th and the 5th percentile of the levels of 20-ms frames. It is small in
    recordings with a loud background.

    Args:
        waveform: (samples,) at 16 kHz; 0 dB if shorter than a frame.
    """
    count = len(waveform) // FRAME
    if not count:
        return 0.0
    frames = waveform[: count * FRAME].reshape(count, FRAME).astype(np.float64)
    levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)  # (count,), digital silence is -120 dB
    quiet, loud = np.percentile(levels, [5, 95])
    return float(loud - quiet)


def _is_noisy(path: Path, min_dynamic_range: float) -> bool:
    """Whether the background of a recording is too loud; one that cannot be read is reported with the other rows."""
    try:
        return dynamic_range(load_audio(path)) < min_dynamic_range
    except (OSError, ValueError):
        return False


def metadata_rows(folder: Path, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The lines of `metadata.csv`, with the columns of the dataset.

    Args:
        folder: the folder of `metadata.csv`.
        columns: maps columns of the dataset to those of the file, where their names differ.

    Raises:
        DatasetError: `metadata.csv` is missing or lacks a column.
    """
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        raise DatasetError(
            f"{metadata} is missing; expected a CSV file that lists one recording per line in 'file_name'"
        )
    with open(metadata, newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        existing = reader.fieldnames or []
        missing = [name for name in (columns.get("file_name", "file_name"), *columns.values()) if name not in existing]
        if missing:
            raise DatasetError(
                f"{metadata} lacks {len(set(missing))} columns: {', '.join(dict.fromkeys(missing))}; it has "
                f"{', '.join(existing)}. Name the right column with --column file_name=NAME"
            )
        for line in reader:
            row = {name: value for name, value in line.items() if name and name not in columns.values()}
            row |= {name: line[own] for name, own in columns.items()}
            yield row | {"file": row["file_name"] or ""}


CORPUS = MetadataFolder()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Any folder of recordings with a `metadata.csv`, such as a private corpus.

`metadata.csv` needs a column `file_name` (relative to the folder) and may have `emotion`, `speaker`, `split`,
`gender`, `language`, `text`, `sentence`, `source_file`, `intent`, `arousal`, `valence` and `dominance`. Other columns
are left out unless `--column emotion=label` maps them. An empty cell is None, and so is a speaker called `unknown`.

Emotions are those of the file: the shared vocabulary, or, if the file has labels of its own, exactly the labels that
occur. `--labels` states which ones are expected, and refuses others. Without a column `split`, `--dev` and `--test`
name the speakers of these splits.

Clean targets of speech enhancement need a quiet background: `--min-dynamic-range 41` leaves noisier recordings out.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features

from ...models.sparse_merit.audio import SAMPLING_RATE, load_audio
from ..dataset_card import values
from ..datasets import EMOTIONS, DatasetError, speech_features
from ..prepare import SpeakerSplits, clean_value, corpus_folder
from .base import Corpus

FRAME = SAMPLING_RATE // 50
"""20 ms."""


class MetadataFolder(Corpus):
    """A folder with `metadata.csv`.

    Options:
        labels: the emotion vocabulary, in the order of the class numbers; that of the file by default.
        columns: maps columns of the dataset to those of the file, such as `{"emotion": "label"}`.
        min_dynamic_range: leave out recordings with a smaller `dynamic_range`, in dB.
        dev, test: speakers of these splits, for a file without a column `split`; all others are in the train split.
    """

    independent = "speaker"

    def build(
        self, folder: str | Path, *, skip_bad: bool = False, info: DatasetInfo | None = None, **options: Any
    ) -> Dataset:
        """The dataset of a folder; see `Corpus.build`."""
        if options.get("labels") is None:
            options["labels"] = vocabulary(corpus_folder(folder), self._checked_columns(options.get("columns")))
        return super().build(folder, skip_bad=skip_bad, info=info, **options)

    def rows(  # type: ignore[override]  # its own options
        self,
        folder: Path,
        notes: Counter[str],
        labels: Sequence[str] = EMOTIONS,
        columns: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        min_dynamic_range: float | None = None,
        dev: Sequence[str] = (),
        test: Sequence[str] = (),
    ) -> Iterator[dict[str, str]]:
        """Yields one row for each line of `metadata.csv`.

        Args:
            folder: the folder of the recordings.
            notes: counts of rows left out; added to the description.
            labels: the emotion vocabulary; used by `features`.
            columns: maps columns of the dataset to those of the file, such as `{"emotion": "label"}`.
            min_dynamic_range: leave out recordings with a smaller `dynamic_range`, in dB; None keeps all.
            dev: speakers of the dev split, where the file has no column `split`.
            test: speakers of the test split, where the file has no column `split`.

        Raises:
            DatasetError: `metadata.csv` is missing or lacks a column, `columns` has an unknown one, or the splits are
                stated by the file as well as by speakers, or by neither.
        """
        columns = self._checked_columns(columns)
        splits = SpeakerSplits(dev, test) if dev or test else None
        for row in metadata_rows(folder, columns):
            _add_split(row, splits, folder)
            if min_dynamic_range is not None and _is_noisy(folder / row["file"], min_dynamic_range):
                notes[f"recordings with a dynamic range below {min_dynamic_range:g} dB were left out"] += 1
            else:
                yield row

    def _checked_columns(self, columns: Mapping[str, str] | Sequence[tuple[str, str]] | None) -> dict[str, str]:
        """The columns as a mapping.

        Raises:
            DatasetError: a speech dataset has no such column.
        """
        columns = dict(columns or {})
        unknown = sorted(set(columns) - {"file_name", *self.features()})
        if unknown:
            known = ", ".join(self.features())
            raise DatasetError(
                f"--column {unknown[0]}=... is not a column of a speech dataset; expected one of {known}"
            )
        return columns

    def features(self, labels: Sequence[str] = EMOTIONS, **options: Any) -> Features:
        return speech_features(labels)

    def check(self, dataset: Dataset, **options: Any) -> None:
        SpeakerSplits(options.get("dev", ()), options.get("test", ())).warn_of_absent(dataset, "")
        if not any(values(dataset, "split")):
            warnings.warn(
                "no recording has a split, which training needs: add a column 'split' (train, dev or test) to "
                "metadata.csv, or name the speakers of two splits with --dev and --test",
                stacklevel=2,
            )


def vocabulary(folder: Path, columns: Mapping[str, str]) -> list[str]:
    """The emotion vocabulary of a folder: the shared one if it has all labels of the file, else the labels that
    occur, those of the shared one first.

    Args:
        folder: the folder of `metadata.csv`.
        columns: maps columns of the dataset to those of the file, where their names differ.

    Raises:
        DatasetError: `metadata.csv` is missing or lacks a column.
    """
    labels = {(row.get("emotion") or "").strip() for row in metadata_rows(folder, columns)} - {""}
    own = sorted(labels - set(EMOTIONS))
    return [*(label for label in EMOTIONS if label in labels), *own] if own else list(EMOTIONS)


def _add_split(row: dict[str, str], splits: SpeakerSplits | None, folder: Path) -> None:
    """Sets the split of a row by its speaker.

    Raises:
        DatasetError: the file has splits of its own, or no speaker.
    """
    if splits is None:
        return
    if row.get("split"):
        raise DatasetError(
            f"{folder / 'metadata.csv'} has a column 'split', so --dev and --test do not apply; leave them out, or "
            "remove the column"
        )
    row["split"] = splits.split_of((row.get("speaker") or "").strip())


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


def unchecked_dataset(folder: Path) -> Dataset:
    """The lines of `metadata.csv` as a dataset, whether or not their recordings exist and can be read. Its labels are
    those of the file.

    Raises:
        DatasetError: `metadata.csv` lacks the column `file_name`, or has no line.
    """
    rows = list(metadata_rows(folder, {}))
    if not rows:
        raise DatasetError(f"{folder / 'metadata.csv'} lists no recording; expected one per line in 'file_name'")
    cells = [{name: clean_value(name, value) for name, value in row.items()} for row in rows]
    labels = sorted({cell["emotion"] for cell in cells if cell.get("emotion")})
    features = speech_features(labels)
    for row, cell in zip(rows, cells, strict=True):
        cell["audio"] = {"bytes": None, "path": str(folder / row["file"])}
        cell["emotion"] = labels.index(cell["emotion"]) if cell.get("emotion") else None
        cell["source_file"] = row["file"]
    schema = Features({name: features[name] for name in ("audio", "source_file", "emotion", "speaker", "split")})
    return Dataset(pa.Table.from_pylist(cells, schema=schema.arrow_schema))


CORPUS = MetadataFolder()

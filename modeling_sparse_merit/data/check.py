# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Checks a dataset before it is used: every recording is decoded and measured, and rules look for faults."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset
from tqdm.auto import tqdm

from ..files import one_line
from .clip_measures import ClipMeasures, measure_clip
from .corpora.folder import unchecked_dataset
from .dataset_card import values
from .datasets import read_dataset
from .findings import Clip, Finding, find_faults, in_order

UNSPLIT = "unsplit"


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Args:
        clips: number of clips.
        seconds: their total duration, without damaged ones.
        speakers: number of speakers that are named.
        labels: number of clips of each label; `None` in the dataset is not counted.
    """

    clips: int
    seconds: float
    speakers: int
    labels: dict[str, int]


@dataclass(frozen=True)
class DatasetCheck:
    """The result of `check_dataset`; `dataclasses.asdict` converts it to plain JSON values.

    Args:
        dataset: the path that was given.
        splits: what each split holds.
        findings: faults, errors first; none if all is well.
    """

    dataset: str
    splits: dict[str, SplitSummary]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """Findings for which a training would stop, or its scores would be wrong."""
        return [finding for finding in self.findings if finding.severity == "error"]


def check_dataset(path: str | Path) -> DatasetCheck:
    """Checks a dataset, decoding every recording completely. Recordings are decoded in threads, and only their
    measures are kept.

    Rules look for damaged, silent, quiet, short, long, clipped and narrowband recordings, for DC offsets, for copies
    of a recording (see `audio_fingerprint`), for speakers in several splits, and for labels that are missing,
    imbalanced or not in every split. Datasets without the column `emotion` hold noises, to which only some rules about
    recordings apply. Noisy test sets, which repeat each clip, are not searched for copies.

    Args:
        path: a dataset as for `read_dataset`, or a folder with `metadata.csv` as for `prepare folder`.

    Raises:
        DatasetError: there is no dataset at `path`.
    """
    is_folder = (Path(path) / "metadata.csv").is_file()
    dataset = unchecked_dataset(Path(path)) if is_folder else read_dataset(path)
    clips = _clips(dataset)
    is_speech = "emotion" in dataset.column_names
    findings = find_faults(clips, is_speech, compare="clean" not in dataset.column_names)
    return DatasetCheck(str(path), _summaries(clips), findings)


def _clips(dataset: Dataset) -> list[Clip]:
    """All rows, with measures of their recordings."""
    columns = [_texts(dataset, name) for name in ("source_file", "split", _label_column(dataset), "speaker")]
    recordings = dataset.select_columns("audio")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(lambda row: _measured(recordings[row]["audio"], row), range(len(dataset)))
        measured = list(tqdm(results, "checking", len(dataset), unit="clip", disable=None))
    return [
        Clip(source or name, split, label, speaker, measures, error)
        for source, split, label, speaker, (name, measures, error) in zip(*columns, measured, strict=True)
    ]


def _measured(recording: dict[str, Any], row: int) -> tuple[str, ClipMeasures | None, str | None]:
    """Name of a recording, and its measures or the reason why there are none."""
    name = Path(recording.get("path") or f"row {row}").name
    try:
        return name, measure_clip(recording), None
    except (OSError, ValueError) as error:
        return name, None, one_line(error)


def _label_column(dataset: Dataset) -> str:
    return "emotion" if "emotion" in dataset.column_names else "category"


def _texts(dataset: Dataset, column: str) -> list[str | None]:
    """A column as text, class numbers as the names of their classes; None for each row if there is no such column."""
    if column not in dataset.column_names:
        return [None] * len(dataset)
    feature = dataset.features[column]
    names = feature.names if isinstance(feature, ClassLabel) else None
    entries = values(dataset, column)
    return [entry if names is None or entry is None else names[entry] for entry in entries]


def _summaries(clips: list[Clip]) -> dict[str, SplitSummary]:
    splits: dict[str, list[Clip]] = {}
    for clip in clips:
        splits.setdefault(clip.split or UNSPLIT, []).append(clip)
    return {split: _summary(splits[split]) for split in in_order(splits)}


def _summary(clips: list[Clip]) -> SplitSummary:
    seconds = sum(clip.measures.seconds for clip in clips if clip.measures)
    labels = Counter(clip.label for clip in clips if clip.label is not None)
    return SplitSummary(len(clips), seconds, len({clip.speaker for clip in clips} - {None}), dict(labels))

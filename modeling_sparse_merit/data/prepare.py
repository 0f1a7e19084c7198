# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common parts of all dataset scripts: checking the rows of a corpus, building and writing the dataset.

A script adds a generator of rows. A row is a dictionary with the recording's path under `file` (relative to the corpus
folder; None for a text without a recording) and any columns of the schema; for a file that it cannot parse, the
generator yields a `Problem`.
"""

import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, ClassLabel, Dataset, DatasetInfo, Features
from datasets.table import embed_table_storage

from ..files import check_replaceable, replacing_folder
from ..models.sparse_merit.audio import read_audio
from ..models.sparse_merit.decoding import audio_seconds, is_recording
from .dataset_card import class_counts, hours, render_dataset_card, split_rows, values
from .datasets import DatasetError

SPLIT_NAMES = {"training": "train", "validation": "dev", "valid": "dev", "val": "dev", "development": "dev"}
SHARD_BYTES = 400_000_000
EXAMPLES_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """Part of a corpus that cannot become a row. Problems of a `kind` are counted; `example` says where one is."""

    kind: str
    example: str


def audio_files(folder: Path) -> list[Path]:
    """All recordings below a folder, sorted, without hidden files such as the `._name.wav` that macOS creates."""
    return sorted(path for path in folder.rglob("*") if is_recording(path))


def corpus_folder(folder: str | Path) -> Path:
    """The folder as a resolved path.

    Raises:
        DatasetError: the folder does not exist.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected the folder that the corpus was unpacked into")
    return path


# Rows ----------------------------------------------------------------------------------------------------------------


def build_dataset(
    rows: Iterable[dict[str, Any] | Problem],
    folder: Path,
    features: Features,
    info: DatasetInfo,
    notes: Counter[str] | None = None,
    unique_names: bool = False,
    skip_bad: bool = False,
) -> Dataset:
    """Checks every row and builds the dataset. All problems are collected and reported together.

    Args:
        rows: the output of a script's generator, with `file` relative to `folder`. A row of text without a recording
            has a `source_file` that identifies it.
        folder: no recording may lie outside of it.
        features: the schema, such as `datasets.speech_features()`.
        info: description, licence and citation of the corpus.
        notes: what the generator counted (`"songs were left out"`); added to the description.
        unique_names: a file name identifies a recording of this corpus in any subfolder.
        skip_bad: leave bad rows out with a warning.

    Raises:
        DatasetError: something is wrong with some rows (with counts, and the first examples), or there is no row.
    """
    checker = _RowChecker(folder.resolve(), features, unique_names)
    good = [row for row in map(checker.check, rows) if row is not None]
    if checker.problems and not skip_bad:
        raise DatasetError(f"{checker.report()}\nFix the corpus, or leave these out with --skip-bad (skip_bad=True)")
    if checker.problems:
        warnings.warn(f"Left out: {checker.report()}", stacklevel=2)
    if not good:
        raise DatasetError(f"{folder} contains no row of this corpus; is it the right folder?")
    arrow = pa.Table.from_pylist(good, schema=features.arrow_schema)
    return Dataset(arrow, info=_describe(info, features, notes or Counter()))


def _describe(info: DatasetInfo, features: Features, notes: Counter[str]) -> DatasetInfo:
    """The description of the corpus, with notes about rows left out or changed."""
    info = info.copy()
    info.features = features
    info.description += "".join(f" {count} {note}." for note, count in notes.items() if count)
    return info


class _RowChecker:
    """Converts rows to the schema, and collects the problems of invalid ones."""

    def __init__(self, folder: Path, features: Features, unique_names: bool) -> None:
        self.folder, self.features, self.unique_names = folder, features, unique_names
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.seen: set[str | Path] = set()

    def check(self, row: dict[str, Any] | Problem) -> dict[str, Any] | None:
        """The row in the schema; None if it is invalid."""
        problems: list[Problem] = []
        values = None
        if isinstance(row, Problem):
            problems.append(row)
        else:
            values = self._convert(row, problems)
        for problem in problems:
            self.problems[problem.kind].append(problem.example)
        return None if problems else values

    def _convert(self, row: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
        values = {name: clean_value(name, value) for name, value in row.items()}
        file = row.get("file")
        source = values["source_file"] = values.get("source_file") or str(file)
        if file is None:
            self._identify(source, "rows", source, problems)
            if values.get("text") is None:
                problems.append(Problem("rows without text", source))
        else:
            path, duration = self._locate(str(file), problems)
            values |= {"audio": {"bytes": None, "path": str(path)}, "duration": duration}
        named = source if file is None else file
        for name, feature in self.features.items():
            if isinstance(feature, ClassLabel):
                values[name] = _class_number(feature, values.get(name), named, problems)
            elif name != "duration" and getattr(feature, "dtype", None) == "float32":
                values[name] = _number(name, values.get(name), named, problems)
        if not re.fullmatch(r"\w+", values.get("split") or "none"):
            problems.append(Problem("split names that are not one word", f"{named}: {values['split']!r}"))
        return {name: values.get(name) for name in self.features}

    def _locate(self, file: str, problems: list[Problem]) -> tuple[Path, float | None]:
        """The resolved path and the duration in seconds."""
        path = (self.folder / file).resolve()
        if Path(file).is_absolute() or not path.is_relative_to(self.folder):
            problems.append(Problem("files outside the corpus folder", file))
        elif not path.is_file():
            problems.append(Problem("missing files", file))
        elif self._identify(path.name if self.unique_names else path, "files", file, problems):
            return path, _duration(path, file, problems)
        return path, None

    def _identify(self, key: str | Path, kind: str, name: str, problems: list[Problem]) -> bool:
        """Whether a row is the first with this key; another one is a problem."""
        is_new = key not in self.seen
        self.seen.add(key)
        if not is_new:
            problems.append(Problem(f"duplicate {kind}", name))
        return is_new

    def report(self) -> str:
        """All kinds of problems with their counts and first examples, one per line."""
        lines = []
        for kind, examples in self.problems.items():
            more = ", ..." if len(examples) > EXAMPLES_SHOWN else ""
            lines.append(f"  {len(examples)} {kind}: {', '.join(examples[:EXAMPLES_SHOWN])}{more}")
        total = sum(map(len, self.problems.values()))
        return f"{total} problems in {self.folder}\n" + "\n".join(lines)


def recording_seconds(path: Path) -> float:
    """Duration of a recording in seconds; it is decoded if its container does not tell.

    Raises:
        ValueError, OSError: the file cannot be read.
    """
    seconds = audio_seconds(path)
    if math.isfinite(seconds):
        return seconds
    waveform, rate = read_audio(path)
    return len(waveform) / rate


def _duration(path: Path, file: str, problems: list[Problem]) -> float | None:
    try:
        seconds = recording_seconds(path)
    except (OSError, ValueError) as error:
        problems.append(Problem("unreadable recordings", f"{file} ({error})".replace(f"{path}", "it")))
        return None
    if seconds == 0:
        problems.append(Problem("empty recordings", file))
    return seconds


def clean_value(name: str, value: Any) -> Any:
    """Stripped text; None for empty text and for an unknown speaker or gender, since `Unknown` is not one person.
    Splits get their common names, such as `dev` for `validation`.

    Args:
        name: name of the column.
        value: of a cell; other values than text are unchanged.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text or (name in ("speaker", "gender") and text.lower() == "unknown"):
        return None
    if name == "gender":
        return text.lower()
    return SPLIT_NAMES.get(text.lower(), text) if name == "split" else text


def _class_number(feature: ClassLabel, label: str | None, file: str, problems: list[Problem]) -> int | None:
    if label is None or label in feature.names:
        return None if label is None else feature.names.index(label)
    kind = f"unknown labels (the vocabulary is {', '.join(feature.names)})"
    problems.append(Problem(kind, f"{file}: {label!r}"))
    return None


def _number(name: str, value: Any, file: str, problems: list[Problem]) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        problems.append(Problem("values that are not numbers", f"{file}: {name} {value!r}"))
    return number


# Splits --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeakerSplits:
    """The held-out speakers; all others are in the train split.

    Raises:
        DatasetError: a speaker is in both splits.
    """

    dev: Sequence[str]
    test: Sequence[str]

    def __post_init__(self) -> None:
        shared = sorted(set(self.dev) & set(self.test))
        if shared:
            raise DatasetError(f"speakers {', '.join(shared)} are in both dev and test; name each of them once")

    def split_of(self, speaker: str) -> str:
        """The split of a speaker: `"train"`, `"dev"` or `"test"`."""
        return "dev" if speaker in self.dev else "test" if speaker in self.test else "train"

    def warn_of_absent(self, dataset: Dataset, prefix: str) -> None:
        """Warns of held-out speakers who are not in the corpus: a misspelt name would end up in the train split.

        Args:
            dataset: the dataset of the corpus.
            prefix: prefix of the speaker names in the dataset.
        """
        absent = sorted({*self.dev, *self.test} - {str(name).removeprefix(prefix) for name in dataset["speaker"]})
        if absent:
            warnings.warn(f"speakers {', '.join(absent)} are to be held out but are not in the corpus", stacklevel=2)


def overlap(dataset: Dataset, column: str) -> dict[str, list[str]]:
    """Values of a column (speakers, source recordings) that occur in more than one split.

    Args:
        dataset: a dataset with the columns `column` and `split`.
        column: name of the column.

    Returns:
        `{value: names of its splits}`.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for value, split in zip(values(dataset, column), values(dataset, "split"), strict=True):
        if value is not None and split is not None:
            splits[value].add(split)
    return {value: sorted(names) for value, names in sorted(splits.items()) if len(names) > 1}


def warn_of_overlap(dataset: Dataset, column: str) -> None:
    """Warns if a value of a column occurs in more than one split, so that training and test are not independent.

    Args:
        dataset: a dataset with the columns `column` and `split`.
        column: name of the column.
    """
    shared = overlap(dataset, column)
    if shared:
        shown = "; ".join(f"{value} ({', '.join(splits)})" for value, splits in list(shared.items())[:EXAMPLES_SHOWN])
        more = "; ..." if len(shared) > EXAMPLES_SHOWN else ""
        warnings.warn(f"{len(shared)} values of {column!r} are in more than one split: {shown}{more}", stacklevel=2)


# Writing -------------------------------------------------------------------------------------------------------------


def write_dataset(
    dataset: Dataset, out: str | Path, format: str = "parquet", embed: bool = False, overwrite: bool = False
) -> None:
    """Writes a dataset atomically: the folder is either complete or absent.

    Args:
        dataset: from `build_dataset`.
        out: the folder to create.
        format: `"parquet"`, shards named after their split, or `"disk"`, `Dataset.save_to_disk`.
        embed: store the recordings in the dataset; otherwise it holds their absolute paths. `"disk"` always
            embeds, since `Dataset.save_to_disk` does.
        overwrite: replace an existing dataset.

    Raises:
        DatasetError: `out` exists without `overwrite`, or holds anything but a dataset.
    """
    out = Path(out).expanduser().resolve()
    check_destination(out, overwrite)
    with replacing_folder(out) as folder:
        if format == "disk":
            dataset.save_to_disk(str(folder))
        else:
            _write_parquet(dataset, folder, out.name, embed)


def check_destination(out: Path, overwrite: bool) -> None:
    """Checks that a dataset may be written to a folder: only datasets written by this package are replaced.

    Args:
        out: the folder to write.
        overwrite: allow replacing an existing dataset.

    Raises:
        DatasetError: the folder exists without `overwrite`, or holds anything but a dataset.
    """
    try:
        check_replaceable(out, overwrite, _foreign)
    except FileExistsError as error:
        raise DatasetError(str(error)) from error


def _foreign(folder: Path) -> str | None:
    """Why a folder is not a dataset: the first file that `write_dataset` would not write; None for a dataset."""
    ours = {"dataset_info.json", "state.json", "README.md", "LICENSE"}
    names = (path.name for path in sorted(folder.iterdir()) if path.suffix not in (".parquet", ".arrow"))
    foreign = next((name for name in names if name not in ours), None)
    return foreign and f"it is not a dataset, since it holds {foreign}"


def _write_parquet(dataset: Dataset, folder: Path, name: str, embed: bool) -> None:
    """Writes one set of shards per split, the card, and `dataset_info.json` with what Parquet does not store."""
    rows = split_rows(dataset)
    for split, indices in rows.items():
        _write_shards(dataset.select(indices), folder, split, embed)
    dataset.info.write_to_directory(str(folder), pretty_print=True)
    files = [{"split": split, "path": f"{split}-*.parquet"} for split in rows]
    card = render_dataset_card(dataset, name, [{"config_name": "default", "data_files": files}])
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def _write_shards(dataset: Dataset, folder: Path, split: str, embed: bool) -> None:
    """Writes rows, with their recordings if requested; at most a hundred rows are in memory."""
    size = _recordings_size(dataset, embed)
    shards = 1 + size // SHARD_BYTES
    for number in range(shards):
        shard = dataset.shard(shards, number, contiguous=True).with_format("arrow")
        path = folder / f"{split}-{number:05d}-of-{shards:05d}.parquet"
        with pq.ParquetWriter(path, dataset.features.arrow_schema) as writer:
            for batch in shard.iter(100 if size else 10_000):
                writer.write_table(embed_table_storage(batch) if embed else batch)


def _recordings_size(dataset: Dataset, embed: bool) -> int:
    """Bytes of the embedded recordings and, with `embed`, of those that are still files."""
    names, size = [name for name, feature in dataset.features.items() if isinstance(feature, Audio)], 0
    if not names:
        return 0
    for batch in dataset.select_columns(names).with_format("arrow").iter(100):
        for recording in (recording for name in names for recording in batch.column(name) if recording.is_valid):
            held = recording["bytes"]
            if held.is_valid:
                size += len(held.as_buffer())
            elif embed:
                size += os.path.getsize(recording["path"].as_py())
    return size


def summary(dataset: Dataset) -> str:
    """Rows, hours of audio and classes of each split, as lines of text."""
    lines, is_audio = [], "audio" in dataset.features
    for split, rows in split_rows(dataset).items():
        classes = ", ".join(f"{name} {count}" for name, count in class_counts(dataset, rows).most_common())
        size = f"{len(rows):7} clips {hours(dataset, rows):8.2f} h" if is_audio else f"{len(rows):7} texts"
        lines.append(f"{split:12} {size}   {classes}")
    return "\n".join(lines)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Dataset tables: the one schema of all corpora, and the way back from disk or from the Hub to `datasets`.

A table is written by `prepare` and read here. Its audio column is never decoded by `datasets` (that needs torchcodec):
each entry is `{"bytes", "path"}`, which `load_audio` turns into samples.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetInfo,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError

from ..models.sparse_merit.audio import SAMPLING_RATE

EMOTIONS = ("angry", "sad", "happy", "neutral", "fear", "disgust", "surprise", "calm", "contempt")
"""The emotion vocabulary shared by all corpora, in the order of their class numbers."""

AUDIO = Audio(sampling_rate=SAMPLING_RATE, decode=False)


class DatasetError(ValueError):
    """A corpus or a dataset is not what it has to be; the message says what was found and how to fix it."""


def speech_features(labels: Sequence[str] = EMOTIONS) -> Features:
    """Columns of a speech dataset. `duration` is in seconds, ratings are in the corpus's own scale, any value but
    `audio` and `duration` may be None; an emotion of None is an unlabelled clip and never a class. `sentence` is the
    corpus's own identifier of the sentence that was spoken."""
    text = ("speaker", "split", "gender", "language", "text", "sentence", "source_file")
    numbers = ("duration", "arousal", "valence", "dominance")
    return Features(
        {"audio": AUDIO, "emotion": ClassLabel(names=list(labels))}
        | {name: Value("string") for name in text}
        | {name: Value("float32") for name in numbers}
    )


def noise_features() -> Features:
    """Columns of a dataset of noises or room impulse responses. `duration` and `rt60_s` (the reverberation time of a
    room) are in seconds; any value but `audio` and `duration` may be None."""
    text = ("category", "split", "source_file", "freesound_id")
    return Features(
        {"audio": AUDIO}
        | {name: Value("string") for name in text}
        | {name: Value("float32") for name in ("duration", "rt60_s")}
    )


def read_dataset(path: str | Path, split: str | None = None) -> Dataset:
    """Reads a dataset: a folder of Parquet shards, one Parquet file, a folder written by `Dataset.save_to_disk`, or,
    where nothing has that path, a dataset on the Hub, which is downloaded.

    Args:
        path: the dataset; `owner/name` on the Hub.
        split: keep only the rows whose `split` column says so, such as `"train"`; None keeps them all.

    Returns:
        The table, with its audio left undecoded and its licence, citation and description in `Dataset.info`, unless it
        comes from the Hub, where its card states them.

    Raises:
        DatasetError: there is no dataset at `path`, or it has no row of this split.
    """
    return read_datasets([path], split)


def read_datasets(paths: Iterable[str | Path], split: str | None = None, download_all: bool = True) -> Dataset:
    """Reads several datasets into one.

    A column that a dataset lacks is None in its rows, and emotion classes are matched by name: the shared vocabulary
    keeps its numbers, further names follow in the order in which they are met.

    Args:
        paths: the datasets, each as for `read_dataset`.
        split: keep only the rows of this split; a dataset without any such row adds none.
        download_all: whether all splits of a dataset on the Hub are downloaded, which are then found offline too, or
            only `split`.

    Raises:
        DatasetError: a path holds no dataset, tables disagree about the type of a column, or no row is left.
    """
    tables = [_read(Path(path), None if download_all else split) for path in paths]
    if not tables:
        raise DatasetError("no table was given; name at least one folder written by a dataset script")
    features = _common_features(tables)
    table = concatenate_datasets([_conform(table, features) for table in tables])
    return table if split is None else _select_split(table, split)


def stream_datasets(paths: Iterable[str | Path], split: str, columns: Sequence[str]) -> list[IterableDataset]:
    """Opens tables on the Hub for being read row by row, without downloading them.

    Args:
        paths: names of datasets on the Hub, `owner/name`.
        split: the split to read; a dataset without it adds nothing.
        columns: the columns to read; nothing else is fetched.

    Returns:
        a stream for each dataset that has the split, its audio undecoded.

    Raises:
        DatasetError: a path is no dataset on the Hub that can be streamed, a column is missing, or no dataset has the
            split.
    """
    names = [Path(path) for path in paths]
    streams = [_stream(name, split, list(columns)) for name in names]
    found = [stream for stream in streams if stream is not None]
    if not found:
        given = ", ".join(name.as_posix() for name in names) or "no table"
        raise DatasetError(f"no split {split!r} to stream; the datasets to look in were: {given}")
    return found


def _stream(path: Path, split: str, columns: list[str]) -> IterableDataset | None:
    """One split of a dataset on the Hub, None where the dataset has no such split."""
    name = path.as_posix()
    if not _is_on_hub(path):
        raise DatasetError(
            f"{name} cannot be streamed, only datasets on the Hub (owner/name) can; push it, or leave out `streaming`"
        )
    files = _split_files(name, split)
    if not files:
        return None
    with _hub_errors(name):
        stream = load_dataset("parquet", data_files=files, split=split, streaming=True, columns=columns)
    missing = [column for column in columns if column not in stream.features]
    if missing:
        raise DatasetError(f"{name} has no column {', '.join(map(repr, missing))}, which a speech dataset needs")
    return stream.cast_column("audio", AUDIO) if "audio" in columns else stream


def _is_on_hub(path: Path) -> bool:
    """Whether a path names a dataset on the Hub: it looks like one, and nothing on this machine has that path."""
    return not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path.as_posix()) is not None


def _download(name: str, split: str | None) -> Dataset:
    """A dataset on the Hub, or only one split of it. Where it has no column `split`, the names of its splits make
    one."""
    files = None if split is None else _split_files(name, split)
    if files == {}:
        return Dataset(Features({"audio": AUDIO, "split": Value("string")}).arrow_schema.empty_table())
    with _hub_errors(name):
        splits = load_dataset(name) if files is None else load_dataset("parquet", data_files=files)
    for key, table in splits.items():
        if "split" not in table.column_names:
            splits[key] = table.add_column("split", [key] * len(table))
    return concatenate_datasets(list(splits.values()))


def _split_files(name: str, split: str) -> dict[str, list[str]]:
    """The Parquet files of one split of a dataset on the Hub, at the commit that is now the newest."""
    with _hub_errors(name):
        files = load_dataset_builder(name).config.data_files or {}
    if not all(file.endswith(".parquet") for file in files.get(split, [])):
        raise DatasetError(f"{name} is not stored in Parquet; push it with `sparse-merit push`, which does so")
    return {split: files[split]} if split in files else {}


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Says which dataset it was that could not be had."""
    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        raise DatasetError(
            f"{name} is no dataset on this machine (`python -m dataset_scripts.folder CORPUS_FOLDER {name}` writes "
            f"one), and it cannot be read from the Hub: {error}"
        ) from error


def _read(path: Path, split: str | None = None) -> Dataset:
    """One table with undecoded audio; of a dataset on the Hub only `split`, where that is given."""
    table = _download(path.as_posix(), split) if _is_on_hub(path) else _read_local(path)
    if "audio" not in table.features:
        raise DatasetError(f"{path} has no column 'audio'; its columns are {', '.join(table.column_names)}")
    return table if table.features["audio"] == AUDIO else table.cast_column("audio", AUDIO)


def _read_local(path: Path) -> Dataset:
    """A table of this machine; the Parquet route takes licence and citation from `dataset_info.json`."""
    shards = [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet"))
    if (path / "state.json").is_file():
        table = load_from_disk(str(path))
    elif shards and all(shard.is_file() for shard in shards):
        table = Dataset.from_parquet([str(shard) for shard in shards])
        _recall_origin(table, shards[0].parent)
    else:
        raise DatasetError(
            f"{path} holds no dataset: expected Parquet files or a folder written by Dataset.save_to_disk. "
            "Write one with, for example, `python -m dataset_scripts.folder CORPUS_FOLDER TABLE_FOLDER`"
        )
    return table


def _recall_origin(table: Dataset, folder: Path) -> None:
    """Puts back what Parquet does not keep."""
    if (folder / "dataset_info.json").is_file():
        info = DatasetInfo.from_directory(str(folder))
        table.info.license, table.info.citation = info.license, info.citation
        table.info.description = info.description


def _common_features(tables: Sequence[Dataset]) -> Features:
    """The union of all columns; an emotion column holds the union of all class names."""
    features: dict = {}
    for table in tables:
        for name, feature in table.features.items():
            known = features.setdefault(name, feature)
            if isinstance(known, ClassLabel) and isinstance(feature, ClassLabel):
                features[name] = ClassLabel(names=_merge_names(known.names, feature.names))
            elif known != feature:
                raise DatasetError(
                    f"column {name!r} is {known} in one dataset and {feature} in another; write them alike"
                )
    return Features(features)


def _merge_names(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Both vocabularies without repetition, the shared one first where it takes part."""
    names = list(dict.fromkeys([*first, *second]))
    if set(EMOTIONS) <= set(names):
        names = list(dict.fromkeys([*EMOTIONS, *names]))
    return names


def _conform(table: Dataset, features: Features) -> Dataset:
    """Adds the missing columns as None, renumbers classes by name, and puts the columns in order."""
    for name, feature in features.items():
        if name not in table.column_names:
            nulls = pa.nulls(len(table), Features({name: feature}).arrow_schema.field(name).type)
            table = table.add_column(name, nulls, feature=feature)
        elif table.features[name] != feature:
            numbers = pa.array([feature.str2int(label) for label in table.features[name].names], pa.int64())
            renumbered = pc.take(numbers, table.data.column(name))
            table = table.remove_columns(name).add_column(name, renumbered, feature=feature)
    return table.select_columns(list(features))


def _select_split(table: Dataset, split: str) -> Dataset:
    if "split" not in table.column_names:
        raise DatasetError(
            f"no column 'split' to take {split!r} from; the columns are {', '.join(table.column_names)}"
        )
    splits = table.data.column("split").to_pylist()
    chosen = [index for index, name in enumerate(splits) if name == split]
    if not chosen:
        found = ", ".join(sorted({str(name) for name in splits})) or "none: the dataset is empty"
        raise DatasetError(f"no row belongs to split {split!r}; the splits are {found}")
    return table.select(chosen)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The common schema of all corpora, and reading datasets from disk or from the Hub.

Datasets are written by `prepare` and read here. `datasets` never decodes the audio column, since that needs
torchcodec: each entry is `{"bytes", "path"}`, which `load_audio` turns into samples.
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
    """A corpus or a dataset is invalid; the message says what is wrong and how to fix it."""


def speech_features(labels: Sequence[str] = EMOTIONS) -> Features:
    """The schema of a speech dataset.

    `duration` is in seconds, and ratings are on the scale of the corpus. All values but `audio` and `duration` may be
    None. An emotion of None marks an unlabelled clip; it is never a class. `sentence` identifies the spoken sentence
    within the corpus, and `intent` is what the speaker wants.
    """
    text = ("speaker", "split", "gender", "language", "text", "sentence", "source_file", "intent")
    numbers = ("duration", "arousal", "valence", "dominance")
    return Features(
        {"audio": AUDIO, "emotion": ClassLabel(names=list(labels))}
        | {name: Value("string") for name in text}
        | {name: Value("float32") for name in numbers}
    )


def text_features(labels: Sequence[str] = EMOTIONS) -> Features:
    """The schema of a dataset of texts without recordings.

    Ratings are on the scale of the corpus. `dialogue` is the conversation that a text is from, and `turn` its place in
    it: turns are in order, but some of their numbers may be missing. All values but `text` may be None.
    """
    text = ("text", "split", "speaker", "language", "dialogue", "sentiment", "source_file")
    return Features(
        {"emotion": ClassLabel(names=list(labels))}
        | {name: Value("string") for name in text}
        | {"turn": Value("int32")}
        | {name: Value("float32") for name in ("arousal", "valence", "dominance")}
    )


def noise_features() -> Features:
    """The schema of a dataset of noises or room impulse responses.

    `duration` and `rt60_s` (reverberation time) are in seconds. All values but `audio` and `duration` may be None.
    """
    text = ("category", "split", "source_file", "freesound_id")
    return Features(
        {"audio": AUDIO}
        | {name: Value("string") for name in text}
        | {name: Value("float32") for name in ("duration", "rt60_s")}
    )


def read_dataset(path: str | Path, split: str | None = None, required: str | None = "audio") -> Dataset:
    """Reads a dataset: a folder of Parquet shards, one Parquet file, or a folder written by `Dataset.save_to_disk`.
    A path that does not exist locally names a dataset on the Hub, which is downloaded.

    Args:
        path: the dataset; `owner/name` on the Hub.
        split: keep only the rows of this split, such as `"train"`; None keeps all rows.
        required: a column that the dataset must have: `"audio"`, `"text"` for texts with or without recordings, or
            None.

    Returns:
        The dataset with undecoded audio. `Dataset.info` holds licence, citation and description, except for datasets
        from the Hub, whose card states them.

    Raises:
        DatasetError: there is no dataset at `path`, it lacks the column, or it has no row of this split.
    """
    return read_datasets([path], split, required=required)


def read_datasets(
    paths: Iterable[str | Path],
    split: str | None = None,
    download_all: bool = True,
    required: str | None = "audio",
) -> Dataset:
    """Reads several datasets into one.

    Missing columns are filled with None, and emotion classes are matched by name: the shared vocabulary
    keeps its numbers, and further names follow in order of first appearance.

    Args:
        paths: the datasets, each as for `read_dataset`.
        split: keep only the rows of this split; a dataset without any such row adds none.
        download_all: download all splits of a dataset on the Hub, so that they are available offline; False downloads
            only `split`.
        required: a column that each dataset must have: `"audio"`, `"text"` for texts with or without recordings, or
            None.

    Raises:
        DatasetError: a path holds no dataset or one without the column, datasets disagree about the type of a column,
            or no row is left.
    """
    datasets = [_read(Path(path), None if download_all else split, required) for path in paths]
    if not datasets:
        raise DatasetError("no dataset was given; name at least one folder written by a dataset script")
    features = _common_features(datasets)
    dataset = concatenate_datasets([_conform(dataset, features) for dataset in datasets])
    return dataset if split is None else _select_split(dataset, split)


def stream_datasets(paths: Iterable[str | Path], split: str, columns: Sequence[str]) -> list[IterableDataset]:
    """Streams datasets from the Hub row by row, without downloading them.

    Args:
        paths: names of datasets on the Hub, `owner/name`.
        split: the split to read; a dataset without it adds nothing.
        columns: the columns to read; nothing else is fetched.

    Returns:
        One stream with undecoded audio for each dataset that has the split.

    Raises:
        DatasetError: a path is not a dataset on the Hub that can be streamed, a column is missing, or no dataset has
            the split.
    """
    names = [Path(path) for path in paths]
    streams = [_stream(name, split, list(columns)) for name in names]
    available = [stream for stream in streams if stream is not None]
    if not available:
        given = ", ".join(name.as_posix() for name in names) or "none"
        raise DatasetError(f"no dataset has a split {split!r} to stream; the given datasets: {given}")
    return available


def _stream(path: Path, split: str, columns: list[str]) -> IterableDataset | None:
    """One split of a dataset on the Hub, None where the dataset has no such split."""
    name = path.as_posix()
    if not _is_on_hub(path):
        raise DatasetError(
            f"{name} cannot be streamed: only datasets on the Hub (owner/name) can. Push it, or leave out `streaming`"
        )
    files = _split_files(name, split)
    if not files:
        return None
    with _hub_errors(name):
        stream = load_dataset("parquet", data_files=files, split=split, streaming=True, columns=columns)
    missing = [column for column in columns if column not in stream.features]
    if missing:
        raise DatasetError(f"{name} has no column {', '.join(map(repr, missing))}, which every speech dataset needs")
    return stream.cast_column("audio", AUDIO) if "audio" in columns else stream


def _is_on_hub(path: Path) -> bool:
    """Whether a path names a dataset on the Hub: it looks like one, and nothing on this machine has that path."""
    return not path.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path.as_posix()) is not None


def _download(name: str, split: str | None) -> Dataset:
    """A dataset on the Hub, or only one split of it. A missing column `split` is filled with the names of its
    splits."""
    files = None if split is None else _split_files(name, split)
    if files == {}:
        columns = {"audio": AUDIO, "text": Value("string"), "split": Value("string")}
        return Dataset(Features(columns).arrow_schema.empty_table())
    with _hub_errors(name):
        splits = load_dataset(name) if files is None else load_dataset("parquet", data_files=files)
    for key, dataset in splits.items():
        if "split" not in dataset.column_names:
            splits[key] = dataset.add_column("split", [key] * len(dataset))
    return concatenate_datasets(list(splits.values()))


def _split_files(name: str, split: str) -> dict[str, list[str]]:
    """The Parquet files of one split of a dataset on the Hub, at its latest commit."""
    with _hub_errors(name):
        files = load_dataset_builder(name).config.data_files or {}
    if not all(file.endswith(".parquet") for file in files.get(split, [])):
        raise DatasetError(f"{name} is not stored in Parquet; push it with `sparse-merit push`, which writes Parquet")
    return {split: files[split]} if split in files else {}


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turns errors of the Hub into a `DatasetError` that names the dataset."""
    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        raise DatasetError(
            f"{name} is neither a local dataset nor readable from the Hub: {error}. Write it with, for example, "
            f"`python -m dataset_scripts.folder CORPUS_FOLDER {name}`"
        ) from error


def _read(path: Path, split: str | None, required: str | None) -> Dataset:
    """One dataset with undecoded audio; of a dataset on the Hub only `split`, if given."""
    dataset = _download(path.as_posix(), split) if _is_on_hub(path) else _read_local(path)
    if required is not None and required not in dataset.features:
        raise DatasetError(f"{path} has no column {required!r}; its columns are {', '.join(dataset.column_names)}")
    is_decoded = dataset.features.get("audio", AUDIO) != AUDIO
    return dataset.cast_column("audio", AUDIO) if is_decoded else dataset


def _read_local(path: Path) -> Dataset:
    """A local dataset; for Parquet files, licence and citation come from `dataset_info.json`."""
    shards = [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet"))
    if (path / "state.json").is_file():
        dataset = load_from_disk(str(path))
    elif shards and all(shard.is_file() for shard in shards):
        dataset = Dataset.from_parquet([str(shard) for shard in shards])
        _recall_origin(dataset, shards[0].parent)
    else:
        raise DatasetError(
            f"{path} holds no dataset: expected Parquet files or a folder written by Dataset.save_to_disk. "
            "Write one with, for example, `python -m dataset_scripts.folder CORPUS_FOLDER DATASET_FOLDER`"
        )
    return dataset


def _recall_origin(dataset: Dataset, folder: Path) -> None:
    """Sets licence, citation and description, which Parquet does not store."""
    if (folder / "dataset_info.json").is_file():
        info = DatasetInfo.from_directory(str(folder))
        dataset.info.license, dataset.info.citation = info.license, info.citation
        dataset.info.description = info.description


def _common_features(datasets: Sequence[Dataset]) -> Features:
    """The union of all columns; an emotion column holds the union of all class names."""
    features: dict = {}
    for dataset in datasets:
        for name, feature in dataset.features.items():
            known = features.setdefault(name, feature)
            if isinstance(known, ClassLabel) and isinstance(feature, ClassLabel):
                features[name] = ClassLabel(names=_merge_names(known.names, feature.names))
            elif known != feature:
                raise DatasetError(
                    f"column {name!r} is {known} in one dataset and {feature} in another; write both with one type"
                )
    return Features(features)


def _merge_names(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Union of both vocabularies, starting with the shared one if it is included."""
    names = list(dict.fromkeys([*first, *second]))
    if set(EMOTIONS) <= set(names):
        names = list(dict.fromkeys([*EMOTIONS, *names]))
    return names


def _conform(dataset: Dataset, features: Features) -> Dataset:
    """Adds the missing columns as None, renumbers classes by name, and puts the columns in order."""
    for name, feature in features.items():
        if name not in dataset.column_names:
            nulls = pa.nulls(len(dataset), Features({name: feature}).arrow_schema.field(name).type)
            dataset = dataset.add_column(name, nulls, feature=feature)
        elif dataset.features[name] != feature:
            numbers = pa.array([feature.str2int(label) for label in dataset.features[name].names], pa.int64())
            renumbered = pc.take(numbers, dataset.data.column(name))
            dataset = dataset.remove_columns(name).add_column(name, renumbered, feature=feature)
    return dataset.select_columns(list(features))


def _select_split(dataset: Dataset, split: str) -> Dataset:
    if "split" not in dataset.column_names:
        raise DatasetError(
            f"there is no column 'split' to select {split!r}; the columns are {', '.join(dataset.column_names)}"
        )
    splits = dataset.data.column("split").to_pylist()
    chosen = [index for index, name in enumerate(splits) if name == split]
    if not chosen:
        available = ", ".join(sorted({str(name) for name in splits})) or "none: the dataset is empty"
        raise DatasetError(f"no row belongs to split {split!r}; the splits are {available}")
    return dataset.select(chosen)

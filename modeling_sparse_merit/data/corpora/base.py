# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The base classes of all corpora: they turn a folder into a checked dataset."""

import csv
import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetInfo, Features

from .. import prepare
from ..datasets import DatasetError, speech_features

Row = dict[str, Any] | prepare.Problem


class Corpus(ABC):
    """One corpus, or one kind of folder.

    A subclass implements `rows`. Its own options are keyword arguments of `rows`.

    Usage:
        >>> from modeling_sparse_merit.data.corpora import corpus
        >>> _ = Path("calls/metadata.csv").write_text("file_name,emotion\\na.flac,sad\\nb.flac,happy\\n")
        >>> dataset = corpus("folder").build("calls", labels=("happy", "sad"))
        >>> dataset["emotion"][:]
        [1, 0]
    """

    info: ClassVar[DatasetInfo] = DatasetInfo()
    """Description, licence and citation that are stored with the dataset."""
    unique_names: ClassVar[bool] = False
    """Whether a file name identifies a recording in any subfolder."""
    independent: ClassVar[str | None] = None
    """A column each of whose values should occur in one split only; a warning names those that do not."""

    @abstractmethod
    def rows(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields one row for each recording, `file` relative to `audio_folder`.

        Args:
            folder: the corpus, as it was unpacked.
            notes: counts of rows left out or changed (`"songs were left out"`); added to the description.
            options: options of the corpus.

        Raises:
            DatasetError: a list of the corpus is missing or lacks a column, or an option is invalid.
        """

    def features(self, **options: Any) -> Features:
        """The schema of the dataset.

        Args:
            options: options of the corpus.
        """
        return speech_features()

    def audio_folder(self, folder: Path, **options: Any) -> Path:
        """The folder that contains all recordings.

        Args:
            folder: the corpus, as it was unpacked.
            options: options of the corpus.
        """
        return folder

    def build(
        self, folder: str | Path, *, skip_bad: bool = False, info: DatasetInfo | None = None, **options: Any
    ) -> Dataset:
        """The dataset of this corpus.

        Args:
            folder: the corpus, as it was unpacked.
            skip_bad: leave bad rows out with a warning.
            info: metadata to store in place of that of the corpus.
            options: options of the corpus.

        Raises:
            DatasetError: the folder or some of its rows are invalid.
        """
        path = prepare.corpus_folder(folder)
        notes: Counter[str] = Counter()
        audio = prepare.corpus_folder(self.audio_folder(path, **options))
        rows = self.rows(path, notes, **options)
        features = self.features(**options)
        dataset = prepare.build_dataset(rows, audio, features, info or self.info, notes, self.unique_names, skip_bad)
        if self.independent is not None:
            prepare.warn_of_overlap(dataset, self.independent)
        self.check(dataset, **options)
        return dataset

    def check(self, dataset: Dataset, **options: Any) -> None:  # noqa: B027
        """Warns of anything unusual in the dataset.

        Args:
            dataset: the dataset of this corpus.
            options: options of the corpus.
        """


class SpeakerCorpus(Corpus):
    """A corpus without official splits, split by speaker.

    A subclass implements `found`.
    """

    name: ClassVar[str]
    """Prefix of the speaker names."""
    dev: ClassVar[Sequence[str]]
    test: ClassVar[Sequence[str]]
    unique_names = True

    @abstractmethod
    def found(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields the recordings as `rows` does, but without splits and with speaker names that lack the prefix.

        Args:
            folder: the corpus, as it was unpacked.
            notes: counts of rows left out or changed; added to the description.
            options: options of the corpus.

        Raises:
            DatasetError: a list of the corpus is missing or lacks a column.
        """

    def rows(
        self,
        folder: Path,
        notes: Counter[str],
        dev: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[Row]:
        """Yields one row for each recording, with its split.

        Args:
            folder: the corpus, as it was unpacked.
            notes: counts of rows left out or changed; added to the description.
            dev: speakers of the dev split; None takes the default ones.
            test: speakers of the test split; None takes the default ones.
            options: options of the corpus.
        """
        splits = self._splits(dev, test)
        for row in self.found(folder, notes, **options):
            if isinstance(row, dict):
                speaker = row["speaker"]
                row |= {"speaker": f"{self.name}_{speaker}", "split": splits.split_of(speaker)}
            yield row

    def check(self, dataset: Dataset, **options: Any) -> None:
        self._splits(options.get("dev"), options.get("test")).warn_of_absent(dataset, f"{self.name}_")

    def _splits(self, dev: Sequence[str] | None, test: Sequence[str] | None) -> prepare.SpeakerSplits:
        return prepare.SpeakerSplits(self.dev if dev is None else dev, self.test if test is None else test)


class ActedCorpus(SpeakerCorpus):
    """A corpus whose labels are encoded in its file names.

    A subclass implements `file_name` and `row`.
    """

    file_name: ClassVar[re.Pattern[str]]

    @abstractmethod
    def row(self, match: re.Match[str], notes: Counter[str], **options: Any) -> dict[str, Any] | None:
        """Columns of a recording, with a speaker name that lacks the prefix; None to leave the recording out.

        Args:
            match: match of `file_name` with the file's name.
            notes: counts of rows left out or changed; added to the description.
            options: options of the corpus.
        """

    def found(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields the recordings below a folder by their names."""
        for path in prepare.audio_files(folder):
            file = path.relative_to(folder).as_posix()
            match = self.file_name.fullmatch(path.stem)
            if not match:
                yield prepare.Problem(f"file names that are not of {self.info.description.partition(':')[0]}", file)
            elif row := self.row(match, notes, **options):
                yield {"file": file, **row}


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of several files that exists: releases differ in where they keep their lists.

    Args:
        folder: the corpus, as it was unpacked.
        names: paths relative to the folder.

    Raises:
        DatasetError: none of them exists.
    """
    places = [folder / name for name in names]
    for place in places:
        if place.is_file():
            return place
    raise DatasetError(f"{Path(names[0]).name} is missing; looked for {', '.join(map(str, places))}")


def csv_lines(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file in UTF-8 or Windows-1252, as stripped texts of some columns.

    Args:
        path: the file.
        columns: names of columns to read.

    Raises:
        DatasetError: the file lacks a column.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise DatasetError(f"{path} lacks {len(missing)} columns: {', '.join(missing)}")
    for line in reader:
        yield {name: (line[name] or "").strip() for name in columns}

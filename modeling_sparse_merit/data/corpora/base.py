# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What all corpora share: from a folder to a checked dataset, in Python and on the command line."""

import argparse
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetInfo, Features

from .. import prepare
from ..datasets import speech_features

Row = dict[str, Any] | prepare.Problem


class Corpus(ABC):
    """One corpus, or one kind of folder.

    A subclass gives `rows`; options of its own are keyword arguments of `rows` that `add_arguments` asks for.

    Usage:
        >>> from modeling_sparse_merit.data.corpora import corpus
        >>> _ = Path("calls/metadata.csv").write_text("file_name,emotion\\na.flac,sad\\nb.flac,happy\\n")
        >>> dataset = corpus("folder").build("calls", labels=("happy", "sad"))
        >>> dataset["emotion"][:]
        [1, 0]
    """

    description: ClassVar[str]
    """What help says first."""
    info: ClassVar[DatasetInfo] = DatasetInfo()
    """Description, licence and citation that the dataset remembers."""
    unique_names: ClassVar[bool] = False
    """Whether a file name identifies a recording, wherever it lies."""
    independent: ClassVar[str | None] = None
    """Column whose values are to be in one split alone; else a warning."""

    @abstractmethod
    def rows(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields one row for each recording, `file` relative to `audio_folder`.

        Args:
            notes: what is counted on the way (`"songs were left out"`); added to the description.
        """

    def features(self, **options: Any) -> Features:
        """The schema."""
        return speech_features()

    def audio_folder(self, folder: Path, **options: Any) -> Path:
        """The folder that no recording may lie outside of."""
        return folder

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027
        """Adds the options of this corpus to the command line."""

    def build(
        self, folder: str | Path, *, skip_bad: bool = False, info: DatasetInfo | None = None, **options: Any
    ) -> Dataset:
        """The dataset of this corpus.

        Args:
            folder: the corpus, as it was unpacked.
            skip_bad: leave bad rows out with a warning.
            info: what to remember instead of the corpus's own.
            options: of this corpus.

        Raises:
            DatasetError: the folder or some of its rows are not as they have to be.
        """
        path = prepare.corpus_folder(folder)
        notes: Counter[str] = Counter()
        audio = prepare.corpus_folder(self.audio_folder(path, **options))
        found = self.rows(path, notes, **options)
        features = self.features(**options)
        dataset = prepare.build_dataset(found, audio, features, info or self.info, notes, self.unique_names, skip_bad)
        if self.independent is not None:
            prepare.warn_of_overlap(dataset, self.independent)
        self.check(dataset, **options)
        return dataset

    def check(self, dataset: Dataset, **options: Any) -> None:  # noqa: B027
        """Warns of what is unusual in the dataset."""

    def main(
        self,
        arguments: Sequence[str] | None = None,
        prog: str | None = None,
        publish: prepare.Publish | None = None,
    ) -> None:
        """Builds and writes the dataset as the command line says; see `prepare.run`."""
        parser = prepare.command_line(self.description, prog)
        shared = set(vars(parser.parse_args(["folder", "out"])))
        self.add_arguments(parser)

        def build(options: argparse.Namespace) -> Dataset:
            own = {name: value for name, value in vars(options).items() if name not in shared}
            if "license" in own:
                own["info"] = DatasetInfo(**{name: own.pop(name) for name in ("license", "citation", "description")})
            return self.build(options.folder, skip_bad=options.skip_bad, **own)

        prepare.run(parser, build, arguments, publish)


class SpeakerCorpus(Corpus):
    """A corpus without splits of its own, with speakers to hold out.

    A subclass gives `found`.
    """

    name: ClassVar[str]
    """Prefix of its speakers."""
    dev: ClassVar[Sequence[str]]
    test: ClassVar[Sequence[str]]
    unique_names = True

    @abstractmethod
    def found(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields the recordings as `rows` does, their speakers without the prefix and without splits."""

    def rows(
        self,
        folder: Path,
        notes: Counter[str],
        dev: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[Row]:
        splits = self._splits(dev, test)
        for found in self.found(folder, notes, **options):
            if isinstance(found, dict):
                speaker = found["speaker"]
                found |= {"speaker": f"{self.name}_{speaker}", "split": splits.split_of(speaker)}
            yield found

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        prepare.add_speaker_splits(parser, self.dev, self.test)

    def check(self, dataset: Dataset, **options: Any) -> None:
        self._splits(options.get("dev"), options.get("test")).warn_of_absent(dataset, f"{self.name}_")

    def _splits(self, dev: Sequence[str] | None, test: Sequence[str] | None) -> prepare.SpeakerSplits:
        return prepare.SpeakerSplits(self.dev if dev is None else dev, self.test if test is None else test)


class ActedCorpus(SpeakerCorpus):
    """A corpus whose file names tell all.

    A subclass gives `file_name` and `row`.
    """

    file_name: ClassVar[re.Pattern[str]]

    @abstractmethod
    def row(self, match: re.Match[str], notes: Counter[str], **options: Any) -> dict[str, Any] | None:
        """Columns of the recording with this name, its speaker without the prefix; None where it is left out."""

    def found(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        """Yields the recordings below a folder by their names."""
        for path in prepare.audio_files(folder):
            file = path.relative_to(folder).as_posix()
            match = self.file_name.fullmatch(path.stem)
            if not match:
                yield prepare.Problem(f"file names that are not of {self.description.split(' to ')[0]}", file)
            elif row := self.row(match, notes, **options):
                yield {"file": file, **row}

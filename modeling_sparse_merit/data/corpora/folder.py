# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Any folder of recordings with a `metadata.csv`, such as a private corpus.

`metadata.csv` needs a column `file_name` (relative to the folder) and may have `emotion`, `speaker`, `split`,
`gender`, `language`, `text`, `source_file`, `arousal`, `valence` and `dominance`; other columns are left aside unless
`--column emotion=label` says what they are. An empty cell is None, and so is a speaker called `unknown`.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Features

from .. import prepare
from ..datasets import EMOTIONS, DatasetError, speech_features
from .base import Corpus


class MetadataFolder(Corpus):
    """A folder with `metadata.csv`.

    Options:
        labels: the emotion vocabulary, in the order of the class numbers.
        columns: `{"emotion": "label"}` where `metadata.csv` calls the emotion `label`.
    """

    description = "A folder with metadata.csv to a speech dataset."
    independent = "speaker"

    def rows(
        self,
        folder: Path,
        notes: Counter[str],
        labels: Sequence[str] = EMOTIONS,
        columns: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
    ) -> Iterator[dict[str, str]]:
        columns = dict(columns or {})
        unknown = sorted(set(columns) - {"file_name", *self.features(labels)})
        if unknown:
            known = ", ".join(self.features(labels))
            raise DatasetError(f"--column {unknown[0]}=... names no column of a dataset; those are {known}")
        yield from metadata_rows(folder, columns)

    def features(self, labels: Sequence[str] = EMOTIONS, **options: Any) -> Features:
        return speech_features(labels)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        prepare.add_origin(parser)
        parser.add_argument("--labels", type=prepare.names, default=",".join(EMOTIONS), help="the emotion vocabulary")
        parser.add_argument(
            "--column",
            dest="columns",
            metavar="NAME=COLUMN",
            type=_column,
            action="append",
            help="such as emotion=label",
        )


def metadata_rows(folder: Path, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The lines of `metadata.csv`; `columns` gives the file's own name of a column where it differs."""
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        raise DatasetError(f"{metadata} is missing; it lists the recordings, one in a line, under 'file_name'")
    with open(metadata, newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        found = reader.fieldnames or []
        missing = [name for name in (columns.get("file_name", "file_name"), *columns.values()) if name not in found]
        if missing:
            raise DatasetError(
                f"{metadata} lacks {len(set(missing))} columns: {', '.join(dict.fromkeys(missing))}; it has "
                f"{', '.join(found)}. Say which column is meant by --column file_name=NAME"
            )
        for line in reader:
            row = {name: value for name, value in line.items() if name and name not in columns.values()}
            row |= {name: line[own] for name, own in columns.items()}
            yield row | {"file": row["file_name"]}


def _column(text: str) -> tuple[str, str]:
    """`"emotion=label"` as a pair."""
    name, equals, own = text.partition("=")
    if not (name and equals and own):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN, such as emotion=label")
    return name, own


CORPUS = MetadataFolder()

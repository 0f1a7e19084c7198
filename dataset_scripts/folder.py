# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Any folder of recordings with a `metadata.csv`, such as a private corpus, to a speech table.

`metadata.csv` needs a column `file_name` (relative to the folder) and may have `emotion`, `speaker`, `split`,
`gender`, `language`, `text`, `source_file`, `arousal`, `valence` and `dominance`; other columns are left aside unless
`--column emotion=label` says what they are. An empty cell is None, and so is a speaker called `unknown`.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetInfo

from dataset_scripts import table
from modeling_sparse_merit.tables import EMOTIONS, TableError, speech_features


def rows(folder: Path, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The lines of `metadata.csv`; `columns` gives the file's own name of a column where it differs."""
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        raise TableError(f"{metadata} is missing; it lists the recordings, one in a line, under 'file_name'")
    with open(metadata, newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        found = reader.fieldnames or []
        missing = [name for name in (columns.get("file_name", "file_name"), *columns.values()) if name not in found]
        if missing:
            raise TableError(
                f"{metadata} lacks {len(set(missing))} columns: {', '.join(dict.fromkeys(missing))}; it has "
                f"{', '.join(found)}. Say which column is meant by --column file_name=NAME"
            )
        for line in reader:
            row = {name: value for name, value in line.items() if name and name not in columns.values()}
            row |= {name: line[own] for name, own in columns.items()}
            yield row | {"file": row["file_name"]}


def build(
    folder: str | Path,
    labels: Sequence[str] = EMOTIONS,
    columns: Mapping[str, str] | None = None,
    info: DatasetInfo | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """The speech table of a folder.

    Args:
        folder: holds `metadata.csv`.
        labels: the emotion vocabulary, in the order of the class numbers.
        columns: `{"emotion": "label"}` where `metadata.csv` calls the emotion `label`.
        info: description, licence and citation to remember.
        skip_bad: leave bad rows out with a warning.

    Raises:
        TableError: `metadata.csv` or some of its rows are not as they have to be.
    """
    folder, features = table.corpus_folder(folder), speech_features(labels)
    unknown = sorted(set(columns or {}) - {"file_name", *features})
    if unknown:
        raise TableError(f"--column {unknown[0]}=... names no column of a table; those are {', '.join(features)}")
    dataset = table.build_table(
        rows(folder, columns or {}), folder, features, info or DatasetInfo(), skip_bad=skip_bad
    )
    table.warn_of_overlap(dataset, "speaker")
    return dataset


def column(text: str) -> tuple[str, str]:
    """`"emotion=label"` as a pair."""
    name, equals, own = text.partition("=")
    if not (name and equals and own):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN, such as emotion=label")
    return name, own


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("A folder with metadata.csv to a speech table.", prog)
    table.add_origin(parser)
    parser.add_argument("--labels", type=table.names, default=",".join(EMOTIONS), help="the emotion vocabulary")
    parser.add_argument("--column", type=column, action="append", default=[], help="such as emotion=label; repeatable")
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        dataset = build(options.folder, options.labels, dict(options.column), table.origin(options), options.skip_bad)
        table.finish(dataset, options)


if __name__ == "__main__":
    main()

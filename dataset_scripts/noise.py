# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A folder of noises, or of room impulse responses, to a noise table.

With a `metadata.csv` its columns `file_name`, `category`, `split`, `source_file`, `freesound_id` and `rt60_s` are
taken. Without one, every recording below the folder is a row, and its category is the folder that it lies in.
`--split` gives the split of all rows that name none.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset, DatasetInfo

from dataset_scripts import folder as metadata_folder
from dataset_scripts import table
from modeling_sparse_merit.tables import noise_features


def rows(folder: Path, split: str | None) -> Iterator[dict[str, str | None]]:
    """The lines of `metadata.csv`, or else all recordings."""
    if (folder / "metadata.csv").is_file():
        for row in metadata_folder.rows(folder, {}):
            yield row | {"split": row.get("split") or split}
    else:
        for path in table.audio_files(folder):
            category = path.parent.name if path.parent != folder else None
            yield {"file": path.relative_to(folder).as_posix(), "category": category, "split": split}


def build(
    folder: str | Path, split: str | None = None, info: DatasetInfo | None = None, skip_bad: bool = False
) -> Dataset:
    """The noise table of a folder.

    Args:
        folder: the recordings, with or without `metadata.csv`.
        split: the split of rows that name none.
        info: description, licence and citation to remember.
        skip_bad: leave bad rows out with a warning.

    Raises:
        TableError: some rows are not as they have to be.
    """
    folder = table.corpus_folder(folder)
    dataset = table.build_table(
        rows(folder, split), folder, noise_features(), info or DatasetInfo(), skip_bad=skip_bad
    )
    table.warn_of_overlap(dataset, "freesound_id")
    return dataset


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("A folder of noises or room impulse responses to a noise table.", prog)
    table.add_origin(parser)
    parser.add_argument("--split", help="the split of rows that name none, such as train")
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        dataset = build(options.folder, options.split, table.origin(options), options.skip_bad)
        table.finish(dataset, options)


if __name__ == "__main__":
    main()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A folder of noises, or of room impulse responses.

With a `metadata.csv` in the folder, or in each of its subfolders, the columns `file_name`, `category`, `split`,
`source_file`, `freesound_id` and `rt60_s` are taken. Without one, every recording below the folder is a row, and its
category is the folder that it lies in.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features

from .. import prepare
from ..datasets import noise_features
from .base import Corpus
from .folder import metadata_rows


class NoiseFolder(Corpus):
    """Noises or room impulse responses.

    Options:
        split: the split of rows that name none.
    """

    independent = "freesound_id"

    def rows(self, folder: Path, notes: Counter[str], split: str | None = None) -> Iterator[dict[str, str | None]]:  # type: ignore[override]  # its own options
        listed = [folder] if (folder / "metadata.csv").is_file() else _listed_subfolders(folder)
        for part in listed:
            prefix = "" if part == folder else f"{part.name}/"
            for row in metadata_rows(part, {}):
                yield {**row, "file": prefix + row["file"], "split": row.get("split") or split}
        recordings = prepare.audio_files(folder)
        if listed:
            if unlisted := [path for path in recordings if not any(path.is_relative_to(part) for part in listed)]:
                notes["recordings outside the subfolders with a metadata.csv were left out"] += len(unlisted)
            return
        for path in recordings:
            category = path.parent.name if path.parent != folder else None
            yield {"file": path.relative_to(folder).as_posix(), "category": category, "split": split}

    def features(self, **options: Any) -> Features:
        return noise_features()


def _listed_subfolders(folder: Path) -> list[Path]:
    """The subfolders that hold a `metadata.csv`."""
    return [path.parent for path in sorted(folder.glob("*/metadata.csv"))]


CORPUS = NoiseFolder()

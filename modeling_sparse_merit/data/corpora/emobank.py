# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""EmoBank as it is distributed (`corpus/emobank.csv`): English sentences with mean ratings and the official splits.

The dataset has no recordings and no emotions. Valence, arousal and dominance are from 1 to 5.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from ..datasets import text_features
from .base import Corpus, Row, csv_lines, first_file

COLUMNS = ("id", "split", "V", "A", "D", "text")


class EmoBank(Corpus):
    """EmoBank."""

    info = DatasetInfo(
        description="EmoBank: English sentences of several genres, rated for valence, arousal and dominance from 1 to "
        "5.",
        license="CC BY-SA 4.0",
        citation="Buechel, S., and Hahn, U. (2017). EmoBank: Studying the impact of annotation perspective and "
        "representation format on dimensional emotion analysis. EACL 2017, volume 2, 578-585.",
    )

    def rows(self, folder: Path, notes: Counter[str]) -> Iterator[Row]:  # type: ignore[override]  # its own options
        for line in csv_lines(first_file(folder, ("emobank.csv", "corpus/emobank.csv")), COLUMNS):
            yield {
                "file": None,
                "source_file": line["id"],
                "text": line["text"],
                "split": line["split"],
                "language": "en",
                "valence": line["V"],
                "arousal": line["A"],
                "dominance": line["D"],
            }

    def features(self, **options: Any) -> Features:
        return text_features()


CORPUS = EmoBank()

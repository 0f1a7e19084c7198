# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""BAVED, Basic Arabic Vocal Emotions Dataset, as it is distributed (`0/1-m-20-0-1-107.wav`).

The numbers of a file name are speaker, gender (m, f), age, word, level of expression and recording. The level (0 low,
1 neutral, 2 high) is no emotion, so all clips are unlabelled: it becomes the arousal, which it is a rough substitute
for. By default three speakers are the dev split, seven the test split, and the others train.
"""

import re
from collections import Counter
from typing import Any

from datasets import DatasetInfo

from .base import ActedCorpus

WORDS = ("اعجبني", "لم يعجبني", "هذا", "الفيلم", "رائع", "مقول", "سيئ")


class Baved(ActedCorpus):
    """BAVED."""

    name = "baved"
    file_name = re.compile(r"(\d+)-([mf])-\d+-([0-6])-([0-2])-\d+")
    dev, test = ("19", "34", "100"), ("04", "10", "14", "15", "24", "29", "41")
    info = DatasetInfo(
        description="BAVED: seven Arabic words at three levels of expression, 0 to 2, as arousal.",
        license="The corpus states no licence; it advises against commercial use.",
        citation="Basic Arabic Vocal Emotions Dataset. https://github.com/40uf411/Basic-Arabic-Vocal-Emotions-Dataset",
    )

    def row(self, match: re.Match[str], notes: Counter[str]) -> dict[str, Any]:  # type: ignore[override]  # its own options
        speaker, gender, word, level = match.groups()
        return {
            "speaker": speaker.zfill(2),
            "gender": "male" if gender == "m" else "female",
            "language": "ar",
            "text": WORDS[int(word)],
            "sentence": word,
            "arousal": level,
        }


CORPUS = Baved()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""ASED, Amharic emotional speech, as it is distributed (`05Angry/a5-06-01-02-04.wav`).

A file name is the emotion (a letter and its folder's number), the sentence, the repetition, the gender (01 female, 02
male) and the speaker. Sentences 06 and 07 are spoken in every emotion. Sentences 01 to 05 differ between
emotions, so the words reveal the emotion; they are named `angry01` and so on. By default five speakers form the dev
split, nine the test split, and the others train.
"""

import re
from collections import Counter
from typing import Any

from datasets import DatasetInfo

from .base import ActedCorpus

EMOTION_OF_LETTER = {"n": "neutral", "f": "fear", "h": "happy", "s": "sad", "a": "angry"}
COMMON_SENTENCES = ("06", "07")


class Ased(ActedCorpus):
    """ASED."""

    name = "ased"
    file_name = re.compile(r"([A-Za-z])\d-(\d\d)-\d\d-(0[12])-(\d\d)")
    dev, test = ("10", "31", "46", "49", "63"), ("04", "08", "20", "23", "25", "27", "32", "33", "56")
    info = DatasetInfo(
        description="ASED: 65 volunteers speak 27 Amharic sentences in five emotions.",
        license="The corpus states no licence.",
        citation="Retta, E. A., Almekhlafi, E., Sutcliffe, R., Mhamed, M., Ali, H., and Feng, J. (2022). A new "
        "Amharic speech emotion dataset and classification benchmark. ACM Transactions on Asian and Low-Resource "
        "Language Information Processing. https://doi.org/10.1145/3529759",
    )

    def row(self, match: re.Match[str], notes: Counter[str]) -> dict[str, Any]:  # type: ignore[override]  # its own options
        letter, sentence, gender, speaker = match.groups()
        emotion = EMOTION_OF_LETTER.get(letter.lower(), letter)
        return {
            "emotion": emotion,
            "speaker": speaker,
            "gender": "female" if gender == "01" else "male",
            "language": "am",
            "sentence": sentence if sentence in COMMON_SENTENCES else f"{emotion}{sentence}",
        }


CORPUS = Ased()

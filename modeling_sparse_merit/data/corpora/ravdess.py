# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""RAVDESS as it is distributed (`Actor_01/03-01-06-01-02-01-12.wav`).

The seven numbers of a file name are modality, vocal channel (01 speech, 02 song), emotion, intensity, statement,
repetition and actor. By default actors 15 and 16 are the dev split, 17 to 20 the test split (half of each are women),
and the other eighteen train.
"""

import re
from collections import Counter
from typing import Any

from datasets import DatasetInfo

from .base import ActedCorpus

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
EMOTION_OF_CODE = {f"{number:02d}": emotion for number, emotion in enumerate(EMOTIONS, 1)}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}


class Ravdess(ActedCorpus):
    """RAVDESS.

    Options:
        songs: include the sung recordings.
    """

    name = "ravdess"
    file_name = re.compile(r"\d\d-(\d\d)-(\d\d)-\d\d-(\d\d)-\d\d-(\d\d)")
    dev, test = ("15", "16"), ("17", "18", "19", "20")
    info = DatasetInfo(
        description="RAVDESS: 24 North American actors speak two statements in eight emotions.",
        license="CC BY-NC-SA 4.0",
        citation="Livingstone, S. R., and Russo, F. A. (2018). The Ryerson Audio-Visual Database of Emotional Speech "
        "and Song (RAVDESS). PLoS ONE 13(5), e0196391.",
    )

    def row(self, match: re.Match[str], notes: Counter[str], songs: bool = False) -> dict[str, Any] | None:  # type: ignore[override]  # its own options
        channel, emotion, statement, actor = match.groups()
        if channel == "02" and not songs:
            notes["songs were left out"] += 1
            return None
        return {
            "emotion": EMOTION_OF_CODE.get(emotion, emotion),
            "speaker": actor,
            "gender": "male" if int(actor) % 2 else "female",
            "language": "en",
            "text": STATEMENTS.get(statement),
            "sentence": statement,
        }


CORPUS = Ravdess()

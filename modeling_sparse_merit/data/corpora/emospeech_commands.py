# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Indian EmoSpeech Command Dataset, single command words recorded in everyday places, as it is distributed
(`webservice/help-safe-angry-1563000382795-USER.wav`).

A file name is the word, the surroundings, the emotion, the time and the user, a hash of 56 digits. A speaker is named
by the first eight of them. Clips of an unknown user are left out, and so are those without a word, which are noises.
`calm` is ordinary speech. By default six speakers are the dev split, thirteen the test split, and the others train.
"""

import re
from collections import Counter
from typing import Any

from datasets import DatasetInfo

from .base import ActedCorpus

EMOTION_OF_WORD = {"fearful": "fear", "none": None}
UNKNOWN_USER = "d14a028c"


class EmoSpeechCommands(ActedCorpus):
    """Indian EmoSpeech Command Dataset."""

    name = "emospeech"
    file_name = re.compile(r"([a-z]+)-[^-]+-(\w+)-\d+-([0-9a-f]{8})[0-9a-f]{48}")
    dev = ("38ec51a1", "39196b80", "50a73d27", "be5d8177", "d6ef3341", "da09e319")
    test = (
        *("02dc4013", "2ad117a0", "2dab836c", "3d9d3e0e", "5f5a82d5", "74333d37", "7aae4694", "8d09198c"),
        *("9f0faa2d", "b85700a6", "bfbfa288", "c136e396", "d4199766"),
    )
    info = DatasetInfo(
        description="Indian EmoSpeech Command Dataset: command words in four emotions, recorded in everyday places.",
        license="CC BY-NC-SA 4.0",
        citation="Banga, S., Upadhyay, U., Agarwal, P., Sharma, A., and Mukherjee, P. (2019). Indian EmoSpeech "
        "Command Dataset: A dataset for emotion based speech recognition in the wild. arXiv:1910.13801.",
    )

    def row(self, match: re.Match[str], notes: Counter[str]) -> dict[str, Any] | None:  # type: ignore[override]  # its own options
        word, emotion, user = match.groups()
        if word == "background" or user == UNKNOWN_USER:
            notes["clips without a word, or of an unknown user, were left out"] += 1
            return None
        return {
            "emotion": EMOTION_OF_WORD.get(emotion.lower(), emotion.lower()),
            "speaker": user,
            "language": "hi" if word == "bacho" else "en",
            "text": None if word == "unknown" else word,
        }


CORPUS = EmoSpeechCommands()

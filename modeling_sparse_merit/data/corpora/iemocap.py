# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""IEMOCAP as it is distributed: five sessions of two actors each, with their evaluations, transcriptions and clips.

An utterance whose emotion is none of the chosen classes stays in its dialogue without one. Utterances are numbered in
the order of their start. Both actors of a session speak in all of its dialogues, so splits consist of sessions.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from ..datasets import DatasetError, speech_features, text_features
from .base import Corpus, Row

SESSIONS = (1, 2, 3, 4, 5)
EMOTIONS = {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"}
FOUR = {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "happy"}
CLASSES = {6: EMOTIONS, 4: FOUR}
DEV, TEST = 4, 5
EVALUATION = re.compile(
    r"^\[(?P<start>[\d.]+) - [\d.]+\]\t(?P<name>(?P<dialogue>Ses0(?P<session>\d)[FM]_\w+)_(?P<speaker>[FM])\d+)\t"
    r"(?P<emotion>\w+)\t\[(?P<valence>[\d.]+), (?P<arousal>[\d.]+), (?P<dominance>[\d.]+)\]"
)
"""A line of `EmoEvaluation/DIALOGUE.txt`: times in seconds, utterance, emotion, ratings from 1 to 5."""
TRANSCRIPTION = re.compile(r"^(?P<name>Ses0\d[FM]_\w+) \[[\d.]+-[\d.]+\]: (?P<text>.*)$")


class Iemocap(Corpus):
    """IEMOCAP.

    Options:
        classes: 6 emotions, or 4, in which excited counts as happy and frustrated as none.
        fold: a session from 1 to 5 for the test split, the session before it being the dev split; None takes sessions
            1 to 3 for training, 4 for dev and 5 for test.
    """

    independent = "speaker"
    info = DatasetInfo(
        description="IEMOCAP: acted and improvised dialogues of ten speakers, with emotions and ratings from 1 to 5.",
        license="IEMOCAP licence of the University of Southern California: for research, not to be redistributed.",
        citation="Busso, C., Bulut, M., Lee, C.-C., Kazemzadeh, A., Mower, E., Kim, S., Chang, J. N., Lee, S., and "
        "Narayanan, S. S. (2008). IEMOCAP: Interactive emotional dyadic motion capture database. Language Resources "
        "and Evaluation 42, 335-359.",
    )

    def rows(self, folder: Path, notes: Counter[str], classes: int = 6, fold: int | None = None) -> Iterator[Row]:  # type: ignore[override]  # its own options
        if classes not in CLASSES:
            raise DatasetError(f"`classes` is {classes}; expected one of {list(CLASSES)}")
        splits = _splits(fold)
        files = sorted(folder.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt"))
        if not files:
            raise DatasetError(f"{folder} has no Session*/dialog/EmoEvaluation/*.txt; give the folder of the corpus")
        for file in files:
            texts = _transcriptions(file.parents[1] / "transcriptions" / file.name)
            yield from _dialogue(folder, file, texts, CLASSES[classes], splits, notes)

    def features(self, classes: int = 6, **options: Any) -> Features:
        labels = tuple(dict.fromkeys(CLASSES.get(classes, EMOTIONS).values()))
        return Features({**speech_features(labels), **text_features(labels)})


def _splits(fold: int | None) -> dict[int, str]:
    """{session: split}."""
    if fold is not None and fold not in SESSIONS:
        raise DatasetError(f"`fold` is {fold}; expected a session from {SESSIONS[0]} to {SESSIONS[-1]}")
    test = TEST if fold is None else fold
    dev = DEV if fold is None else (fold - 2) % len(SESSIONS) + 1
    return {session: {test: "test", dev: "dev"}.get(session, "train") for session in SESSIONS}


def _transcriptions(path: Path) -> dict[str, str]:
    """The texts of a dialogue by utterance; none where the file is missing."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {match["name"]: match["text"].strip() for match in map(TRANSCRIPTION.match, lines) if match}


def _dialogue(
    folder: Path, file: Path, texts: dict[str, str], emotions: dict[str, str], splits: dict[int, str], notes: Counter
) -> Iterator[Row]:
    """The utterances of a dialogue in the order of their start."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    matches = [match for match in map(EVALUATION.match, lines) if match]
    for turn, match in enumerate(sorted(matches, key=lambda each: (float(each["start"]), each["name"]))):
        name, dialogue, session = match["name"], match["dialogue"], int(match["session"])
        clip = folder / f"Session{session}" / "sentences" / "wav" / dialogue / f"{name}.wav"
        emotion = emotions.get(match["emotion"])
        notes["utterances have none of the chosen emotions"] += emotion is None
        notes["utterances have no clip"] += not clip.is_file()
        yield {
            "file": clip.relative_to(folder).as_posix() if clip.is_file() else None,
            "source_file": f"{dialogue}/{name}",
            "emotion": emotion,
            "speaker": f"iemocap_{session}{match['speaker']}",
            "gender": {"F": "female", "M": "male"}[match["speaker"]],
            "split": splits[session],
            "language": "en",
            "text": texts.get(name),
            "dialogue": f"iemocap_{dialogue}",
            "turn": turn,
            **{rating: float(match[rating]) for rating in ("valence", "arousal", "dominance")},
        }


CORPUS = Iemocap()

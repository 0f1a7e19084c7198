# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""MELD as it is distributed: a list of lines for each split (`train_sent_emo.csv`), with or without their clips.

The emotions keep the words of the corpus. A dialogue is named after its split, since its number starts again in each
of them. Some dialogues lack numbers of utterances, so `turn` gives their order and not their index. The speakers of
the three splits, and most of the episodes, are the same.

Clips are those called `dia0_utt3.wav` or the like in a folder for each split, such as `train_splits`,
`dev_splits_complete` and `output_repeated_splits_test`. A line whose clip is missing or cannot be read has no audio.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from .. import prepare
from ..datasets import speech_features, text_features
from .base import Corpus, Row, csv_lines, first_file

EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
SPLITS = ("train", "dev", "test")
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


class Meld(Corpus):
    """MELD.

    Options:
        audio: the folder of the clips; None for a dataset of texts.
    """

    independent = "dialogue"
    info = DatasetInfo(
        description="MELD: lines of dialogues from the television series Friends, in seven emotions.",
        license="GPL-3.0 for the repository of the corpus; the lines and clips are from a television series.",
        citation="Poria, S., Hazarika, D., Majumder, N., Naik, G., Cambria, E., and Mihalcea, R. (2019). MELD: A "
        "multimodal multi-party dataset for emotion recognition in conversations. ACL 2019, 527-536.",
    )

    def rows(self, folder: Path, notes: Counter[str], audio: str | Path | None = None) -> Iterator[Row]:  # type: ignore[override]  # its own options
        clips = {} if audio is None else _clips(Path(audio))
        spoken: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for split in SPLITS:
            name = f"{split}_sent_emo.csv"
            for line in csv_lines(first_file(folder, (name, f"{split}/{name}")), COLUMNS):
                row = _row(split, line, clips)
                if isinstance(row, dict):
                    spoken[row["dialogue"]].append((row["turn"], row["text"]))
                    notes["lines have no clip that can be read"] += audio is not None and row["file"] is None
                yield row
        _count(spoken, notes)

    def features(self, audio: str | Path | None = None, **options: Any) -> Features:
        texts = text_features(EMOTIONS)
        return texts if audio is None else Features({**speech_features(EMOTIONS), **texts})

    def audio_folder(self, folder: Path, audio: str | Path | None = None, **options: Any) -> Path:
        return folder if audio is None else Path(audio)


def _row(split: str, line: Mapping[str, str], clips: Mapping[tuple[str, str], str]) -> Row:
    dialogue, utterance = line["Dialogue_ID"], line["Utterance_ID"]
    name = f"dia{dialogue}_utt{utterance}"
    if not (dialogue.isdecimal() and utterance.isdecimal()):
        return prepare.Problem("lines without numbers of dialogue and utterance", f"{split}/{name}")
    return {
        "file": clips.get((split, name)),
        "source_file": f"{split}/{name}",
        "emotion": line["Emotion"],
        "sentiment": line["Sentiment"],
        "speaker": f"meld_{line['Speaker']}",
        "split": split,
        "language": "en",
        "text": line["Utterance"],
        "dialogue": f"meld_{split}_{dialogue}",
        "turn": int(utterance),
    }


def _clips(folder: Path) -> dict[tuple[str, str], str]:
    """The readable clips below a folder by split and name; copies under other names are left out."""
    clips = {}
    for path in prepare.audio_files(folder):
        file = path.relative_to(folder)
        split = re.search("|".join(SPLITS), file.parent.as_posix())
        if split and re.fullmatch(r"dia\d+_utt\d+", path.stem) and _is_readable(path):
            clips[split[0], path.stem] = file.as_posix()
    return clips


def _is_readable(path: Path) -> bool:
    try:
        return prepare.recording_seconds(path) > 0
    except (OSError, ValueError):
        return False


def _count(spoken: Mapping[str, list[tuple[int, str]]], notes: Counter[str]) -> None:
    """Counts what a user of the texts has to know."""
    for lines in spoken.values():
        texts = [text for _, text in lines]
        notes["dialogues lack numbers of utterances"] += max(lines)[0] + 1 != len(lines)
        notes["lines repeat another one of their dialogue"] += len(texts) - len(set(texts))
    trained, tested = (
        [text for name, lines in spoken.items() if name.startswith(f"meld_{split}_") for _, text in lines]
        for split in ("train", "test")
    )
    known = set(trained)
    notes["lines of the test split are lines of the train split"] += sum(text in known for text in tested)


CORPUS = Meld()

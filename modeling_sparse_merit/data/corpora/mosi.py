# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""CMU-MOSI with the list of MMSA, `label.csv`, with or without clips: opinions of one speaker in each video.

A video is a dialogue of one speaker, whose segments are its turns. The sentiment from -3 to 3 is the rating `valence`,
and its sign the emotion, `negative` or `positive`. Clips are called `VIDEO/CLIP.wav`, as in `Raw` of MMSA, or
`VIDEO_CLIP.wav`, as in the distribution of the corpus.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from .. import prepare
from ..datasets import DatasetError, speech_features, text_features
from .base import Corpus, Row, csv_lines, first_file

EMOTIONS = ("negative", "positive")
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
SPLITS = {"train": "train", "valid": "dev", "test": "test"}
ZERO = ("positive", "drop")
LARGEST = 3.0


class Mosi(Corpus):
    """CMU-MOSI.

    Options:
        audio: the folder of the clips; None for a dataset of texts.
        zero: whether a sentiment of 0 counts as positive, or has no emotion ("drop"). Published scores differ in this.
    """

    independent = "dialogue"
    info = DatasetInfo(
        description="CMU-MOSI: opinions in videos, with a sentiment from -3 to 3 of each segment.",
        license="not stated by the corpus, whose videos are from YouTube.",
        citation="Zadeh, A., Zellers, R., Pincus, E., and Morency, L.-P. (2016). MOSI: Multimodal corpus of sentiment "
        "intensity and subjectivity analysis in online opinion videos. arXiv 1606.06259.",
    )

    def rows(  # type: ignore[override]  # its own options
        self, folder: Path, notes: Counter[str], audio: str | Path | None = None, zero: str = "positive"
    ) -> Iterator[Row]:
        if zero not in ZERO:
            raise DatasetError(f"`zero` is {zero!r}; expected one of {list(ZERO)}")
        clips = None if audio is None else Path(audio)
        for line in csv_lines(first_file(folder, ("label.csv", "labels.csv")), COLUMNS):
            row = _row(line, clips, zero)
            if isinstance(row, dict):
                notes["segments have a sentiment of 0"] += row["valence"] == 0
                notes["segments have no clip"] += clips is not None and row["file"] is None
            yield row

    def features(self, audio: str | Path | None = None, **options: Any) -> Features:
        texts = text_features(EMOTIONS)
        return texts if audio is None else Features({**speech_features(EMOTIONS), **texts})

    def audio_folder(self, folder: Path, audio: str | Path | None = None, **options: Any) -> Path:
        return folder if audio is None else Path(audio)


def _row(line: Mapping[str, str], clips: Path | None, zero: str) -> Row:
    video, clip = line["video_id"], line["clip_id"]
    name = f"{video}/{clip}"
    sentiment = _number(line["label"])
    if sentiment is None or not abs(sentiment) <= LARGEST:
        return prepare.Problem("labels that are no numbers from -3 to 3", f"{name} ({line['label']!r})")
    if line["mode"] not in SPLITS or not clip.isdecimal():
        return prepare.Problem("lines without a split (train, valid, test) or a number of the clip", name)
    emotion = None if zero == "drop" and sentiment == 0 else EMOTIONS[sentiment >= 0]
    return {
        "file": None if clips is None else _clip(clips, video, clip),
        "source_file": name,
        "emotion": emotion,
        "sentiment": "neutral" if sentiment == 0 else EMOTIONS[sentiment > 0],
        "valence": sentiment,
        "speaker": f"mosi_{video}",
        "split": SPLITS[line["mode"]],
        "language": "en",
        "text": line["text"],
        "dialogue": f"mosi_{video}",
        "turn": int(clip),
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _clip(folder: Path, video: str, clip: str) -> str | None:
    """The clip of a segment, relative to the folder; None where it is missing."""
    names = (f"{video}/{clip}.wav", f"{video}_{clip}.wav")
    return next((name for name in names if (folder / name).is_file()), None)


CORPUS = Mosi()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""MSP-Podcast as the MSP laboratory distributes it (`Labels/labels_consensus.csv` and a folder of audio).

The consensus class becomes the emotion, the mean ratings from 1 to 7 become arousal, valence and dominance, and the
official splits are kept as train, dev, test1, test2 and test3. Clips of another emotion (O) or without agreement (X)
stay in the dataset as unlabelled clips, for their ratings and for enhancement, unless an option drops them.

`text` is the transcript of the corpus. An option replaces those of the dev and test splits by transcripts of a speech
recognizer, such as a system would have in use.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from ..datasets import EMOTIONS, DatasetError, speech_features
from .base import Corpus, csv_lines, first_file

EMOTION_OF_LETTER = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "N": "neutral",
    "F": "fear",
    "D": "disgust",
    "U": "surprise",
    "C": "contempt",
    "O": "other",
    "X": None,
    "NA": None,  # a test set whose labels are kept secret
}
SPLIT_OF_SET = {
    "Train": "train",
    "Development": "dev",
    "Test1": "test1",
    "Test2": "test2",
    "Test3": "test3",
    "NA": None,
}
COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
LABELS = ("Labels/labels_consensus.csv", "Labels/Labels/labels_consensus.csv")
AUDIO_FOLDERS = ("Audios/Audios", "Audios/Audio", "Audio/Audio", "Audios", "Audio")


class MspPodcast(Corpus):
    """MSP-Podcast.

    Options:
        audio: the folder of the recordings; None looks for it inside the corpus.
        other: what to do with class O: `"unlabelled"`, `"drop"`, or `"keep"` as a tenth class `other`.
        no_agreement: what to do with class X: `"unlabelled"` or `"drop"`.
        transcripts: a folder of files `NAME.txt` with the transcripts of the dev and test splits; None takes those of
            the corpus.
    """

    independent = "speaker"
    info = DatasetInfo(
        description="MSP-Podcast: natural speech from podcasts, rated for emotion by several listeners a clip.",
        license="MSP-Podcast academic licence of the MSP laboratory; not to be passed on.",
        citation="Lotfian, R., and Busso, C. (2019). Building naturalistic emotionally balanced speech corpus by "
        "retrieving emotional speech from existing podcast recordings. IEEE Transactions on Affective Computing "
        "10(4), 471-483.",
    )

    def rows(  # type: ignore[override]  # its own options
        self,
        folder: Path,
        notes: Counter[str],
        audio: str | Path | None = None,
        other: str = "unlabelled",
        no_agreement: str = "unlabelled",
        transcripts: str | Path | None = None,
    ) -> Iterator[dict[str, Any]]:
        own = _first_folder(folder, ("Transcripts/Transcripts", "Transcripts"), "*.txt")
        recognized = own if transcripts is None else _transcripts_folder(Path(transcripts))
        choices = {"O": ("of another emotion", other), "X": ("without agreement", no_agreement)}
        for line in csv_lines(first_file(folder, LABELS), COLUMNS):
            split = SPLIT_OF_SET.get(line["Split_Set"], line["Split_Set"])
            letter = line["EmoClass"]
            kind, choice = choices.get(letter, ("", "keep"))
            if choice == "drop":
                notes[f"clips {kind} were left out"] += 1
                continue
            if choice == "unlabelled":
                notes[f"clips {kind} were kept unlabelled"] += 1
            text = _transcript(own if split in ("train", None) else recognized, line["FileName"])
            if text is None:
                notes["clips have no transcript"] += own is not None or transcripts is not None
            yield {
                "file": line["FileName"],
                "emotion": None if choice == "unlabelled" else EMOTION_OF_LETTER.get(letter, letter),
                "speaker": _speaker(line["SpkrID"]),
                "split": split,
                "gender": line["Gender"],
                "language": "en",
                "text": text,
                "arousal": line["EmoAct"],
                "valence": line["EmoVal"],
                "dominance": line["EmoDom"],
            }

    def features(self, other: str = "unlabelled", **options: Any) -> Features:
        return speech_features((*EMOTIONS, "other") if other == "keep" else EMOTIONS)

    def audio_folder(self, folder: Path, audio: str | Path | None = None, **options: Any) -> Path:
        return Path(audio) if audio else locate_audio(folder)


def _speaker(number: str) -> str | None:
    """Name of a speaker; None for unknown speakers, who share one name in the corpus but are different persons."""
    return None if number.lower() in ("", "unknown", "na") else f"msp_podcast_{number}"


def _transcript(folder: Path | None, file: str) -> str | None:
    path = folder and (folder / Path(file).name).with_suffix(".txt")
    return path.read_text(encoding="utf-8") if path and path.is_file() else None


def _transcripts_folder(folder: Path) -> Path:
    if not any(folder.glob("*.txt")):
        raise DatasetError(f"{folder} holds no transcript; expected files NAME.txt, one for each clip")
    return folder


def _first_folder(root: Path, names: Sequence[str], pattern: str) -> Path | None:
    """The first of several folders that directly contains matching files."""
    return next((root / name for name in names if any((root / name).glob(pattern))), None)


def locate_audio(folder: Path) -> Path:
    """The folder of the recordings, whose name differs between releases.

    Raises:
        DatasetError: none of the known folders holds a WAV file.
    """
    audio = _first_folder(folder, AUDIO_FOLDERS, "*.wav")
    if audio is None:
        raise DatasetError(
            f"no WAV file in {', '.join(AUDIO_FOLDERS)} of {folder}; name the folder with --audio FOLDER"
        )
    return audio


CORPUS = MspPodcast()

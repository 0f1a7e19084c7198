# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""speechocean762, English read by native speakers of Mandarin, as it is distributed: recordings in `WAVE`, and the
lists `wav.scp`, `utt2spk`, `spk2gender` and `text` in `train` and in `test`.

There are no emotion labels. Half of the speakers are children. Held-out speakers come from both lists: by default
thirteen are the dev split, twenty-five the test split, and the others train.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets import DatasetInfo

from .. import prepare
from ..datasets import DatasetError
from .base import Row, SpeakerCorpus

PARTS = ("train", "test")
GENDER_OF_LETTER = {"m": "male", "f": "female"}


class Speechocean762(SpeakerCorpus):
    """speechocean762."""

    name = "speechocean"
    dev = ("0053", "0131", "0306", "0736", "1030", "1419", "1447", "2002", "2016", "3075", "8057", "9610", "9631")
    test = (
        *("0006", "0024", "0026", "0036", "0049", "0054", "0094", "0096", "0104", "0739", "1042", "1292", "1372"),
        *("1420", "1435", "1502", "2244", "2355", "3014", "4005", "5029", "9625", "9626", "9639", "9643"),
    )
    info = DatasetInfo(
        description="speechocean762: 250 native speakers of Mandarin read 5000 English sentences.",
        license="Free of charge for commercial and non-commercial purposes; the corpus holds no licence text.",
        citation="Zhang, J., Zhang, Z., Wang, Y., Yan, Z., Song, Q., Huang, Y., Li, K., Povey, D., and Wang, Y. "
        "(2021). speechocean762: An open-source non-native English speech corpus for pronunciation assessment. "
        "Interspeech 2021, 3710-3714.",
    )

    def found(self, folder: Path, notes: Counter[str]) -> Iterator[Row]:  # type: ignore[override]  # its own options
        for part in PARTS:
            speakers, texts = _listed(folder / part / "utt2spk"), _listed(folder / part / "text")
            genders = _listed(folder / part / "spk2gender")
            for utterance, file in _listed(folder / part / "wav.scp").items():
                if (speaker := speakers.get(utterance)) is None:
                    yield prepare.Problem(f"utterances without a speaker in {part}/utt2spk", utterance)
                    continue
                yield {
                    "file": file,
                    "speaker": speaker,
                    "gender": GENDER_OF_LETTER.get(genders.get(speaker, "")),
                    "language": "en",
                    "text": texts.get(utterance),
                }


def _listed(path: Path) -> dict[str, str]:
    """A list of the corpus as a mapping from each name to its value."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; give the folder of speechocean762 that holds WAVE, train and test")
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


CORPUS = Speechocean762()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""nEMO, Polish emotional speech, as it is distributed (`data.tsv` and `samples/EB0_anger_1.wav`).

`data.tsv` describes each recording. Without it, speaker, emotion and gender are read from the file name, and the text
is left out. The number at the end of a file name is that of the sentence. The corpus has no splits: by default speaker
MP0 is the dev split, KD0 the test split, and the other seven train.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetInfo

from .. import prepare
from ..datasets import DatasetError
from .base import ActedCorpus, Row

EMOTION_OF_WORD = {"anger": "angry", "sadness": "sad", "happiness": "happy", "surprised": "surprise"}
WOMEN = ("EB0", "IC0", "KD0", "MK0")
COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender")


class Nemo(ActedCorpus):
    """nEMO."""

    name = "nemo"
    file_name = re.compile(r"([A-Z0-9]+)_([a-z]+)_(\d+)")
    dev, test = ("MP0",), ("KD0",)
    info = DatasetInfo(
        description="nEMO: nine Polish actors speak ninety sentences in six emotions.",
        license="CC BY-NC-SA 4.0",
        citation="Christop, I. (2024). nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024, 12111-12116.",
    )

    def found(self, folder: Path, notes: Counter[str]) -> Iterator[Row]:  # type: ignore[override]  # its own options
        listed = (folder / "data.tsv").is_file()
        for row in _listed(folder, notes) if listed else super().found(folder, notes):
            if isinstance(row, dict):
                row |= {"language": "pl", "emotion": EMOTION_OF_WORD.get(row["emotion"], row["emotion"])}
            yield row

    def row(self, match: re.Match[str], notes: Counter[str]) -> dict[str, Any]:  # type: ignore[override]  # its own options
        speaker, emotion, sentence = match.groups()
        gender = "female" if speaker in WOMEN else "male"
        return {"emotion": emotion, "speaker": speaker, "gender": gender, "sentence": sentence}


def _listed(folder: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yields the recordings of `data.tsv`."""
    listed = set()
    with open(folder / "data.tsv", newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise DatasetError(f"{folder / 'data.tsv'} lacks {len(missing)} columns: {', '.join(missing)}")
        for line in reader:
            # The distributed file pads its speakers with blanks.
            file, emotion, text, speaker, gender = ((line[name] or "").strip() for name in COLUMNS)
            listed.add(file)
            row = {"emotion": emotion, "text": text, "speaker": speaker, "gender": gender}
            yield {"file": f"samples/{file}", "sentence": Path(file).stem.rpartition("_")[-1], **row}
    unlisted = [path for path in prepare.audio_files(folder) if path.name not in listed]
    if unlisted:
        notes["recordings without a line in data.tsv were left out"] += len(unlisted)


CORPUS = Nemo()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""nEMO, Polish emotional speech, as it is distributed (`data.tsv` and `samples/EB0_anger_1.wav`) to a speech table.

`data.tsv` says what each recording is. Without it speaker, emotion and gender follow from the file name, and the text
is left out. The corpus has no splits: by default speaker MP0 is the dev split, KD0 the test split, and the other seven
train.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo

from dataset_scripts import table
from modeling_sparse_merit.tables import TableError, speech_features

DEV, TEST = ("MP0",), ("KD0",)
EMOTION_OF_WORD = {"anger": "angry", "sadness": "sad", "happiness": "happy", "surprised": "surprise"}
WOMEN = ("EB0", "IC0", "KD0", "MK0")
COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender")
FILE_NAME = re.compile(r"([A-Z0-9]+)_([a-z]+)_\d+")
INFO = DatasetInfo(
    description="nEMO: nine Polish actors speak ninety sentences in six emotions.",
    license="CC BY-NC-SA 4.0",
    citation="Christop, I. (2024). nEMO: Dataset of Emotional Speech in Polish. LREC-COLING 2024, 12111-12116.",
)


def rows(folder: Path, splits: table.SpeakerSplits, notes: Counter[str]) -> Iterator[dict[str, Any] | table.Problem]:
    """One row for each line of `data.tsv`, or for each recording where there is none."""
    found = _rows_of_list(folder, notes) if (folder / "data.tsv").is_file() else _rows_of_names(folder)
    for row in found:
        if isinstance(row, dict):
            speaker, emotion = row["speaker"], row["emotion"]
            row |= {"speaker": f"nemo_{speaker}", "split": splits.split_of(speaker), "language": "pl"}
            row["emotion"] = EMOTION_OF_WORD.get(emotion, emotion)
        yield row


def _rows_of_list(folder: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    listed = set()
    with open(folder / "data.tsv", newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise TableError(f"{folder / 'data.tsv'} lacks {len(missing)} columns: {', '.join(missing)}")
        for line in reader:
            # The distributed file pads its speakers with blanks.
            file, emotion, text, speaker, gender = ((line[name] or "").strip() for name in COLUMNS)
            listed.add(file)
            yield {"file": f"samples/{file}", "emotion": emotion, "text": text, "speaker": speaker, "gender": gender}
    unlisted = [path for path in table.audio_files(folder) if path.name not in listed]
    if unlisted:
        notes["recordings without a line in data.tsv were left out"] += len(unlisted)


def _rows_of_names(folder: Path) -> Iterator[dict[str, Any] | table.Problem]:
    for path in table.audio_files(folder):
        file = path.relative_to(folder).as_posix()
        match = FILE_NAME.fullmatch(path.stem)
        if match:
            gender = "female" if match[1] in WOMEN else "male"
            yield {"file": file, "emotion": match[2], "speaker": match[1], "gender": gender}
        else:
            yield table.Problem("file names that are not of nEMO", file)


def build(folder: str | Path, dev: Sequence[str] = DEV, test: Sequence[str] = TEST, skip_bad: bool = False) -> Dataset:
    """The speech table of nEMO.

    Args:
        folder: holds `samples` and, as a rule, `data.tsv`.
        dev, test: speakers to hold out, such as `"MP0"`.
        skip_bad: leave bad rows out with a warning.

    Raises:
        TableError: some recordings or lines are not as they have to be.
    """
    folder, splits, notes = table.corpus_folder(folder), table.SpeakerSplits(dev, test), Counter()
    found = rows(folder, splits, notes)
    dataset = table.build_table(found, folder, speech_features(), INFO, notes, unique_names=True, skip_bad=skip_bad)
    splits.warn_of_absent(dataset, "nemo_")
    return dataset


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("nEMO to a speech table.", prog)
    table.add_speaker_splits(parser, DEV, TEST)
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        dataset = build(options.folder, options.dev, options.test, options.skip_bad)
        table.finish(dataset, options)


if __name__ == "__main__":
    main()

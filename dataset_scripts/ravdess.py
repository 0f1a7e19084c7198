# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""RAVDESS as it is distributed (`Actor_01/03-01-06-01-02-01-12.wav`) to a speech table.

The seven numbers of a file name are modality, vocal channel (01 speech, 02 song), emotion, intensity, statement,
repetition and actor. By default actors 15 and 16 are the dev split, 17 to 20 the test split (half of each are women),
and the other eighteen train.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo

from dataset_scripts import table
from modeling_sparse_merit.tables import speech_features

DEV, TEST = ("15", "16"), ("17", "18", "19", "20")
EMOTION_OF_CODE = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
FILE_NAME = re.compile(r"\d\d-(\d\d)-(\d\d)-\d\d-(\d\d)-\d\d-(\d\d)")
INFO = DatasetInfo(
    description="RAVDESS: 24 North American actors speak two statements in eight emotions.",
    license="CC BY-NC-SA 4.0",
    citation="Livingstone, S. R., and Russo, F. A. (2018). The Ryerson Audio-Visual Database of Emotional Speech and "
    "Song (RAVDESS). PLoS ONE 13(5), e0196391.",
)


def rows(
    folder: Path, splits: table.SpeakerSplits, songs: bool, notes: Counter[str]
) -> Iterator[dict[str, Any] | table.Problem]:
    """One row for each recording, read from its name."""
    for path in table.audio_files(folder):
        file = path.relative_to(folder).as_posix()
        match = FILE_NAME.fullmatch(path.stem)
        if not match:
            yield table.Problem("file names that are not of RAVDESS", file)
            continue
        channel, emotion, statement, actor = match.groups()
        if channel == "02" and not songs:
            notes["songs were left out"] += 1
            continue
        yield {
            "file": file,
            "emotion": EMOTION_OF_CODE.get(emotion, emotion),
            "speaker": f"ravdess_{actor}",
            "split": splits.split_of(actor),
            "gender": "male" if int(actor) % 2 else "female",
            "language": "en",
            "text": STATEMENTS.get(statement),
        }


def build(
    folder: str | Path,
    dev: Sequence[str] = DEV,
    test: Sequence[str] = TEST,
    songs: bool = False,
    skip_bad: bool = False,
) -> Dataset:
    """The speech table of RAVDESS.

    Args:
        folder: holds `Actor_01` and so on, at any depth.
        dev, test: actors to hold out, such as `"15"`.
        songs: take the sung recordings too.
        skip_bad: leave bad rows out with a warning.

    Raises:
        TableError: some recordings are not as they have to be, such as a corpus unpacked twice below `folder`.
    """
    folder, splits, notes = table.corpus_folder(folder), table.SpeakerSplits(dev, test), Counter()
    found = rows(folder, splits, songs, notes)
    dataset = table.build_table(found, folder, speech_features(), INFO, notes, unique_names=True, skip_bad=skip_bad)
    splits.warn_of_absent(dataset, "ravdess_")
    return dataset


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("RAVDESS to a speech table.", prog)
    table.add_speaker_splits(parser, DEV, TEST)
    parser.add_argument("--songs", action="store_true", help="take the sung recordings too")
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        dataset = build(options.folder, options.dev, options.test, options.songs, options.skip_bad)
        table.finish(dataset, options)


if __name__ == "__main__":
    main()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""EmoDB, the Berlin Database of Emotional Speech, as it is distributed (`wav/03a01Fa.wav`) to a speech table.

A file name is the speaker (two digits), the sentence (a letter and two digits), the emotion (the first letter of its
German name) and a version. Boredom is not in the shared vocabulary: those clips are kept unlabelled. By default
speakers 10 and 13 are the dev split and 12 and 14 the test split, a man and a woman each; the other six train.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo

from dataset_scripts import table
from modeling_sparse_merit.tables import speech_features

DEV, TEST = ("10", "13"), ("12", "14")
EMOTION_OF_LETTER = {
    "W": "angry",
    "T": "sad",
    "F": "happy",
    "N": "neutral",
    "A": "fear",
    "E": "disgust",
    "L": None,  # boredom
}
MEN = ("03", "10", "11", "12", "15")
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
FILE_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])[a-z]?")
INFO = DatasetInfo(
    description="EmoDB: ten German actors speak ten sentences in seven emotions.",
    license="Offered free of charge by its makers; the corpus holds no licence text.",
    citation="Burkhardt, F., Paeschke, A., Rolfes, M., Sendlmeier, W. F., and Weiss, B. (2005). A database of German "
    "emotional speech. Interspeech 2005, 1517-1520.",
)


def rows(folder: Path, splits: table.SpeakerSplits, notes: Counter[str]) -> Iterator[dict[str, Any] | table.Problem]:
    """One row for each recording, read from its name."""
    for path in table.audio_files(folder):
        file = path.relative_to(folder).as_posix()
        match = FILE_NAME.fullmatch(path.stem)
        if not match:
            yield table.Problem("file names that are not of EmoDB", file)
            continue
        speaker, sentence, letter = match.groups()
        if letter == "L":
            notes["clips of boredom were kept unlabelled"] += 1
        yield {
            "file": file,
            "emotion": EMOTION_OF_LETTER.get(letter, letter),
            "speaker": f"emodb_{speaker}",
            "split": splits.split_of(speaker),
            "gender": "male" if speaker in MEN else "female",
            "language": "de",
            "text": SENTENCES.get(sentence),
        }


def build(folder: str | Path, dev: Sequence[str] = DEV, test: Sequence[str] = TEST, skip_bad: bool = False) -> Dataset:
    """The speech table of EmoDB.

    Args:
        folder: holds `wav`.
        dev, test: speakers to hold out, such as `"10"`.
        skip_bad: leave bad rows out with a warning.

    Raises:
        TableError: some recordings are not as they have to be.
    """
    folder, splits, notes = table.corpus_folder(folder), table.SpeakerSplits(dev, test), Counter()
    found = rows(folder, splits, notes)
    dataset = table.build_table(found, folder, speech_features(), INFO, notes, unique_names=True, skip_bad=skip_bad)
    splits.warn_of_absent(dataset, "emodb_")
    return dataset


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = table.command_line("EmoDB to a speech table.", prog)
    table.add_speaker_splits(parser, DEV, TEST)
    options = parser.parse_args(arguments)
    with table.messages():
        table.check_destination(options.out, options.overwrite)
        dataset = build(options.folder, options.dev, options.test, options.skip_bad)
        table.finish(dataset, options)


if __name__ == "__main__":
    main()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""EmoDB, the Berlin Database of Emotional Speech, as it is distributed (`wav/03a01Fa.wav`).

A file name is the speaker (two digits), the sentence (a letter and two digits), the emotion (the first letter of its
German name) and a version. Boredom is not in the shared vocabulary: those clips are kept unlabelled. By default
speakers 10 and 13 are the dev split and 12 and 14 the test split, a man and a woman each; the other six train.
"""

import re
from collections import Counter
from typing import Any

from datasets import DatasetInfo

from .base import ActedCorpus

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


class EmoDB(ActedCorpus):
    """EmoDB."""

    name = "emodb"
    file_name = re.compile(r"(\d\d)([ab]\d\d)([A-Z])[a-z]?")
    dev, test = ("10", "13"), ("12", "14")
    info = DatasetInfo(
        description="EmoDB: ten German actors speak ten sentences in seven emotions.",
        license="Offered free of charge by its makers; the corpus holds no licence text.",
        citation="Burkhardt, F., Paeschke, A., Rolfes, M., Sendlmeier, W. F., and Weiss, B. (2005). A database of "
        "German emotional speech. Interspeech 2005, 1517-1520.",
    )

    def row(self, match: re.Match[str], notes: Counter[str]) -> dict[str, Any]:  # type: ignore[override]  # its own options
        speaker, sentence, letter = match.groups()
        if letter == "L":
            notes["clips of boredom were kept unlabelled"] += 1
        return {
            "emotion": EMOTION_OF_LETTER.get(letter, letter),
            "speaker": speaker,
            "gender": "male" if speaker in MEN else "female",
            "language": "de",
            "text": SENTENCES.get(sentence),
            "sentence": sentence,
        }


CORPUS = EmoDB()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Spoken coffee orders of Picovoice's speech-to-intent benchmark: recordings, and their intents and slots in
`label.json`, anywhere below the folder.

Each slot is a column whose value is `none` where the order does not mention it. Speakers are not labelled, so the
splits, which follow from the names of the files, may share voices.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, Value

from .. import prepare
from ..datasets import DatasetError, speech_features
from .base import Corpus, Row

SLOTS = ("coffee_drink", "roast", "size", "number_of_shots", "milk_amount", "sugar_amount")
ABSENT = "none"
SHARES = {"dev": 15, "test": 15}  # percent of the recordings


class Picovoice(Corpus):
    """The spoken coffee orders."""

    unique_names = True
    info = DatasetInfo(
        description="Picovoice coffee orders: intents and slots of spoken English commands.",
        license="Apache-2.0",
        citation="Picovoice. Speech-to-Intent Benchmark. https://github.com/Picovoice/speech-to-intent-benchmark",
    )

    def features(self, **options: Any) -> Features:
        """The schema: that of speech datasets, and a column for each slot."""
        return Features({**speech_features(), **{slot: Value("string") for slot in SLOTS}})

    def rows(self, folder: Path, notes: Counter[str], **options: Any) -> Iterator[Row]:
        orders = _orders(folder)
        for path in prepare.audio_files(folder):
            order = orders.get(path.stem)
            if order is None:
                notes["recordings without a label were left out"] += 1
                continue
            slots = {_snake_case(name): " ".join(value.split()) for name, value in order["slots"].items()}
            yield {
                "file": path.relative_to(folder).as_posix(),
                "split": split_of(path.stem),
                "language": "en",
                "intent": order["intent"],
                **{slot: slots.get(slot, ABSENT) for slot in SLOTS},
            }


def split_of(name: str) -> str:
    """The split of a recording, by the SHA-256 of its name: 70 % train, 15 % dev, 15 % test."""
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    if place < SHARES["test"]:
        return "test"
    return "dev" if place < SHARES["test"] + SHARES["dev"] else "train"


def _orders(folder: Path) -> dict[str, dict[str, Any]]:
    """Intent and slots by the names of recordings, without suffix."""
    lists = sorted(folder.rglob("label.json"))
    if not lists:
        raise DatasetError(f"{folder} has no label.json; give the folder of the recordings and this list")
    try:
        content = json.loads(lists[0].read_text(encoding="utf-8"))
        return {
            Path(name).stem: {"intent": str(each["intent"]), "slots": dict(each["slots"])}
            for name, each in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{lists[0]} is no list of intents and slots: {error}") from error


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


CORPUS = Picovoice()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The sounds of the Moodist application, as they are distributed (`public/sounds/rain/light-rain.mp3`).

The name of a sound is its category. Synthetic noise, binaural tones and the application's own signals are left out. By
default seven sounds are the dev split, and the others train.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features

from .. import prepare
from ..datasets import noise_features
from .base import Corpus

DEV = ("waterfall", "library", "supermarket", "rain-on-leaves", "dryer", "typewriter", "road")
SYNTHETIC = ("binaural", "noise")


class Moodist(Corpus):
    """The sounds of Moodist.

    Options:
        dev: names of the sounds in the dev split.
    """

    info = DatasetInfo(
        description="Moodist: ambient recordings of places, streets, transport, household, weather and animals.",
        license="Pixabay Content License or CC0, without saying which of them holds for a sound.",
        citation="Moodist. https://github.com/remvze/moodist",
    )

    def rows(self, folder: Path, notes: Counter[str], dev: Sequence[str] = DEV) -> Iterator[dict[str, str]]:  # type: ignore[override]  # its own options
        sounds = self.audio_folder(folder)
        for path in prepare.audio_files(sounds):
            file = path.relative_to(sounds)
            if len(file.parts) == 1 or file.parts[0] in SYNTHETIC:
                notes["synthetic sounds and signals were left out"] += 1
            else:
                split = "dev" if path.stem in dev else "train"
                yield {"file": file.as_posix(), "category": path.stem, "split": split}

    def features(self, **options: Any) -> Features:
        return noise_features()

    def audio_folder(self, folder: Path, **options: Any) -> Path:
        """The folder of the sounds inside the repository where there is one, else the given folder."""
        sounds = folder / "public" / "sounds"
        return sounds if sounds.is_dir() else folder


CORPUS = Moodist()

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings that come with the package; all voices are synthetic."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True)
class Example:
    """A recording of the package.

    Args:
        title: what the page calls it.
        file: its name in `FOLDER`.
    """

    title: str
    file: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return FOLDER / self.file


EXAMPLES = (
    Example("Angry sentence in noise", "noisy_speech.flac"),
    Example("Clean sentence, for the noise test", "clean_speech.flac"),
    Example("Three voices over a fan, 25 s", "three_voices.ogg"),
)

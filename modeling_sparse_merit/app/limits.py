# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Limits of the page on the size and duration of a recording."""

import math
from dataclasses import dataclass
from pathlib import Path

from ..models.sparse_merit.decoding import audio_seconds


@dataclass(frozen=True)
class Limits:
    """What the page accepts.

    Args:
        minutes: longest recording.
        megabytes: largest file.
    """

    minutes: float = 30.0
    megabytes: int = 300

    @property
    def text(self) -> str:
        """The limits in words."""
        return f"up to {self.minutes:g} minutes and {self.megabytes} MB"

    def check_file(self, path: Path, name: str) -> float:
        """Checks size and header of a file before it is decoded.

        Args:
            path: the file.
            name: name of the recording in messages.

        Returns:
            The duration in seconds that the header states; infinite if unknown.

        Raises:
            ValueError: the file is too large or too long, or is no audio.
            OSError: the file cannot be read.
        """
        megabytes = path.stat().st_size / 1e6
        if megabytes > self.megabytes:
            raise ValueError(
                f"{name} has {megabytes:.0f} MB; this page takes files of {self.text}. "
                "Cut it, or use `sparse-merit enhance`, which has no limit."
            )
        seconds = audio_seconds(path)
        if math.isfinite(seconds):
            self.check_seconds(seconds, name)
        return seconds

    def check_seconds(self, seconds: float, name: str) -> None:
        """Checks a duration.

        Args:
            seconds: the duration, or the part of it that is decoded so far.
            name: name of the recording in messages.

        Raises:
            ValueError: the recording is too long.
        """
        if seconds > 60 * self.minutes:
            raise ValueError(
                f"{name} lasts more than {self.minutes:g} minutes; this page takes recordings of {self.text}. "
                "Cut it, or use `sparse-merit enhance`, which has no limit."
            )

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Limits of the page on the size and duration of a recording."""

from dataclasses import dataclass


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

    def check_size(self, size: int, name: str) -> None:
        """Checks the size of a file in bytes.

        Args:
            size: its size in bytes.
            name: name of the recording in messages.

        Raises:
            ValueError: the file is too large.
        """
        if size > 1e6 * self.megabytes:
            raise ValueError(
                f"{name} has {size / 1e6:.0f} MB; this page takes files of {self.text}. "
                "Cut it, or use `sparse-merit enhance`, which has no limit."
            )

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

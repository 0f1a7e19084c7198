# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What ends a run before its time: a SIGTERM, or a disk that is full."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from safetensors import SafetensorError

from ..files import NO_SPACE, OutputError, one_line

INTERRUPTED = 128 + signal.SIGTERM
"""Exit status of a run that a SIGTERM ended, as shells report it."""
CANNOT_WRITE = (*NO_SPACE, errno.EFBIG)


class Interruption:
    """
    Waits for a SIGTERM, which schedulers send before they end a job. A second one ends the process at once.

    Usage:
        >>> with Interruption() as interruption:
        ...     interruption.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "Interruption":
        try:
            self._before = signal.signal(signal.SIGTERM, self._request)
        except ValueError:  # a run in a thread cannot have handlers
            self._before = None
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, self._before)


@contextmanager
def write_errors(folder: Any, newest: Any) -> Iterator[None]:
    """
    Explains errors after which nothing more can be written to the folder of a run, such as a full disk.

    Args:
        folder: What is written.
        newest: Returns the newest complete checkpoint, or None.

    Raises:
        OutputError: Nothing more can be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _cannot_write(error):
            raise
        kept = newest()
        resumed = f"{kept} is complete: the same command resumes there" if kept else "There is no checkpoint yet"
        raise OutputError(f"{folder} could not be written ({one_line(error)}). {resumed}. Free disk space.") from error


def _cannot_write(error: Exception) -> bool:
    """Whether an error of `open`, safetensors or torch means a full disk; the last two have no error number."""
    if isinstance(error, OSError):
        return error.errno in CANNOT_WRITE
    texts = ("No space left", "File too large", "os error", "failed writing file", "unexpected pos")
    return any(text in str(error) for text in texts)

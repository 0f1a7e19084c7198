# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings that arrive in a folder while it is watched.

The folder is polled, because network shares do not report changes of other machines.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from ..files import one_line
from ..models.sparse_merit.decoding import is_recording
from .files import ENHANCED_SUFFIX, NO_STAMP, Recording, Stamp, stamp_of, target_for


@dataclass(frozen=True)
class Arrivals:
    """What a look into a folder has found.

    Args:
        recordings: new and changed recordings that are complete, in the order of their arrival.
        problems: sentences about folders that cannot be read, and about links that are not followed.
    """

    recordings: list[Recording]
    problems: set[str]


class Inbox:
    """A folder in which recordings arrive.

    A recording counts as complete if its size and modification time have not changed for some time, as observed by
    this object: clocks of other machines, and times that a copy has kept, do not matter. Subfolders are searched.
    Hidden files and folders, in which programs keep unfinished uploads, and results (`*.enhanced.wav`) are left out.

    Args:
        folder: the folder.
        output: folder of the results; nothing is written.
        settle_seconds: time without a change in seconds.

    Usage:
        >>> inbox = Inbox(Path("calls"), Path("clean"), settle_seconds=0)
        >>> recording, *_ = inbox.look().recordings
        >>> recording.path.name
        'a.flac'
        >>> inbox.take(recording)
        >>> recording in inbox.look().recordings
        False
    """

    def __init__(self, folder: Path, output: Path, settle_seconds: float):
        self.folder, self.output, self.settle_seconds = folder, output, settle_seconds
        self._waiting: dict[Path, tuple[Stamp, float]] = {}  # with the time when this state was first seen
        self._taken: dict[Path, Stamp] = {}

    def look(self) -> Arrivals:
        """Returns the recordings that are complete and have not been taken."""
        problems: set[str] = set()
        complete = []
        before, self._waiting = self._waiting, {}
        for path in self._files(problems):
            stamp, now = stamp_of(path), time.monotonic()
            if stamp in (self._taken.get(path), NO_STAMP):
                continue
            if not path.resolve().is_relative_to(self.folder.resolve()):
                problems.add(f"{path} is a link to a file outside the folder, which is not followed.")
                continue
            last, since = before.get(path, (stamp, now))
            since = since if last == stamp else now
            self._waiting[path] = stamp, since
            if now - since >= self.settle_seconds:
                complete.append((since, Recording(path, self._target(path), stamp=stamp)))
        return Arrivals([recording for _, recording in sorted(complete, key=itemgetter(0))], problems)

    def take(self, recording: Recording) -> None:
        """Marks a recording: later looks do not return it, unless its file changes."""
        self._taken[recording.path] = recording.stamp

    def _files(self, problems: set[str]) -> Iterator[Path]:
        """Yields the audio files; adds folders that cannot be read to the problems."""
        for parent, folders, names in os.walk(self.folder, onerror=lambda error: problems.add(one_line(error))):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for path in (Path(parent, name) for name in sorted(names)):
                if is_recording(path) and not path.name.lower().endswith(ENHANCED_SUFFIX):
                    yield path

    def _target(self, path: Path) -> Path:
        return target_for(self.output / path.relative_to(self.folder).parent, path.stem)

# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings that arrive in a folder or at a URL while it is watched.

It is polled, because network shares and object stores do not report changes of other machines.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..files import one_line
from ..models.sparse_merit.decoding import is_recording
from .files import ENHANCED_SUFFIX, NO_STAMP, Recording, stamp_of, target_for

if TYPE_CHECKING:
    from .corpora import Source


class Arrival(Protocol):
    """A recording: its place, and its state, which changes with its content."""

    @property
    def path(self) -> Hashable: ...
    @property
    def stamp(self) -> Hashable: ...


A = TypeVar("A", bound=Arrival)


@dataclass(frozen=True)
class Arrivals(Generic[A]):
    """What a look into a folder has found.

    Args:
        recordings: new and changed recordings that are complete, in the order of their arrival.
        problems: sentences about folders that cannot be read, and about links that are not followed.
    """

    recordings: list[A]
    problems: set[str]


class Arriving(ABC, Generic[A]):
    """A place in which recordings arrive.

    A recording counts as complete if its size and modification time have not changed for some time, as observed by
    this object: clocks of other machines, and times that a copy has kept, do not matter. Subfolders are searched.
    Hidden files and folders, in which programs keep unfinished uploads, and results (`*.enhanced.wav`) are left out.

    Args:
        settle_seconds: time without a change in seconds.
    """

    def __init__(self, settle_seconds: float):
        self.settle_seconds = settle_seconds
        self._waiting: dict[Hashable, tuple[Hashable, float]] = {}  # with the time when this state was first seen
        self._taken: dict[Hashable, Hashable] = {}

    def look(self) -> Arrivals[A]:
        """Returns the recordings that are complete and have not been taken."""
        problems: set[str] = set()
        complete = []
        before, self._waiting = self._waiting, {}
        for recording in self._recordings(problems):
            stamp, now = recording.stamp, time.monotonic()
            if stamp in (self._taken.get(recording.path), NO_STAMP):
                continue
            last, since = before.get(recording.path, (stamp, now))
            since = since if last == stamp else now
            self._waiting[recording.path] = stamp, since
            if now - since >= self.settle_seconds:
                complete.append((since, recording))
        return Arrivals([recording for _, recording in sorted(complete, key=itemgetter(0))], problems)

    def take(self, recording: A) -> None:
        """Marks a recording: later looks do not return it, unless its file changes."""
        self._taken[recording.path] = recording.stamp

    @abstractmethod
    def _recordings(self, problems: set[str]) -> Iterable[A]:
        """The recordings, complete or not; adds what cannot be read to the problems."""


class Inbox(Arriving[Recording]):
    """A folder in which recordings arrive.

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
        super().__init__(settle_seconds)
        self.folder, self.output = folder, output

    def _recordings(self, problems: set[str]) -> Iterator[Recording]:
        for path in self._files(problems):
            stamp = stamp_of(path)
            if path.resolve().is_relative_to(self.folder.resolve()):
                yield Recording(path, self._target(path), stamp=stamp)
            elif stamp != NO_STAMP:
                problems.add(f"{path} is a link to a file outside the folder, which is not followed.")

    def _files(self, problems: set[str]) -> Iterator[Path]:
        """Yields the audio files; adds folders that cannot be read to the problems."""
        for parent, folders, names in os.walk(self.folder, onerror=lambda error: problems.add(one_line(error))):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for path in (Path(parent, name) for name in sorted(names)):
                if is_recording(path) and not path.name.lower().endswith(ENHANCED_SUFFIX):
                    yield path

    def _target(self, path: Path) -> Path:
        return target_for(self.output / path.relative_to(self.folder).parent, path.stem)


class CorpusInbox(Arriving["Source"]):
    """A folder or URL in which recordings arrive, whose results are those of a `CorpusResults`.

    Args:
        place: the folder or URL.
        settle_seconds: time without a change in seconds.
    """

    def __init__(self, place: str, settle_seconds: float):
        super().__init__(settle_seconds)
        self._place = place

    def _recordings(self, problems: set[str]) -> "Iterable[Source]":
        from .corpora import list_sources

        try:
            return list(list_sources(self._place, problems))
        except Exception as error:  # libraries of object stores have errors of their own
            problems.add(f"{self._place} cannot be read: {one_line(error)}")
            return []

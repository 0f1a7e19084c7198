# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Finding recordings on disk, and the paths of their results."""

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..models.sparse_merit.audio import Channel
from ..models.sparse_merit.decoding import is_recording
from .segments import SegmentFormat

STDIN = Path("-")
ENHANCED_SUFFIX = ".enhanced.wav"
Stamp = tuple[int | None, int | None]
"""Size in bytes and modification time in ns of a file."""
NO_STAMP: Stamp = (None, None)  # of what is not a file
MAX_NAME_BYTES = 255 - 24  # limit of file systems, minus space for channels, numbers and other suffixes


@dataclass(frozen=True)
class Recording:
    """One input: its path, the file of its enhanced speech, or the reason why it cannot be used.

    Args:
        path: a file, a pipe, or `-` for standard input.
        target: file of the enhanced speech.
        error: why the recording cannot be used; None if it can.
        stamp: size and modification time of its file when it was found. Results belong to this state of the file.
    """

    path: Path
    target: Path
    error: str | None = None
    stamp: Stamp = NO_STAMP

    @property
    def source(self) -> str | None:
        """Its absolute path, which identifies it in any process; None for a pipe."""
        return (
            None
            if self.path == STDIN or (self.path.exists() and not self.path.is_file())
            else str(self.path.resolve())
        )

    @property
    def is_unchanged(self) -> bool:
        """Whether its file is as it was when it was found."""
        return stamp_of(self.path) == self.stamp

    def target_of(self, channel: Channel | None) -> Path:
        """File of the enhanced speech of one of several channels; None stands for the whole recording."""
        if channel is None:
            return self.target
        return self.target.with_name(f"{_stem(self.target)}.ch{channel}{ENHANCED_SUFFIX}")


def stamp_of(path: Path) -> Stamp:
    """Size and modification time of a file; `NO_STAMP` if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return NO_STAMP
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else NO_STAMP


def find_recordings(arguments: Iterable[str], output: Path) -> tuple[list[Recording], int]:
    """Finds all recordings named by the arguments, in order and without repetition.

    Audio that needs ffmpeg (M4A, WebM, ...) is included. Results of an earlier run (`*.enhanced.wav`) are skipped.
    Subfolders of a given folder are kept below `output`; targets with equal names are numbered: `x-2.enhanced.wav`.

    Args:
        arguments: files, folders (searched recursively), globs, and `-` for standard input.
        output: folder of the results; nothing is written.

    Returns:
        The recordings, including unusable arguments, and the number of skipped results of an earlier run.
    """
    recordings: list[Recording] = []
    seen: set[Path] = set()
    taken: set[str] = set()
    skipped = 0

    def add(path: Path, target: Path, error: str | None = None) -> None:
        free = free_target(target, lambda candidate: str(candidate).casefold() not in taken)
        taken.add(str(free).casefold())
        recordings.append(Recording(path, free, error, stamp_of(path)))

    for argument in arguments:
        if argument == str(STDIN):
            add(STDIN, target_for(output, "stdin"))
            continue
        matches = list(expand(Path(argument).expanduser()))
        if not matches:
            message = "no such file, and no recording found in it"
            add(Path(argument), target_for(output, Path(argument).stem or "missing"), message)
        for path, subfolder in matches:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if path.name.lower().endswith(ENHANCED_SUFFIX):
                skipped += 1
            else:
                add(path, target_for(output / subfolder, path.stem))
    return recordings, skipped


def expand(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each recording of a file, folder or glob, with its subfolder relative to the folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if is_recording(file):
                yield file, file.relative_to(path).parent
    elif path.exists():
        yield path, Path()
    else:
        for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if match.is_dir() or is_recording(match):
                yield from expand(match)


def target_for(folder: Path, stem: str) -> Path:
    """File of the enhanced speech of a recording. A name that is too long is shortened and stays unique.

    Args:
        folder: folder of the results.
        stem: name of the recording without suffix.
    """
    content = os.fsencode(stem)
    if len(content) > MAX_NAME_BYTES - len(ENHANCED_SUFFIX):
        digest = hashlib.sha256(content).hexdigest()[:8]
        short = content[: MAX_NAME_BYTES - len(ENHANCED_SUFFIX) - 9].decode("utf-8", errors="ignore")
        stem = f"{short}-{digest}"
    return folder / (stem + ENHANCED_SUFFIX)


def free_target(target: Path, is_free: Callable[[Path], bool]) -> Path:
    """The target, or the first free one of `x-2.enhanced.wav`, `x-3.enhanced.wav`, ...

    Args:
        target: the preferred path.
        is_free: whether a path may be used.
    """
    stem, number = _stem(target), 1
    while not is_free(target):
        number += 1
        target = target.with_name(f"{stem}-{number}{ENHANCED_SUFFIX}")
    return target


def segments_path(target: Path, kind: str) -> Path:
    """File of the segments of speech, next to the enhanced file.

    Args:
        target: the enhanced file, `NAME.enhanced.wav`.
        kind: "csv", "vtt" or "rttm".

    Returns:
        `NAME.segments.csv`, and so on.

    Raises:
        ValueError: the format is unknown.
    """
    return target.with_name(f"{_stem(target)}.segments.{SegmentFormat(kind)}")


def _stem(target: Path) -> str:
    return target.name.removesuffix(ENHANCED_SUFFIX)

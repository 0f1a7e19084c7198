# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings on disk: which there are, and where their results go."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..models.sparse_merit.audio import Channel
from ..models.sparse_merit.decoding import is_recording
from .segments import SegmentFormat

STDIN = Path("-")
ENHANCED_SUFFIX = ".enhanced.wav"
MAX_NAME_BYTES = 255 - 24  # of file systems, less what channels, numbers and other endings may add


@dataclass(frozen=True)
class Recording:
    """One input: its path, where its enhanced speech goes, or why it cannot be used.

    Args:
        path: a file, a pipe, or `-` for standard input.
        target: file of the enhanced speech.
        error: why it cannot be used.
    """

    path: Path
    target: Path
    error: str | None = None

    @property
    def source(self) -> str | None:
        """What tells it from others, wherever the process runs: its absolute path; None of a pipe, which is new."""
        return (
            None
            if self.path == STDIN or (self.path.exists() and not self.path.is_file())
            else str(self.path.resolve())
        )

    def stamp(self) -> tuple[int | None, int | None]:
        """Size in bytes and time of modification in ns of its file, None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None, None
        return (status.st_size, status.st_mtime_ns) if self.path.is_file() else (None, None)

    def target_of(self, channel: Channel | None) -> Path:
        """File of the enhanced speech of one of several channels; None for the recording as a whole."""
        if channel is None:
            return self.target
        return self.target.with_name(f"{_stem(self.target)}.ch{channel}{ENHANCED_SUFFIX}")


def find_recordings(arguments: Iterable[str], output: Path) -> tuple[list[Recording], int]:
    """Finds every recording that the arguments name, each once, in order.

    Audio that needs ffmpeg (M4A, WebM, ...) is found too. Results of an earlier run (`*.enhanced.wav`) are no
    recordings, wherever they lie. Subfolders of a given folder are kept below `output`; what would still write to the
    same file gets a number: `x-2.enhanced.wav`.

    Args:
        arguments: files, folders, which are searched in depth, globs, and `-` for standard input.
        output: folder of the results; nothing is written.

    Returns:
        the recordings, unusable arguments among them, and how many results of an earlier run were passed over.
    """
    found: list[Recording] = []
    seen: set[Path] = set()
    taken: set[str] = set()
    skipped = 0

    def add(path: Path, target: Path, error: str | None = None) -> None:
        free = free_target(target, lambda candidate: str(candidate).casefold() not in taken)
        taken.add(str(free).casefold())
        found.append(Recording(path, free, error))

    for argument in arguments:
        if argument == str(STDIN):
            add(STDIN, target_for(output, "stdin"))
            continue
        matches = list(expand(Path(argument).expanduser()))
        if not matches:
            message = "no such file, and no recording found in or by it"
            add(Path(argument), target_for(output, Path(argument).stem or "missing"), message)
        for path, subfolder in matches:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if path.name.lower().endswith(ENHANCED_SUFFIX):
                skipped += 1
            else:
                add(path, target_for(output / subfolder, path.stem))
    return found, skipped


def expand(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each recording of a file, a folder or a glob, and its subfolder within the folder."""
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
    """File of the enhanced speech of a recording; a name that would be too long is shortened, and stays its own."""
    content = os.fsencode(stem)
    if len(content) > MAX_NAME_BYTES - len(ENHANCED_SUFFIX):
        digest = hashlib.sha256(content).hexdigest()[:8]
        short = content[: MAX_NAME_BYTES - len(ENHANCED_SUFFIX) - 9].decode("utf-8", errors="ignore")
        stem = f"{short}-{digest}"
    return folder / (stem + ENHANCED_SUFFIX)


def free_target(target: Path, is_free: Callable[[Path], bool]) -> Path:
    """The target, or the first of `x-2.enhanced.wav`, `x-3.enhanced.wav`, ... that is free."""
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
        ValueError: there is no such format.
    """
    return target.with_name(f"{_stem(target)}.segments.{SegmentFormat(kind)}")


def _stem(target: Path) -> str:
    return target.name.removesuffix(ENHANCED_SUFFIX)

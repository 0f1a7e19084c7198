# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Atomic writing of files and folders, SHA-256 digests, and one-line error messages."""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?")
"""Names of files that are being written; a killed process leaves them behind."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors after which a disk accepts no further data."""


class OutputError(Exception):
    """Results cannot be written any more, for instance because the disk is full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` that becomes `path` when the block ends without an error.

    Its name is short, whatever the length of `path`, and has the same suffix.

    Usage:
        >>> with replacing(Path("results.json")) as temporary:
        ...     _ = temporary.write_text("{}")
        >>> Path("results.json").read_text()
        '{}'
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder next to `path` that becomes `path` if the block ends without an error; see `replace_folder`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    temporary.mkdir()
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(partial: Path, final: Path) -> None:
    """Renames a finished folder to its final name, after syncing its files to disk; an existing folder is replaced.

    Args:
        partial: the finished folder, on the same disk.
        final: its final path.
    """
    replaced = final.with_name(final.name + ".old")
    for path in [*partial.rglob("*"), partial]:
        _to_disk(path)
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    _to_disk(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def check_replaceable(folder: Path, overwrite: bool, why_not: Callable[[Path], str | None]) -> None:
    """Checks that a folder may be written: it is absent or empty, or it may be replaced.

    Args:
        folder: the folder to write.
        overwrite: allow replacing an existing folder.
        why_not: returns why the content of a folder must not be replaced, None if it may be.

    Raises:
        FileExistsError: the folder exists and must not be replaced; the message says why.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists already: give a new folder, or --overwrite.")
    reason = why_not(folder) if folder.is_dir() else "it is a file"
    if reason is not None:
        raise FileExistsError(f"{folder} cannot be overwritten: {reason}. Give another folder.")


def remove_unfinished(folder: Path) -> None:
    """Removes, at any depth, the files and folders that a killed process was writing."""
    for path in sorted(folder.rglob(".*.partial*")):
        if UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def output_errors() -> Iterator[None]:
    """Turns an OSError after which nothing more can be written, such as a full disk, into an `OutputError`.

    Raises:
        OutputError: nothing more can be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutputError(str(error)) from error
        raise


def append_line(path: Path, line: str) -> int:
    """Appends a line to a file, completely or not at all.

    Args:
        path: the file; it is created if missing.
        line: the text, without line break.

    Returns:
        The position of the first byte of the line.

    Raises:
        OSError: the line cannot be written; the file is unchanged.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        position = os.lseek(descriptor, 0, os.SEEK_END)
        content = memoryview(line.encode() + b"\n")
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError:
            os.ftruncate(descriptor, position)
            raise
    finally:
        os.close(descriptor)
    return position


def drop_torn_line(path: Path) -> None:
    """Creates a file of lines if it is missing, and removes an incomplete last line, which a power failure may leave.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start > 0:
            start = max(0, start - (1 << 16))
            file.seek(start)
            place = file.read(min(1 << 16, end - start)).rfind(b"\n")
            if place >= 0:
                file.truncate(start + place + 1)
                return
        file.truncate(0)


def sha256_of_file(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_samples(waveform: "np.ndarray") -> str:
    """SHA-256 of samples (samples,) as little-endian float32."""
    return hashlib.sha256(waveform.astype("<f4", order="C").data).hexdigest()


def sha256_of_files(paths: list[Path]) -> str:
    """SHA-256 over the contents of files, in their order."""
    return hashlib.sha256("".join(map(sha256_of_file, paths)).encode()).hexdigest()


def one_line(error: BaseException) -> str:
    """The message of an error in one line; the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

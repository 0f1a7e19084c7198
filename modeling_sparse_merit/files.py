# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files that are complete or not there, digests, and errors as one line."""

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?")
"""Names of files that are being written; a process that is killed leaves them."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors after which nothing more can be written to a disk."""


class OutputError(Exception):
    """Results cannot be written any more, for instance because the disk is full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` that becomes `path` when the block ends without an error.

    Its name is short, however long that of `path` is, and has the same ending.

    Usage:
        >>> with replacing(Path("results.json")) as temporary:
        ...     temporary.write_text("{}")
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_errors() -> Iterator[None]:
    """Raises an OSError after which nothing more can be written (a full disk, for instance) as `OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutputError(str(error)) from error
        raise


def append_line(path: Path, line: str) -> int:
    """Appends a line to a file, completely or not at all; returns the position of its first byte.

    Raises:
        OSError: it cannot be written; the file is as before.
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


def sha256_of_files(paths: list[Path]) -> str:
    """SHA-256 over the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__

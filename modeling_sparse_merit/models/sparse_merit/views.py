# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Views of a file: ranges of it as files of their own, searched and read without loading it."""

import bisect
import io
import os
import re
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 1 << 16  # bytes


@dataclass(frozen=True)
class Part:
    """A piece of a file that a decoder reads from its start to its end.

    Args:
        stream: a complete file in a format of libsndfile.
        seconds: duration according to its structure; None if not known.
        skip: samples (per channel) of encoder delay at its start.
        samples: samples (per channel) that follow the delay; None for all.
        is_mpeg: whether it is MPEG audio, or may be.
    """

    stream: "View"
    seconds: float | None = None
    skip: int = 0
    samples: int | None = None
    is_mpeg: bool = False


@dataclass
class Layout:
    """Parts of a file in their order, and warnings about its structure."""

    parts: list[Part] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class View(io.RawIOBase):
    """Read-only file made of ranges of another file and of literal bytes.

    Args:
        stream: a seekable binary file.
        pieces: bytes, or (start, end) in `stream`.

    `error` keeps an OSError of the file: libsndfile's callbacks cannot raise it.
    """

    def __init__(self, stream: BinaryIO, *pieces: bytes | tuple[int, int]):
        self._stream = stream
        self._pieces = [piece for piece in pieces if _length(piece) > 0]
        self._ends: list[int] = []
        for piece in self._pieces:
            self._ends.append((self._ends[-1] if self._ends else 0) + _length(piece))
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, not before the start.

        Args:
            offset: in bytes.
            whence: `os.SEEK_SET`, `os.SEEK_CUR` or `os.SEEK_END`.

        Returns:
            the position in bytes.
        """
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1] if self._ends else 0}
        self._position = max(0, origin[whence] + offset)
        return self._position

    # `collections.abc.Buffer`, which typeshed expects, needs Python 3.12.
    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer, across pieces, up to the end of the last one."""
        wanted, filled = memoryview(buffer).cast("B"), 0
        while filled < len(wanted):
            chunk = self._read_some(len(wanted) - filled)
            if not chunk:
                break
            wanted[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return filled

    def _read_some(self, size: int) -> bytes:
        """Up to `size` bytes of the piece at the position."""
        number = bisect.bisect_right(self._ends, self._position)
        if number == len(self._ends):
            return b""
        piece = self._pieces[number]
        offset = self._position - (self._ends[number] - _length(piece))
        size = min(size, _length(piece) - offset)
        if isinstance(piece, bytes):
            chunk = piece[offset : offset + size]
        else:
            try:
                chunk = bytes_at(self._stream, piece[0] + offset, size)
            except OSError as error:
                self.error, chunk = error, b""
        self._position += len(chunk)
        return chunk


def _length(piece: bytes | tuple[int, int]) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


def bytes_at(stream: BinaryIO, position: int, size: int) -> bytes:
    """Reads bytes of a file.

    Args:
        stream: a seekable binary file.
        position: of the first byte.
        size: number of bytes; fewer are returned at the end of the file.
    """
    stream.seek(position)
    return stream.read(size)


def find(stream: BinaryIO, pattern: bytes, start: int, end: int) -> int | None:
    """Position of the first match of a regular expression, which is searched block by block.

    Args:
        stream: a seekable binary file.
        pattern: regular expression that matches at most 16 bytes.
        start, end: bytes of the file to search.

    Returns:
        the position of the match; None without a match.
    """
    expression = re.compile(pattern, re.DOTALL)
    for position in range(start, end, BLOCK):
        match = expression.search(bytes_at(stream, position, min(BLOCK + 15, end - position)))
        if match:
            return position + match.start()
    return None


def after_tags(stream: BinaryIO, position: int, end: int) -> int:
    """Skips the ID3v2, ID3v1 and APE tags at a position.

    Args:
        stream: a seekable binary file.
        position: of the first byte of a tag, or of anything else.
        end: of the file.

    Returns:
        the position after the last tag.
    """
    while position < end and (size := _tag_size(bytes_at(stream, position, 32))):
        position = min(end, position + size)
    return position


def _tag_size(head: bytes) -> int:
    """Bytes of the tag that starts with `head`, 0 where none does."""
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:  # four bytes of seven bits
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return 10 + size + (10 if head[5] & 0x10 else 0)  # a footer repeats the header
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        size = int.from_bytes(head[12:16], "little")  # without a header, with the footer
        return size + 32 if int.from_bytes(head[20:24], "little") & 0x20000000 else 32
    return 0


def note_several(layout: Layout, name: str) -> None:
    """Adds the warning that a file is a concatenation of several.

    Args:
        layout: whose `warnings` are extended.
        name: name of the file in messages.
    """
    layout.warnings.append(f"{name} is a concatenation of several files; all of them were read.")

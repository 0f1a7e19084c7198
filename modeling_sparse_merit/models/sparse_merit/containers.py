# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Structure of audio files: position and length of their audio, without relying on the header alone.

libsndfile trusts headers. It reads a truncated WAV without an error, reads only the first of several chained OGG
streams, and guesses the length of an MP3 that does not state it. `layout_of` walks the container instead and returns
parts that libsndfile decodes completely, each with its expected duration.

Formats: RIFF, RIFX, RF64 and BW64 WAV (Multimedia Programming Interface and Data Specifications 1.0; EBU Tech 3306),
AIFF and AIFC, W64, CAF, AU, NIST SPHERE, FLAC (RFC 9639), OGG (RFC 3533), MPEG audio (`mpeg.py`).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from .mpeg import Frame, add_mpeg
from .views import Layout, Part, View, after_tags, bytes_at, find, note_several

STREAMED_SIZES = (
    (0, 0),
    (0x7F000000, 0x7F0000FF),
    (0x7FFF0000, 0x800000FF),
    (0xFFFF0000, 0xFFFFFFFF),
    (1 << 62, 1 << 64),
)
"""Ranges of placeholder sizes that writers leave when the length of the audio is not known yet."""
HEADER_SLIP = 64  # bytes; writers that add parts of the header to the size of the audio err by less


def layout_of(stream: BinaryIO, name: str) -> Layout:
    """Finds the audio of a file.

    Args:
        stream: a seekable binary file.
        name: name of the file in messages.

    Raises:
        ValueError: the file is empty, holds a tag and no audio, or is cut short; the message says by how much.
    """
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        raise ValueError(f"{name} is empty: 0 bytes.")
    layout = Layout()
    start: int | None = 0
    while start is not None and start < end:
        start = _add_parts(layout, stream, after_tags(stream, start, end), end, name)
    return layout


def _add_parts(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> int | None:
    """Adds the file that starts at `start`; returns where another one follows it, None where there is none."""
    head = bytes_at(stream, start, 16)
    for dialect in DIALECTS:
        if dialect.matches(head):
            return _add_chunked(layout, stream, dialect, start, end, name)
    if head[:4] == b"fLaC":
        return _add_flac(layout, stream, start, end, name)
    if head[:4] == b"OggS":
        _add_ogg(layout, stream, start, end, name)
        return None
    if head[:4] in (b".snd", b"dns.") or head[:8] == b"NIST_1A\n":
        _check_fixed_header(layout, stream, start, end, name)
    elif add_mpeg(layout, stream, start, end, name):
        return None
    _check_content(stream, start, end, name)
    if not layout.parts:  # libsndfile or ffmpeg may support it
        layout.parts.append(Part(View(stream, (start, end)), is_mpeg=True))
    return None


def _check_content(stream: BinaryIO, start: int, end: int, name: str) -> None:
    """Refuses a file that ends behind its tags, or within its first MPEG frame."""
    if start == end:
        raise ValueError(f"{name} contains a tag, but no audio.")
    frame = Frame.parse(bytes_at(stream, start, 4))
    if frame is not None and frame.size > end - start:
        raise ValueError(
            f"{name} has no complete frame of audio: it ends after {end - start} of the {frame.size} bytes of the "
            "first frame."
        )


# Files of chunks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dialect:
    """A format made of chunks, each an identifier and a size.

    Args:
        magic, form: first bytes of the file and of its form, which stands at `form_at`.
        first: offset of the first chunk.
        data: identifier of the chunk with the audio.
        order: byte order of sizes.
        size_bytes: bytes of a size field; `size_of_header` of them are counted in the size.
        alignment: of chunks, in bytes.
    """

    magic: bytes
    form: tuple[bytes, ...]
    form_at: int
    first: int
    data: bytes
    order: Literal["little", "big"] = "little"
    size_bytes: int = 4
    size_of_header: int = 0
    alignment: int = 2

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes is in this format."""
        return head.startswith(self.magic) and head[self.form_at :].startswith(self.form)


_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
DIALECTS = (
    Dialect(b"RIFF", (b"WAVE",), 8, 12, b"data"),
    Dialect(b"RIFX", (b"WAVE",), 8, 12, b"data", order="big"),
    Dialect(b"RF64", (b"WAVE",), 8, 12, b"data"),
    Dialect(b"BW64", (b"WAVE",), 8, 12, b"data"),
    Dialect(b"FORM", (b"AIFF", b"AIFC"), 8, 12, b"SSND", order="big"),
    Dialect(b"caff", (b"\0\1",), 4, 8, b"data", order="big", size_bytes=8, alignment=1),
    Dialect(
        bytes.fromhex("726966662e91cf11a5d628db04c10000"), (b"",), 16, 40, b"data" + _W64_TAIL, "little", 8, 24, 8
    ),
)
MPEG_FORMAT_TAGS = (0x50, 0x55)  # of a WAV that holds MPEG audio


@dataclass(frozen=True)
class Chunk:
    """A chunk: its identifier, where its size is written, where its content starts, and the size that is promised."""

    name: bytes
    size_at: int
    start: int
    size: int


def _chunks(stream: BinaryIO, dialect: Dialect, start: int, end: int) -> Iterator[Chunk]:
    """Yields the chunks of a file, up to one that has no valid identifier or lies beyond the end."""
    position, id_bytes = start + dialect.first, len(dialect.data)
    while position + id_bytes + dialect.size_bytes <= end:
        head = bytes_at(stream, position, id_bytes + dialect.size_bytes)
        name = head[:id_bytes]
        if not name[:4].isascii() or not name[:4].decode().isprintable() or head.startswith(dialect.magic):
            return
        size = int.from_bytes(head[id_bytes:], dialect.order) - dialect.size_of_header
        content = position + len(head)
        yield Chunk(name, position + id_bytes, content, size)
        if size < 0:
            return
        position = content + size + -size % dialect.alignment


def _add_chunked(layout: Layout, stream: BinaryIO, dialect: Dialect, start: int, end: int, name: str) -> int | None:
    """Adds a WAV, AIFF, CAF or W64 file. A size that was written before the length was known is corrected."""
    data: Chunk | None = None
    size_64: Chunk | None = None
    fmt = b""
    following = end
    for chunk in _chunks(stream, dialect, start, end):
        if chunk.name[:4] == b"fmt ":
            fmt = bytes_at(stream, chunk.start, 16)
        elif chunk.name == b"ds64":
            at = chunk.start + 8
            size_64 = Chunk(b"data", at, 0, int.from_bytes(bytes_at(stream, at, 8), "little"))
        elif chunk.name == dialect.data:
            if data is not None:
                raise ValueError(
                    f"{name} holds two chunks of audio, at bytes {data.start} and {chunk.start}, where the format "
                    "allows one. Write it again from its source."
                )
            data = chunk
            if _is_open(_promised(chunk, size_64), dialect, stream, start, end):
                break
        following = chunk.start + max(0, chunk.size) + chunk.size % dialect.alignment
    if data is None:
        raise ValueError(f"{name} holds no audio: it has no `{dialect.data[:4].decode()}` chunk.")
    return _add_data(layout, stream, dialect, (start, following, end), data, _promised(data, size_64), fmt, name)


def _promised(data: Chunk, size_64: Chunk | None) -> Chunk:
    """The chunk with the size of the audio: `ds64` if it exceeds the 32 bits of the data chunk."""
    return size_64 if size_64 is not None and data.size >= 0xFFFFFFFF else data


def _is_open(promised: Chunk, dialect: Dialect, stream: BinaryIO, start: int, end: int) -> bool:
    """Whether the audio reaches to the end of the file because its length was not known when the header was written.

    A size of 0 may also be that of an empty file, whose own size is then right.
    """
    if promised.size != 0:
        return _is_streamed(promised.size) or promised.size < 0
    whole = int.from_bytes(bytes_at(stream, start + 4, 4), dialect.order)
    return _is_streamed(whole) or start + whole + 8 < end


def _is_streamed(size: int) -> bool:
    return any(lowest <= size <= highest for lowest, highest in STREAMED_SIZES)


def _add_data(
    layout: Layout,
    stream: BinaryIO,
    dialect: Dialect,
    bounds: tuple[int, int, int],
    data: Chunk,
    promised: Chunk,
    fmt: bytes,
    name: str,
) -> int | None:
    start, following, end = bounds
    held = end - data.start
    is_open = _is_open(promised, dialect, stream, start, end)
    size = held if is_open else promised.size
    byte_rate = int.from_bytes(fmt[8:12], dialect.order)
    if size > held:
        _check_slip(layout, size - held, data.start - start, (size, held), byte_rate, name)
        size = held
    if int.from_bytes(fmt[:2], dialect.order) in MPEG_FORMAT_TAGS and dialect.data[:4] == b"data":
        if add_mpeg(layout, stream, data.start, data.start + size, name):
            return None
    follows = _next_file(stream, dialect, following, end)
    if follows is not None and not layout.parts:
        note_several(layout, name)
    layout.parts.append(Part(_corrected(stream, dialect, start, follows or end, promised, held, is_open)))
    unaccounted = end - max(following, data.start + size)
    if follows is None and 0 < byte_rate <= 10 * unaccounted and not _is_padding(stream, end - unaccounted, end):
        layout.warnings.append(
            f"{name} has {unaccounted} bytes after the audio that its header declares "
            f"({unaccounted / byte_rate:.1f} s if they are audio). They are not read."
        )
    return follows


def _check_slip(layout: Layout, missing: int, header: int, sizes: tuple[int, int], byte_rate: int, name: str) -> None:
    """A header that promises a little too much was written wrong; one that promises more is of a longer file."""
    seconds = missing / byte_rate if byte_rate else 0
    amount = f" ({seconds:.2f} s are missing)" if seconds >= 0.005 else ""
    promise = f"its header promises {sizes[0]} bytes of audio, but it has {sizes[1]}{amount}"
    if missing > HEADER_SLIP and missing not in (header, header - 8):
        raise ValueError(f"{name} is cut short: {promise}. Get the whole file.")
    layout.warnings.append(f"{name}: {promise}. The audio that exists was read.")


def _next_file(stream: BinaryIO, dialect: Dialect, position: int, end: int) -> int | None:
    return position if position < end and dialect.matches(bytes_at(stream, position, 16)) else None


def _is_padding(stream: BinaryIO, start: int, end: int) -> bool:
    return find(stream, rb"[^\0]", start, end) is None


def _corrected(
    stream: BinaryIO, dialect: Dialect, start: int, end: int, promised: Chunk, held: int, is_open: bool
) -> View:
    """The file from `start` to `end`, with the size of its audio where that was left open."""
    is_bw64 = dialect.magic == b"BW64"  # libsndfile calls it RF64
    pieces: list[bytes | tuple[int, int]] = [b"RF64", (start + 4, end)] if is_bw64 else [(start, end)]
    size_bytes = 8 if promised.start == 0 else dialect.size_bytes
    if is_open and held < 1 << (8 * size_bytes):
        size = (held + dialect.size_of_header).to_bytes(size_bytes, dialect.order)
        before = (start + 4 if is_bw64 else start, promised.size_at)
        pieces = [*pieces[:-1], before, size, (promised.size_at + size_bytes, end)]
    return View(stream, *pieces)


def _check_fixed_header(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> None:
    """Checks AU and NIST SPHERE files, whose header holds the offset and length of the audio.

    Raises:
        ValueError: the file holds less.
    """
    head = bytes_at(stream, start, 1024)
    if head[:4] in (b".snd", b"dns."):
        order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
        offset, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        size = 0 if _is_streamed(size) else size
    else:
        offset = int(head[8:16])
        matches = [re.search(rb"%s -i (\d+)" % key.encode(), head) for key in _SPHERE_FACTORS]
        size = 1
        for match in matches:
            size *= int(match[1]) if match else 0
        size = size if b"pcm" in head and b"embedded" not in head else 0  # compressed audio is shorter
    held = end - start - offset
    if size > held:
        _check_slip(layout, size - held, offset, (size, held), 0, name)


_SPHERE_FACTORS = ("sample_count", "channel_count", "sample_n_bytes")


# FLAC ----------------------------------------------------------------------------------------------------------------


def _add_flac(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> int | None:
    """Adds a FLAC file; its STREAMINFO block holds rate and number of samples (0: not known)."""
    info = bytes_at(stream, start + 8, 34)
    packed = int.from_bytes(info[10:18], "big")  # 20 bits of rate, 8 of channels and depth, 36 of samples
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    follows = find(stream, rb"fLaC[\0\x80]\0\0\x22", start + 4, end)
    seconds = samples / rate if rate and samples else None
    if follows is not None and not layout.parts:
        note_several(layout, name)
    layout.parts.append(Part(View(stream, (start, follows or end)), seconds))
    return follows


# OGG -----------------------------------------------------------------------------------------------------------------


@dataclass
class Link:
    """One of the chained streams of an OGG file: its start and the contents of its page headers."""

    start: int
    serial: bytes
    rate: int  # of granule positions, 0 where the codec is not known
    first: int | None = None
    last: int = 0
    has_content: bool = False
    is_closed: bool = False

    def add(self, page: bytes) -> None:
        """Adds a page, given its header of 27 bytes."""
        self.has_content = self.has_content or not page[5] & 2
        if page[14:18] != self.serial:
            return
        granule = int.from_bytes(page[6:14], "little", signed=True)
        self.is_closed = bool(page[5] & 4)
        if granule > 0:
            self.first = granule if self.first is None else self.first
            self.last = granule

    @property
    def seconds(self) -> float | None:
        """Minimum duration of its audio in seconds: that after its first page of audio."""
        return (self.last - self.first) / self.rate if self.rate and self.first is not None else None


def _add_ogg(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> None:
    """Adds the links of an OGG file, each as a part.

    Raises:
        ValueError: it ends within a page.
    """
    links: list[Link] = []
    position: int | None = start
    while position is not None and position < end:
        page = bytes_at(stream, position, 27 + 255)
        if page[:4] != b"OggS":
            position = find(stream, rb"OggS\0", position + 1, end)
            continue
        size = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else 27
        if position + size > end:
            seconds = sum(link.seconds or 0 for link in links)
            raise ValueError(
                f"{name} is cut short: it ends within a page, after {seconds:.2f} s, {position + size - end} bytes "
                "or more before its end. Get the whole file."
            )
        if page[5] & 2 and (not links or links[-1].has_content):
            links.append(Link(position, page[14:18], _granule_rate(page[27 + page[26] :])))
        elif links:
            links[-1].add(page)
        position += size
    ends = [link.start for link in links[1:]] + [end]
    for link, link_end in zip(links, ends, strict=True):
        layout.parts.append(Part(View(stream, (link.start, link_end)), link.seconds))
    if links and not links[-1].is_closed:
        layout.warnings.append(f"{name} does not mark its end: it was recorded from a stream, or is cut short.")


def _granule_rate(packet: bytes) -> int:
    """Rate of granule positions of the codec whose first packet this is, 0 where it is not known."""
    if packet[:7] == b"\x01vorbis":
        return int.from_bytes(packet[12:16], "little")
    if packet[:8] == b"OpusHead":
        return 48_000
    return 0

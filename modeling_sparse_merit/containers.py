# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Structure of audio files: where their audio lies and how much of it there is, whatever a header promises.

libsndfile trusts headers. It reads a truncated WAV short without an error, only the first of several chained OGG
streams, and an MP3 without a length field up to a guess. `layout_of` walks the container instead and returns parts
that libsndfile decodes completely, each with the duration that it has to yield.

Formats: RIFF, RIFX, RF64 and BW64 WAV (Multimedia Programming Interface and Data Specifications 1.0; EBU Tech 3306),
AIFF and AIFC, W64, CAF, AU, NIST SPHERE, FLAC (RFC 9639), OGG (RFC 3533), MPEG audio layers I to III (ISO/IEC 11172-3,
13818-3) with Xing, Info, LAME and VBRI headers.
"""

import bisect
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

STREAMED_SIZES = (
    (0, 0),
    (0x7F000000, 0x7F0000FF),
    (0x7FFF0000, 0x800000FF),
    (0xFFFF0000, 0xFFFFFFFF),
    (1 << 62, 1 << 64),
)
"""Ranges of what writers leave as the size of audio whose length they do not know yet."""
HEADER_SLIP = 64  # bytes; writers that add parts of the header to the size of the audio err by less
BLOCK = 1 << 16  # bytes


@dataclass(frozen=True)
class Part:
    """A piece of a file that a decoder reads from its start to its end.

    Args:
        stream: a complete file in a format of libsndfile.
        seconds: duration that its structure accounts for; None where it does not tell.
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
        self._ends = []
        for piece in self._pieces:
            self._ends.append((self._ends[-1] if self._ends else 0) + _length(piece))
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1] if self._ends else 0}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:
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
                chunk = _bytes_at(self._stream, piece[0] + offset, size)
            except OSError as error:
                self.error, chunk = error, b""
        self._position += len(chunk)
        return chunk


def layout_of(stream: BinaryIO, name: str) -> Layout:
    """Finds the audio of a file.

    Args:
        stream: a seekable binary file.
        name: what messages call the file.

    Raises:
        ValueError: the file is empty, holds a tag and no audio, or is cut short; the message says by how much.
    """
    end = stream.seek(0, os.SEEK_END)
    if end == 0:
        raise ValueError(f"{name} is empty: 0 bytes.")
    layout = Layout()
    start: int | None = 0
    while start is not None and start < end:
        start = _add_parts(layout, stream, _after_tags(stream, start, end), end, name)
    return layout


def _note_several(layout: Layout, name: str) -> None:
    layout.warnings.append(f"{name} consists of several files, one behind the other; all of them were read.")


def _add_parts(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> int | None:
    """Adds the file that starts at `start`; returns where another one follows it, None where there is none."""
    head = _bytes_at(stream, start, 16)
    for dialect in DIALECTS:
        if dialect.matches(head):
            return _add_chunked(layout, stream, dialect, start, end, name)
    if head[:4] == b"fLaC":
        return _add_flac(layout, stream, start, end, name)
    if head[:4] == b"OggS":
        return _add_ogg(layout, stream, start, end, name)
    if head[:4] in (b".snd", b"dns.") or head[:8] == b"NIST_1A\n":
        _check_fixed_header(layout, stream, start, end, name)
    elif _add_mpeg(layout, stream, start, end, name):
        return None
    _check_content(stream, start, end, name)
    if not layout.parts:  # libsndfile, or ffmpeg, may know it
        layout.parts.append(Part(View(stream, (start, end)), is_mpeg=True))
    return None


def _check_content(stream: BinaryIO, start: int, end: int, name: str) -> None:
    """Refuses a file that ends behind its tags, or within its first MPEG frame."""
    if start == end:
        raise ValueError(f"{name} holds a tag and no audio.")
    frame = Frame.parse(_bytes_at(stream, start, 4))
    if frame is not None and frame.size > end - start:
        raise ValueError(
            f"{name} holds no complete frame of audio: {end - start} of the {frame.size} bytes of its first one."
        )


def _length(piece: bytes | tuple[int, int]) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


def _bytes_at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _find(stream: BinaryIO, pattern: bytes, start: int, end: int) -> int | None:
    """Position of the first match of a regular expression of at most 16 bytes, block by block."""
    expression = re.compile(pattern, re.DOTALL)
    for position in range(start, end, BLOCK):
        match = expression.search(_bytes_at(stream, position, min(BLOCK + 15, end - position)))
        if match:
            return position + match.start()
    return None


# Tags ----------------------------------------------------------------------------------------------------------------


def _after_tags(stream: BinaryIO, position: int, end: int) -> int:
    """Position behind the ID3v2, ID3v1, APE and Lyrics3 tags that start at `position`, one after the other."""
    while position < end and (size := _tag_size(_bytes_at(stream, position, 32))):
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
    order: str = "little"
    size_bytes: int = 4
    size_of_header: int = 0
    alignment: int = 2

    def matches(self, head: bytes) -> bool:
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
        head = _bytes_at(stream, position, id_bytes + dialect.size_bytes)
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
    data, fmt, size_64 = None, b"", None
    following = end
    for chunk in _chunks(stream, dialect, start, end):
        if chunk.name == b"fmt " or chunk.name[:4] == b"fmt ":
            fmt = _bytes_at(stream, chunk.start, 16)
        elif chunk.name == b"ds64":
            at = chunk.start + 8
            size_64 = Chunk(b"data", at, 0, int.from_bytes(_bytes_at(stream, at, 8), "little"))
        elif chunk.name == dialect.data and data is None:
            data = chunk
            if _is_open(chunk, size_64, dialect, stream, start, end):
                break
        elif chunk.name == dialect.data:
            raise ValueError(
                f"{name} holds two chunks of audio, at bytes {data.start} and {chunk.start}, where the format allows "
                "one. Write it anew from its source."
            )
        following = chunk.start + max(0, chunk.size) + chunk.size % dialect.alignment
    if data is None:
        raise ValueError(f"{name} holds no audio: it has no `{dialect.data[:4].decode()}` chunk.")
    promised = size_64 if size_64 is not None and data.size >= 0xFFFFFFFF else data
    return _add_data(layout, stream, dialect, (start, following, end), data, promised, fmt, name)


def _is_open(data: Chunk, size_64: Chunk | None, dialect: Dialect, stream: BinaryIO, start: int, end: int) -> bool:
    """Whether the audio reaches to the end of the file because its length was not known when the header was written.

    A size of 0 may also be that of an empty file, whose own size is then right.
    """
    size = size_64.size if size_64 is not None and data.size >= 0xFFFFFFFF else data.size
    if size != 0:
        return _is_streamed(size) or size < 0
    whole = int.from_bytes(_bytes_at(stream, start + 4, 4), dialect.order)
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
    is_open = _is_open(data, promised if promised is not data else None, dialect, stream, start, end)
    size = held if is_open else promised.size
    byte_rate = int.from_bytes(fmt[8:12], dialect.order)
    if size > held:
        _check_slip(layout, size - held, data.start - start, (size, held), byte_rate, name)
        size = held
    if int.from_bytes(fmt[:2], dialect.order) in MPEG_FORMAT_TAGS and dialect.data[:4] == b"data":
        if _add_mpeg(layout, stream, data.start, data.start + size, name):
            return None
    follows = _next_file(stream, dialect, following, end)
    if follows is not None and not layout.parts:
        _note_several(layout, name)
    layout.parts.append(Part(_corrected(stream, dialect, start, follows or end, promised, held, is_open)))
    unaccounted = end - max(following, data.start + size)
    if follows is None and 0 < byte_rate <= 10 * unaccounted and not _is_padding(stream, end - unaccounted, end):
        layout.warnings.append(
            f"{name} holds {unaccounted} bytes after the audio that its header tells of "
            f"({unaccounted / byte_rate:.1f} s if they are audio); they are not read."
        )
    return follows


def _check_slip(layout: Layout, missing: int, header: int, sizes: tuple[int, int], byte_rate: int, name: str) -> None:
    """A header that promises a little too much was written wrong; one that promises more is of a longer file."""
    seconds = missing / byte_rate if byte_rate else 0
    amount = f" ({seconds:.2f} s are missing)" if seconds >= 0.005 else ""
    promise = f"its header promises {sizes[0]} bytes of audio, it holds {sizes[1]}{amount}"
    if missing > HEADER_SLIP and missing not in (header, header - 8):
        raise ValueError(f"{name} is cut short: {promise}. Get the whole file.")
    layout.warnings.append(f"{name}: {promise}; what is there was read.")


def _next_file(stream: BinaryIO, dialect: Dialect, position: int, end: int) -> int | None:
    return position if position < end and dialect.matches(_bytes_at(stream, position, 16)) else None


def _is_padding(stream: BinaryIO, start: int, end: int) -> bool:
    return _find(stream, rb"[^\0]", start, end) is None


def _corrected(
    stream: BinaryIO, dialect: Dialect, start: int, end: int, promised: Chunk, held: int, is_open: bool
) -> View:
    """The file from `start` to `end`, with the size of its audio where that was left open."""
    is_bw64 = dialect.magic == b"BW64"  # what libsndfile knows as RF64
    pieces: list[bytes | tuple[int, int]] = [b"RF64", (start + 4, end)] if is_bw64 else [(start, end)]
    size_bytes = 8 if promised.start == 0 else dialect.size_bytes
    if is_open and held < 1 << (8 * size_bytes):
        size = (held + dialect.size_of_header).to_bytes(size_bytes, dialect.order)
        before = (start + 4 if is_bw64 else start, promised.size_at)
        pieces = [*pieces[:-1], before, size, (promised.size_at + size_bytes, end)]
    return View(stream, *pieces)


def _check_fixed_header(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> None:
    """AU and NIST SPHERE: a header that tells where the audio starts and how long it is.

    Raises:
        ValueError: the file holds less.
    """
    head = _bytes_at(stream, start, 1024)
    if head[:4] in (b".snd", b"dns."):
        order = "big" if head[:4] == b".snd" else "little"
        offset, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        size = 0 if _is_streamed(size) else size
    else:
        offset = int(head[8:16])
        found = {key: re.search(rb"%s -i (\d+)" % key.encode(), head) for key in _SPHERE_FACTORS}
        size = 1
        for match in found.values():
            size *= int(match[1]) if match else 0
        size = size if b"pcm" in head and b"embedded" not in head else 0  # compressed audio is shorter
    held = end - start - offset
    if size > held:
        _check_slip(layout, size - held, offset, (size, held), 0, name)


_SPHERE_FACTORS = ("sample_count", "channel_count", "sample_n_bytes")


# FLAC ----------------------------------------------------------------------------------------------------------------


def _add_flac(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> int | None:
    """Adds a FLAC file; its STREAMINFO block holds rate and number of samples (0: not known)."""
    info = _bytes_at(stream, start + 8, 34)
    packed = int.from_bytes(info[10:18], "big")  # 20 bits of rate, 8 of channels and depth, 36 of samples
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    follows = _find(stream, rb"fLaC[\0\x80]\0\0\x22", start + 4, end)
    seconds = samples / rate if rate and samples else None
    if follows is not None and not layout.parts:
        _note_several(layout, name)
    layout.parts.append(Part(View(stream, (start, follows or end)), seconds))
    return follows


# OGG -----------------------------------------------------------------------------------------------------------------


@dataclass
class Link:
    """One of the streams that are chained in an OGG file: where it starts and what its pages tell."""

    start: int
    serial: bytes
    rate: int  # of granule positions, 0 where the codec is not known
    first: int | None = None
    last: int = 0
    has_content: bool = False
    is_closed: bool = False

    def add(self, page: bytes) -> None:
        """Counts a page (its header of 27 bytes) in."""
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
        """Fewest seconds that it has to yield: those behind its first page of audio."""
        return (self.last - self.first) / self.rate if self.rate and self.first is not None else None


def _add_ogg(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> None:
    """Adds the links of an OGG file, each as a part.

    Raises:
        ValueError: it ends within a page.
    """
    links, position = [], start
    while position is not None and position < end:
        page = _bytes_at(stream, position, 27 + 255)
        if page[:4] != b"OggS":
            position = _find(stream, rb"OggS\0", position + 1, end)
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
        layout.warnings.append(f"{name} has no mark of its end: it is a recording of a stream, or cut short.")


def _granule_rate(packet: bytes) -> int:
    """Rate of granule positions of the codec whose first packet this is, 0 where it is not known."""
    if packet[:7] == b"\x01vorbis":
        return int.from_bytes(packet[12:16], "little")
    if packet[:8] == b"OpusHead":
        return 48_000
    return 0


# MPEG audio ----------------------------------------------------------------------------------------------------------

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version bits
_KILOBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SYNC = rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]"
DECODER_DELAY = 529  # samples that a layer III decoder adds to the encoder's delay
MAX_LEADING_JUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class Frame:
    """Header of an MPEG frame: its bytes, its samples, and what must not change within a stream."""

    size: int
    samples: int
    rate: int
    layer: int
    version: int
    channels: int

    @classmethod
    def parse(cls, head: bytes) -> "Frame | None":
        """Reads the four bytes of a header; None where they are none (free format counts as none)."""
        if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
            return None
        version, layer = (head[1] >> 3) & 3, 4 - ((head[1] >> 1) & 3)
        bit_rate, rate = head[2] >> 4, (head[2] >> 2) & 3
        if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3 or head[3] & 3 == 2:
            return None
        rate = _RATES[version][rate]
        bits = 1000 * _KILOBITS[1 if version == 3 else 2, layer][bit_rate - 1]
        padding = (head[2] >> 1) & 1
        samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
        size = 4 * (12 * bits // rate + padding) if layer == 1 else samples // 8 * bits // rate + padding
        return cls(size, samples, rate, layer, version, 1 if head[3] >> 6 == 3 else 2)

    def continues(self, other: "Frame") -> bool:
        return self.kind == other.kind

    @property
    def kind(self) -> tuple[int, int, int, int]:
        return (self.rate, self.layer, self.version, self.channels)


@dataclass
class Run:
    """Frames of one kind: where they lie and how many they are."""

    first: Frame
    start: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    frames: int = 0

    def add(self, position: int, size: int) -> None:
        if self.pieces and self.pieces[-1][1] == position:
            self.pieces[-1] = (self.pieces[-1][0], position + size)
        else:
            self.pieces.append((position, position + size))
        self.frames += 1


def _add_mpeg(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> bool:
    """Adds an MPEG stream, which may be several that were put together; returns whether this is one.

    Raises:
        ValueError: it holds fewer frames than its header promises.
    """
    position = _next_frame(stream, start, min(end, start + MAX_LEADING_JUNK), end, frames=4)
    runs: list[Run] = []
    junk = 0
    while position is not None and position + 4 <= end:
        frame = Frame.parse(_bytes_at(stream, position, 4))
        is_known = frame is not None and bool(runs) and frame.continues(runs[-1].first)
        if frame is None or not (is_known or _is_followed(stream, position, frame, end)):
            after = _after_tags(stream, position, end)
            found = _next_frame(stream, max(after, position + (after == position)), end, end)
            junk += (end if found is None else found) - after if after < end else 0
            position = found
            continue
        if position + frame.size > end:
            layout.warnings.append(f"{name} ends within a frame: a part of its last {_ms(frame)} ms is missing.")
            break
        if not is_known:
            runs.append(Run(frame, position))
        runs[-1].add(position, frame.size)
        position += frame.size
    if junk and runs:
        layout.warnings.append(f"{name} holds {junk} bytes between or behind its frames that are no audio.")
    if len(runs) > 1:
        _note_several(layout, name)
    layout.parts += [_mpeg_part(stream, run, name, run is runs[0], len(runs) == 1) for run in runs]
    return bool(runs)


def _ms(frame: Frame) -> int:
    return round(1000 * frame.samples / frame.rate)


def _is_followed(stream: BinaryIO, position: int, frame: Frame, end: int, frames: int = 1) -> bool:
    """Whether so many frames of the same kind, or the end of the file, follow: a few bytes alone may be chance."""
    for _ in range(frames):
        position += frame.size
        if position >= end:
            return position == end
        following = Frame.parse(_bytes_at(stream, position, 4))
        if following is None or not following.continues(frame):
            return False
        frame = following
    return True


def _next_frame(stream: BinaryIO, start: int, limit: int, end: int, frames: int = 1) -> int | None:
    """Position of the first frame from `start` to `limit` that so many others follow."""
    while start < limit and (found := _find(stream, SYNC, start, limit)) is not None:
        frame = Frame.parse(_bytes_at(stream, found, 4))
        if frame is not None and _is_followed(stream, found, frame, end, frames):
            return found
        start = found + 1
    return None


def _mpeg_part(stream: BinaryIO, run: Run, name: str, is_first: bool, is_only: bool) -> Part:
    """A stream whose header tells the true number of frames, so that libsndfile reads them all.

    A silent frame follows the header, because a decoder that finds a header drops its own delay, of 529 samples, from
    the start. Layers I and II have no such header; there libsndfile's own count holds.
    """
    frame = run.first
    if frame.layer != 3:
        return Part(View(stream, *run.pieces), run.frames * frame.samples / frame.rate, is_mpeg=True)
    promised, delay, padding = _length_header(_bytes_at(stream, run.start, frame.size), frame)
    pieces, frames = run.pieces, run.frames
    if promised is not None and is_first:  # the first frame holds no audio; behind another stream it is a silence
        pieces, frames = [(run.start + frame.size, pieces[0][1]), *pieces[1:]], frames - 1
    if promised is not None and promised > frames + 1:
        held, whole = (count * frame.samples / frame.rate for count in (frames, promised))
        raise ValueError(
            f"{name} is cut short: its header promises {whole:.2f} s, it holds {held:.2f} s. Get the whole file."
        )
    skip = delay + DECODER_DELAY if delay and is_first else 0
    is_one = is_only and promised is not None and abs(promised - frames) <= 1
    samples = max(0, frames * frame.samples - (delay + padding if is_one and delay else skip))
    header, silence = _made_frames(_bytes_at(stream, run.start, 4), frame, frames + 1)
    skip += frame.samples - DECODER_DELAY
    return Part(View(stream, header + silence, *pieces), samples / frame.rate, skip, samples, is_mpeg=True)


def _side_info(frame: Frame) -> int:
    """Bytes between the header of a layer III frame and its Xing or Info field."""
    return {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[frame.version == 3, frame.channels]


def _length_header(content: bytes, frame: Frame) -> tuple[int | None, int, int]:
    """Number of frames that a Xing, Info or VBRI field promises, with LAME's delay and padding in samples.

    The number is None where the frame has no such field, and 0 where the field leaves it out.
    """
    if content[36:40] == b"VBRI":
        return int.from_bytes(content[50:54], "big"), 0, 0
    at = 4 + _side_info(frame)
    if content[at : at + 4] not in (b"Xing", b"Info"):
        return None, 0, 0
    flags = int.from_bytes(content[at + 4 : at + 8], "big")
    count = int.from_bytes(content[at + 8 : at + 12], "big") if flags & 1 else 0
    lame = at + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    packed = int.from_bytes(content[lame + 21 : lame + 24], "big") if content[lame : lame + 4].isalnum() else 0
    return count, packed >> 12, packed & 0xFFF


def _made_frames(head: bytes, frame: Frame, frames: int) -> tuple[bytes, bytes]:
    """A layer III frame with an Info field that tells the number of frames, and a silent one, at the highest rate."""
    head = bytes([head[0], head[1] | 1, 0xE0 | (head[2] & 0x0C), head[3]])  # without a checksum and padding
    made = Frame.parse(head)
    assert made is not None and made.continues(frame)
    info = head + bytes(_side_info(frame)) + b"Info" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return info.ljust(made.size, b"\0"), head.ljust(made.size, b"\0")

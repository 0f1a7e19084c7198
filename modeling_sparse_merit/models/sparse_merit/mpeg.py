# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""MPEG audio, layers I to III (ISO/IEC 11172-3, 13818-3): frames, and the Xing, Info, LAME and VBRI headers.

libsndfile guesses the length of an MP3 whose first frame does not state it. Here, frames are counted, and a first
frame with their number is put in front of a stream.
"""

from dataclasses import dataclass, field
from typing import BinaryIO

from .views import Layout, Part, View, after_tags, bytes_at, find, note_several

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
        """Whether both frames can belong to one stream."""
        return self.kind == other.kind

    @property
    def kind(self) -> tuple[int, int, int, int]:
        """Rate in Hz, layer, version and channels, which do not change within a stream."""
        return (self.rate, self.layer, self.version, self.channels)


@dataclass
class Run:
    """Frames of one kind: where they lie and how many they are."""

    first: Frame
    start: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    frames: int = 0

    def add(self, position: int, size: int) -> None:
        """Adds a frame.

        Args:
            position: of its first byte in the file.
            size: in bytes.
        """
        if self.pieces and self.pieces[-1][1] == position:
            self.pieces[-1] = (self.pieces[-1][0], position + size)
        else:
            self.pieces.append((position, position + size))
        self.frames += 1


def add_mpeg(layout: Layout, stream: BinaryIO, start: int, end: int, name: str) -> bool:
    """Adds an MPEG stream, which may be a concatenation of several.

    Args:
        layout: where the parts are added.
        stream: a seekable binary file.
        start, end: bytes of the file to search.
        name: name of the file in messages.

    Returns:
        whether the file is an MPEG stream.

    Raises:
        ValueError: it holds fewer frames than its header promises.
    """
    position = _next_frame(stream, start, min(end, start + MAX_LEADING_JUNK), end, frames=4)
    runs: list[Run] = []
    junk = 0
    while position is not None and position + 4 <= end:
        frame = Frame.parse(bytes_at(stream, position, 4))
        is_known = frame is not None and bool(runs) and frame.continues(runs[-1].first)
        if frame is None or not (is_known or _is_followed(stream, position, frame, end)):
            after = after_tags(stream, position, end)
            following = _next_frame(stream, max(after, position + (after == position)), end, end)
            junk += (end if following is None else following) - after if after < end else 0
            position = following
            continue
        if position + frame.size > end:
            layout.warnings.append(f"{name} ends within a frame: part of its last {_ms(frame)} ms is missing.")
            break
        if not is_known:
            runs.append(Run(frame, position))
        runs[-1].add(position, frame.size)
        position += frame.size
    if junk and runs:
        layout.warnings.append(f"{name} has {junk} bytes between or after its frames that are not audio.")
    if len(runs) > 1:
        note_several(layout, name)
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
        following = Frame.parse(bytes_at(stream, position, 4))
        if following is None or not following.continues(frame):
            return False
        frame = following
    return True


def _next_frame(stream: BinaryIO, start: int, limit: int, end: int, frames: int = 1) -> int | None:
    """Position of the first frame from `start` to `limit` that so many others follow."""
    while start < limit and (position := find(stream, SYNC, start, limit)) is not None:
        frame = Frame.parse(bytes_at(stream, position, 4))
        if frame is not None and _is_followed(stream, position, frame, end, frames):
            return position
        start = position + 1
    return None


def _mpeg_part(stream: BinaryIO, run: Run, name: str, is_first: bool, is_only: bool) -> Part:
    """A stream whose header states the true number of frames, so that libsndfile reads all of them.

    A silent frame follows the header, because a decoder that finds a header drops its own delay, of 529 samples, from
    the start. Layers I and II have no such header; there libsndfile's own count holds.
    """
    frame = run.first
    if frame.layer != 3:
        return Part(View(stream, *run.pieces), run.frames * frame.samples / frame.rate, is_mpeg=True)
    promised, delay, padding = _length_header(bytes_at(stream, run.start, frame.size), frame)
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
    header, silence = _made_frames(bytes_at(stream, run.start, 4), frame, frames + 1)
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
    """A layer III frame whose Info field states the number of frames, and a silent one, at the highest rate."""
    head = bytes([head[0], head[1] | 1, 0xE0 | (head[2] & 0x0C), head[3]])  # without a checksum and padding
    made = Frame.parse(head)
    assert made is not None and made.continues(frame)
    info = head + bytes(_side_info(frame)) + b"Info" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return info.ljust(made.size, b"\0"), head.ljust(made.size, b"\0")

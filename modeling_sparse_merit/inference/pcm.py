# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Reads audio from a pipe block by block as it arrives: raw PCM, or a WAV of unknown length."""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.sparse_merit.audio import (
    Channel,
    as_float32,
    as_pcm16,
    check_channel,
    checked_channel,
    checked_rate,
    mix,
)
from ..models.sparse_merit.containers import STREAMED_SIZES

WIDTHS = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
"""Bytes per sample of each encoding, by the names of ffmpeg."""
WAV_ENCODINGS = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le"}
"""Encodings by format tag and bits of a WAV."""
EXTENSIBLE = 0xFFFE  # format tag; the actual one starts the GUID at byte 24
BLOCK_SECONDS = 0.1  # maximum length of one read
SKIPPED_BYTES = 1 << 16  # bytes per read when skipping a chunk without audio
HEAD_BYTES = 12
OTHER_FORMATS = {
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
    b"RF64": "RF64",
    b"RIFX": "RIFX",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"\x1aE\xdf\xa3": "Matroska or WebM",
}
"""First bytes of file formats that must not be read as raw PCM."""


@dataclass(frozen=True)
class PcmFormat:
    """The format of raw audio.

    Args:
        encoding: one of `WIDTHS`.
        sampling_rate: sampling rate in Hz.
        channels: number of channels.
    """

    encoding: str = "s16le"
    sampling_rate: int = 16_000
    channels: int = 1

    @property
    def width(self) -> int:
        """Bytes of one sample of all channels."""
        return WIDTHS[self.encoding] * self.channels


class PcmReader:
    """Reads mono blocks from a pipe as soon as they arrive.

    A stream that starts with a WAV header has the format in the header. Anything else is raw PCM.

    Args:
        read: returns at most the given number of bytes, none at the end; for example `partial(os.read, 0)`.
        name: name of the input in messages.
        given: fields of `PcmFormat` set by the caller; others have their defaults, or come from the header.
        channel: "mix" (the mean of the channels), "left", "right" or a number from 1.

    Raises:
        ValueError: the input is empty, is neither raw PCM nor a WAV, contradicts `given`, or lacks the channel.

    Usage:
        >>> with open("call.raw", "rb") as stream:
        ...     reader = PcmReader(stream.read, "call.raw", {"sampling_rate": 8_000})
        ...     blocks = list(reader)                       # float32 (samples,), full scale +-1
        >>> reader.samples, reader.notes
        (8000, [])
    """

    def __init__(self, read: Callable[[int], bytes], name: str, given: dict[str, Any], channel: Channel = "mix"):
        self._read, self.name = read, name
        chosen = checked_channel(channel)
        if chosen == "each":
            raise ValueError('channel is "each"; expected one channel, or "mix", since a stream is one signal.')
        self._channel = chosen if isinstance(chosen, int) else None  # None: the mean of all
        self.samples = 0
        self.notes: list[str] = []  # sentences about anything unusual; complete at the end
        self._left: int | float = math.inf  # bytes of audio left according to the header
        self._head = self._exactly(HEAD_BYTES)
        if self._head[:4] == b"RIFF" and self._head[8:] == b"WAVE":
            self.format = self._read_header(given)
            self._head = b""
        else:
            self._check_raw()
            self.format = PcmFormat(**given)
        checked_rate(self.format.sampling_rate, name)
        if self._channel is not None:
            check_channel(self._channel, self.format.channels, name)

    def __iter__(self) -> Iterator[np.ndarray]:
        width, waiting = self.format.width, self._head
        most = width * math.ceil(BLOCK_SECONDS * self.format.sampling_rate)
        while True:
            whole = len(waiting) // width * width
            if whole:
                yield self._block(waiting[:whole])
            data = self._read(int(min(most, self._left)))
            waiting = waiting[whole:] + data
            self._left -= len(data)
            if not data:
                break
        self._note_end(len(waiting))

    def _block(self, content: bytes) -> np.ndarray:
        """Whole samples as float32 (samples,)."""
        block = decode_pcm(content, self.format.encoding).reshape(-1, self.format.channels)
        block = mix(block) if self._channel is None else block[:, self._channel - 1]
        if not np.isfinite(block).all():
            seconds = self.samples / self.format.sampling_rate
            raise ValueError(f"{self.name} has NaN or infinite samples after {seconds:.1f} s: check its format.")
        self.samples += len(block)
        return block

    def _note_end(self, rest: int) -> None:
        if rest:
            self.notes.append(
                f"{self.name} ends within a sample; {rest} of its {self.format.width} bytes were dropped."
            )
        if 0 < self._left < math.inf:
            seconds = self._left / self.format.width / self.format.sampling_rate
            self.notes.append(f"{self.name} ends {seconds:.2f} s before the end given in its header.")
        while self._left == 0 and self._read(SKIPPED_BYTES):
            pass  # read chunks after the audio, so that the writing process does not fail

    def _check_raw(self) -> None:
        if not self._head:
            raise ValueError(f"{self.name} is empty: it contains no audio.")
        kind = next((kind for magic, kind in OTHER_FORMATS.items() if self._head.startswith(magic)), None)
        if self._head[4:8] == b"ftyp":
            kind = "MP4 (M4A)"
        if kind is not None:
            raise ValueError(
                f"{self.name} is {kind}, not raw PCM or WAV: decode it first, for example by `ffmpeg -i - -f wav -`."
            )

    def _read_header(self, given: dict[str, Any]) -> PcmFormat:
        """Reads the header of a WAV up to its audio."""
        stated = None
        while (chunk := self._exactly(8))[:4] != b"data":
            if len(chunk) < 8:
                raise ValueError(f"{self.name} is a WAV that ends before its audio.")
            size = int.from_bytes(chunk[4:], "little")
            size += size % 2
            if chunk[:4] == b"fmt ":
                content = self._exactly(min(size, SKIPPED_BYTES))
                stated, size = self._wav_format(content), size - len(content)
            while size > 0 and (skipped := self._exactly(min(size, SKIPPED_BYTES))):
                size -= len(skipped)
        if stated is None:
            raise ValueError(f"{self.name} is a WAV without a format: it has no `fmt ` chunk before its audio.")
        size = int.from_bytes(chunk[4:], "little")
        self._left = math.inf if any(first <= size <= last for first, last in STREAMED_SIZES) else size
        for field, value in given.items():
            if value != getattr(stated, field):
                raise ValueError(
                    f"{self.name} is a WAV with {field.replace('_', ' ')} {getattr(stated, field)}, but {value} was "
                    "given: leave the option out."
                )
        return stated

    def _wav_format(self, content: bytes) -> PcmFormat:
        """The format that a `fmt ` chunk describes."""
        if len(content) < 16:
            raise ValueError(f"{self.name} is a WAV with a `fmt ` chunk of {len(content)} bytes; expected 16 or more.")
        tag, channels, rate, _, width = struct.unpack("<HHIIH", content[:14])
        if tag == EXTENSIBLE:
            tag = int.from_bytes(content[24:26], "little")
        bits = 8 * width // channels if channels else 0
        if (tag, bits) not in WAV_ENCODINGS:
            raise ValueError(
                f"{self.name} is a WAV with format tag {tag}, {channels} channels and {bits} bits; expected PCM of 8, "
                "16, 24 or 32 bits, or 32-bit floats: `ffmpeg -i - -c:a pcm_s16le -f wav -`."
            )
        return PcmFormat(WAV_ENCODINGS[tag, bits], rate, channels)

    def _exactly(self, count: int) -> bytes:
        """Reads exactly `count` bytes, or fewer at the end."""
        content = b""
        while len(content) < count and (part := self._read(count - len(content))):
            content += part
        return content


def decode_pcm(content: bytes, encoding: str) -> np.ndarray:
    """Converts raw PCM to floats.

    Args:
        content: bytes of whole samples.
        encoding: one of `WIDTHS`.

    Returns:
        float32 (samples,), full scale +-1.
    """
    if encoding == "s24le":
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return as_float32(padded.reshape(-1).view("<i4"))
    dtypes = {"u8": "u1", "s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
    return as_float32(np.frombuffer(content, dtypes[encoding]))


def encode_pcm(waveform: np.ndarray, encoding: str) -> bytes:
    """Converts floats to raw PCM; "s16le" is rounded and clipped.

    Args:
        waveform: float (samples,), full scale +-1.
        encoding: "f32le" or "s16le".

    Returns:
        Bytes of the samples.
    """
    return waveform.astype("<f4").tobytes() if encoding == "f32le" else as_pcm16(waveform).astype("<i2").tobytes()

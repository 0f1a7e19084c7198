# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Loads recordings: every form of input is converted to mono float32 at the requested rate. If this is impossible, an
error says what is wrong and how to fix it.
"""

import io
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .decoding import decode, require_codecs, soundfile, soxr

MAX_CHANNELS = 32  # of an array, whose axes are not named
SAMPLING_RATE = 16_000  # Hz, of the models
RATES = (1_000, 1_000_000)  # Hz; a few samples at 1 Hz would be hours
CHANNELS = ("mix", "left", "right", "each")
CANCELLATION = 0.1  # mixing keeps less than this share of the power that independent channels would keep
FULL_SCALE = 0.999
LOUDEST = 1e12  # whose square and sums are far from the largest float32
MIN_MILLISECONDS = 25
WRITE_BLOCK = 1 << 16  # libsndfile crashes on Vorbis files that are written in one large piece

Channel = str | int
"""A choice of channels: "mix" (their mean), "left" (the first), "right" (the second), a number from 1, or "each"."""


@dataclass(frozen=True)
class Track:
    """One channel of a recording, or the mean of several.

    Args:
        waveform: float32 (samples,), full scale +-1.
        channel: "mix", or the number of the channel, from 1.
        clipped_ratio: share of samples at full scale (|x| >= 0.999) in the channels that it was made of.
    """

    waveform: np.ndarray
    channel: Channel
    clipped_ratio: float

    @property
    def power(self) -> float:
        """Mean square, in float64."""
        return float(np.mean(np.square(self.waveform, dtype=np.float64)))


@dataclass(frozen=True)
class Audio:
    """A decoded recording.

    Args:
        samples: float32 (samples,) or (samples, channels), full scale +-1, finite, not empty.
        sampling_rate: in Hz.
        name: name of the recording in messages.
        warnings: sentences about anything unusual in the recording.
    """

    samples: np.ndarray
    sampling_rate: int
    name: str
    warnings: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.samples.ndim == 1 else self.samples.shape[1]

    def tracks(self, channel: Channel = "mix") -> list[Track]:
        """The tracks for a choice of channels: a single track, or one track per channel for "each".

        Channels that cancel each other when mixed (opposite polarity, as from a wrongly wired line) are not mixed:
        the loudest one is used, and `warnings` says so.

        Raises:
            ValueError: an unknown choice, or a channel that the recording does not have.
        """
        if channel == "each":
            return [self._track(number) for number in range(1, self.channels + 1)]
        if channel != "mix":
            return [self._track(channel_number(channel))]
        if self.channels == 1:
            return [self._track(1)]
        mixed = mix(self.samples)
        powers = np.mean(np.square(self.samples, dtype=np.float64), axis=0)  # (channels,)
        loudest, warning = instead_of_mix(powers, np.mean(np.square(mixed, dtype=np.float64)), self.name)
        if loudest is not None:
            self.warnings.append(warning)
            return [self._track(loudest)]
        return [Track(mixed, "mix", _clipped_ratio(self.samples))]

    def _track(self, number: int) -> Track:
        check_channel(number, self.channels, self.name)
        waveform = self.samples if self.samples.ndim == 1 else np.ascontiguousarray(self.samples[:, number - 1])
        return Track(waveform, number, _clipped_ratio(waveform))


def load_audio(
    recording: Any,
    sampling_rate: int | None = None,
    target_sampling_rate: int = SAMPLING_RATE,
    channel: Channel = "mix",
) -> np.ndarray:
    """Reads a recording, whatever its form, as mono float32 (samples,) at `target_sampling_rate` Hz, full scale +-1.

    Files are decoded completely: WAV, FLAC, OGG, MP3, AIFF and the other formats of libsndfile; M4A, WebM, WMA and
    others with ffmpeg, where it is installed. Irregularities of a file that lose no speech are reported as warnings.

    Args:
        recording: a path; the bytes of a file; an open binary file; an array or tensor, (samples,) or with channels on
            either axis; {"array", "sampling_rate"} or {"raw", "sampling_rate"}; {"bytes", "path"} (bytes first); or a
            torchcodec decoder as `datasets` returns it. Integers are scaled by the range of their type.
        sampling_rate: rate of a bare array in Hz. All other forms contain their rate.
        target_sampling_rate: rate of the result in Hz.
        channel: "mix" (mean of the channels), "left", "right", a number from 1, or "each", which gives an array
            (channels, samples).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the recording is empty, cut short, undecodable, not finite, of an unknown form, without a rate, at
            a rate below 1 kHz or above 1 MHz, or does not have the channel.
    """
    waveform, rate = read_audio(recording, sampling_rate, channel)
    if waveform.ndim == 1:
        return resample(waveform, rate, target_sampling_rate)
    return np.stack([resample(track, rate, target_sampling_rate) for track in waveform])  # (channels, samples)


def read_audio(recording: Any, sampling_rate: int | None = None, channel: Channel = "mix") -> tuple[np.ndarray, int]:
    """Reads a recording at its own sampling rate.

    Args:
        recording, sampling_rate, channel: as for `load_audio`.

    Returns:
        mono float32 (samples,), or (channels, samples) for the channel "each"; and the rate in Hz.

    Raises:
        FileNotFoundError, ValueError: as for `load_audio`.
    """
    audio = decode_audio(recording, sampling_rate)
    tracks = audio.tracks(channel)
    for warning in audio.warnings:
        warnings.warn(warning, stacklevel=2)
    if channel == "each":
        return np.stack([track.waveform for track in tracks]), audio.sampling_rate
    return tracks[0].waveform, audio.sampling_rate


def decode_audio(recording: Any, sampling_rate: int | None = None) -> Audio:
    """Decodes a recording with all its channels at its own sampling rate.

    Args:
        recording, sampling_rate: as for `load_audio`.

    Raises:
        FileNotFoundError, ValueError: as for `load_audio`.
    """
    audio = _audio_of(recording, sampling_rate, name_of(recording))
    name, rate = audio.name, audio.sampling_rate
    if sampling_rate is not None and rate != sampling_rate:
        raise ValueError(
            f"{name} is at {rate} Hz, but `sampling_rate` is {sampling_rate}. Leave out `sampling_rate`, which is for "
            "bare arrays."
        )
    check_samples(audio.samples, name)
    return Audio(audio.samples, checked_rate(rate, name), name, audio.warnings)


def mix(samples: np.ndarray) -> np.ndarray:
    """Mean of the channels: (samples, channels) to (samples,)."""
    return sum(samples.T) / samples.shape[1]  # several times faster than a mean over the short axis


def instead_of_mix(powers: np.ndarray, mixed: float, name: str) -> tuple[int | None, str]:
    """The loudest channel, from 1, and a warning, if channels cancel each other when they are mixed; otherwise None.

    Args:
        powers: mean squares, or sums of squares, of the channels (channels,).
        mixed: the same for the mean of the channels.
        name: name of the recording in the warning.
    """
    if not mixed < CANCELLATION * powers.mean() / len(powers):
        return None, ""
    loudest = int(powers.argmax()) + 1
    return loudest, (
        f"The channels of {name} cancel each other when they are mixed, so channel {loudest}, the loudest, was used. "
        'Choose others with `channel` ("left", "right", a number, "each").'
    )


def level_dbfs(power: float) -> float | None:
    """A mean square in dB relative to full scale 1; None for digital silence."""
    return 10 * float(np.log10(power)) if power else None


def clipped_samples(samples: np.ndarray) -> int:
    """How many samples, of any shape, are at full scale (|x| >= 0.999)."""
    return int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))


def check_samples(samples: np.ndarray, name: str) -> None:
    """Checks that a recording has samples, and that all of them are finite.

    Args:
        samples: of any shape.
        name: name of the recording in messages.

    Raises:
        ValueError: there are no samples, or some are NaN, infinite or above `LOUDEST`.
    """
    if samples.size == 0:
        raise ValueError(f"{name} is empty: it holds no samples.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples. Repair it, for example with `numpy.nan_to_num`.")
    if (peak := max(float(samples.max()), -float(samples.min()))) > LOUDEST:
        raise ValueError(
            f"{name} reaches {peak:.3g}; expected samples of at most {LOUDEST:g}, with full scale at 1. Damaged files "
            "of floats hold such numbers."
        )


def check_channel(number: int, channels: int, name: str) -> None:
    """Checks that a recording has a channel.

    Args:
        number: of the channel, from 1.
        channels: how many the recording has.
        name: name of the recording in messages.

    Raises:
        ValueError: `number` exceeds `channels`.
    """
    if number > channels:
        has = "1 channel" if channels == 1 else f"{channels} channels"
        raise ValueError(f"{name} has {has}; there is no channel {number}.")


def channel_number(channel: Channel) -> int:
    """The number of a channel, from 1, for "left", "right" or a number, which may be text.

    Raises:
        ValueError: it is none of these.
    """
    text = str(channel)
    number = {"left": 1, "right": 2}.get(text, int(text) if text.isdecimal() else 0)
    if number < 1 or isinstance(channel, bool):
        raise ValueError(f"channel is {channel!r}; expected one of {', '.join(CHANNELS)}, or a number from 1.")
    return number


def checked_channel(channel: Channel) -> Channel:
    """A valid choice of channels: "mix", "each" or the number of a channel.

    Raises:
        ValueError: as `channel_number`.
    """
    return channel if channel in ("mix", "each") else channel_number(channel)


def check_duration(waveform: np.ndarray, sampling_rate: int, name: str) -> None:
    """Checks that a waveform is not shorter than one frame of the model, 25 ms.

    Args:
        waveform: (samples,).
        sampling_rate: in Hz.
        name: name of the recording in messages.

    Raises:
        ValueError: the waveform is too short.
    """
    check_length(len(waveform), sampling_rate, name)


def check_length(samples: int, sampling_rate: int, name: str) -> None:
    """Checks that a recording is not shorter than one frame of the model, 25 ms.

    Args:
        samples: number of samples per channel.
        sampling_rate: in Hz.
        name: name of the recording in messages.

    Raises:
        ValueError: the recording is too short.
    """
    milliseconds = 1000 * samples / sampling_rate
    if milliseconds < MIN_MILLISECONDS:
        raise ValueError(
            f"{name} lasts {milliseconds:.3g} ms ({samples} samples at {sampling_rate} Hz); the model needs at least "
            f"{MIN_MILLISECONDS} ms, one frame."
        )


def checked_rate(rate: Any, name: str) -> int:
    """A valid sampling rate in Hz.

    Args:
        rate: any value.
        name: name of the recording in messages.

    Raises:
        ValueError: the rate is not a whole number from 1 kHz to 1 MHz.
    """
    lowest, highest = RATES
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not lowest <= rate <= highest or rate != int(rate):
        raise ValueError(
            f"{name} has a sampling rate of {rate!r}; expected a whole number of Hz from {lowest} to {highest}."
        )
    return int(rate)


def resample(waveform: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resamples a waveform with soxr's highest quality.

    Args:
        waveform: float32 (samples,).
        source_rate: its rate in Hz.
        target_rate: rate of the result in Hz.

    Raises:
        ValueError: a rate is invalid, or nothing is left of a very short waveform.
        ImportError: soxr is not installed.
    """
    source_rate, target_rate = checked_rate(source_rate, "The source"), checked_rate(target_rate, "The target")
    if source_rate == target_rate:
        return waveform
    require_codecs()
    resampled = soxr.resample(waveform, source_rate, target_rate, quality="VHQ")
    if len(resampled) == 0:
        raise ValueError(f"{len(waveform)} samples at {source_rate} Hz are less than one sample at {target_rate} Hz.")
    return resampled


def write_audio(path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int) -> None:
    """Writes a mono waveform to a file.

    WAV and FLAC files have 16 bits per sample. A WAV file whose samples exceed full scale (+-1) is written in 32-bit
    float instead, so nothing is clipped.
    The write is atomic: the file is written under another name in the same folder, then renamed.

    Args:
        path: file to write; its suffix selects the format (.wav, .flac, .ogg, .mp3).
        waveform: (samples,), full scale +-1, or integers in the full scale of their type.
        sampling_rate: in Hz.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the suffix is unknown, the waveform is empty or not finite, or it exceeds full scale in a format
            that would clip it (FLAC).
    """
    require_codecs()
    path = Path(path)
    waveform, rate = read_audio(np.asarray(waveform), sampling_rate)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {path.parent} does not exist. Create it first.")
    encoding = encoding_of(path, float(np.abs(waveform).max()))
    blocks = (waveform[start : start + WRITE_BLOCK] for start in range(0, len(waveform), WRITE_BLOCK))
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        write_blocks(partial, blocks, rate, encoding)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encoding_of(path: Path, peak: float) -> tuple[str, str]:
    """libsndfile's names of the format and subtype in which `write_audio` writes a file.

    Args:
        path: of the file; its suffix selects the format.
        peak: largest absolute value of the samples, full scale 1.

    Raises:
        ValueError: the suffix is unknown, or the samples exceed full scale in a format that would clip them (FLAC).
    """
    require_codecs()
    file_format = path.suffix[1:].upper()
    if file_format in ("OGG", "MP3"):
        return file_format, soundfile.default_subtype(file_format)
    if file_format not in ("WAV", "FLAC"):
        raise ValueError(f"Cannot write {path}: its suffix must be .wav, .flac, .ogg or .mp3.")
    if peak <= 1:
        return file_format, "PCM_16"
    if file_format == "FLAC":
        raise ValueError(
            f"Cannot write {path}: the samples exceed full scale (+-1), and FLAC would clip them. Write a .wav file, "
            "or scale the samples down."
        )
    return file_format, "FLOAT"


def write_blocks(path: Path, blocks: Iterable[np.ndarray], sampling_rate: int, encoding: tuple[str, str]) -> None:
    """Writes a file block by block. If an error is raised, the incomplete file remains.

    Args:
        path: of the file, which is created or replaced; its suffix does not matter.
        blocks: float32 (samples,), mono, of at most `WRITE_BLOCK` samples.
        sampling_rate: in Hz.
        encoding: format and subtype, from `encoding_of`. Samples are rounded to 16 bits here, so that reading the file
            returns the same values.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """
    file_format, subtype = encoding
    with path.open("wb", WRITE_BLOCK) as raw, _Sink(raw) as sink:
        with soundfile.SoundFile(sink, "w", sampling_rate, 1, subtype, format=file_format) as file:
            for block in blocks:
                file.write(as_pcm16(block) if subtype == "PCM_16" else block)
                sink.check()


class _Sink:
    """A file for libsndfile to write to: its callbacks cannot raise, so an OSError is kept and raised by `check`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._error: OSError | None = None
        self.tell = file.tell

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, content: bytes) -> int:
        return self._kept(self._file.write, content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._kept(self._file.seek, offset, whence)

    def _kept(self, call: Callable[..., int], *arguments: Any) -> int:
        try:
            return call(*arguments)
        except OSError as error:
            self._error = self._error or error
            return 0


def as_float32(samples: Any, name: str = "The recording") -> np.ndarray:
    """Converts samples to float32 of the same shape.

    Args:
        samples: array, tensor or list of numbers. Integers are scaled to [-1, 1) by the range of their type.
        name: name of the recording in messages.

    Raises:
        ValueError: the samples are booleans, text, complex numbers, ragged lists, or 64-bit integers, whose full scale
            is ambiguous.
    """
    if hasattr(samples, "detach"):  # a tensor; numpy knows no bfloat16
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise ValueError(f"{name} is not one array: {error}") from error
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f" or samples.size == 0:
        return samples.astype(np.float32, copy=False)
    if kind not in "iu" or bits > 32:
        raise ValueError(
            f"{name} has samples of type {samples.dtype}; expected floats in [-1, 1], or integers of 8 to 32 bits, "
            "whose type defines full scale. Convert them first, for example `array.astype(numpy.int16)`."
        )
    half = 2.0 ** (bits - 1)
    return ((samples - (half if kind == "u" else 0.0)) / half).astype(np.float32)


def as_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Float samples of any shape, full scale +-1, rounded to int16."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


def name_of(recording: Any) -> str:
    """The name of a recording in messages: its path, if it has one."""
    if isinstance(recording, str | os.PathLike):
        return str(recording)
    if isinstance(recording, dict):
        return str(recording.get("path") or "The recording")
    return str(getattr(recording, "name", None) or "The recording")


def open_recording(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is a folder or a URL.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", str(path)):
        raise ValueError(f"{path} is a URL, which is not downloaded here. Download it and pass the path of the file.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path}.")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder. Pass its files one by one.")
    return open(path, "rb")


def _audio_of(recording: Any, sampling_rate: int | None, name: str) -> Audio:
    """Samples as they come and their rate, by the form of the recording."""
    if isinstance(recording, str | os.PathLike):
        return _from_path(recording)
    if isinstance(recording, bytes | bytearray | memoryview):
        return _from_stream(io.BytesIO(recording), name)
    if isinstance(recording, dict):
        return _from_dict(recording, sampling_rate, name)
    if hasattr(recording, "get_all_samples"):  # torchcodec's AudioDecoder
        decoded = recording.get_all_samples()
        return _from_array(decoded.data, decoded.sample_rate, name)
    if hasattr(recording, "read"):
        return _from_stream(recording, name)
    if not (isinstance(recording, list | tuple) or hasattr(recording, "__array__")):
        raise ValueError(
            f"Cannot read a recording from {type(recording).__name__}; pass a path, bytes, an array or a dict."
        )
    if sampling_rate is None:
        raise ValueError(f"{name} is a bare array: pass its rate in Hz, `sampling_rate=...`.")
    return _from_array(recording, sampling_rate, name)


def _from_dict(recording: dict, sampling_rate: int | None, name: str) -> Audio:
    for key in ("array", "raw"):
        if recording.get(key) is not None:
            rate = recording.get("sampling_rate") or sampling_rate
            return _audio_of(recording[key], rate, name)
    if recording.get("bytes") is not None:
        return _from_stream(io.BytesIO(recording["bytes"]), name)
    if recording.get("path") is not None:
        return _from_path(recording["path"])
    raise ValueError(
        f"A dict must hold `array` (or `raw`) and `sampling_rate`, or `bytes`, or `path`; got {sorted(recording)}."
    )


def _from_path(path: str | os.PathLike) -> Audio:
    with open_recording(path) as stream:
        return _from_stream(stream, str(path))


def _from_stream(stream: Any, name: str) -> Audio:
    decoded = decode(stream, name)
    return Audio(decoded.samples, decoded.sampling_rate, name, decoded.warnings)


def _from_array(samples: Any, sampling_rate: int, name: str) -> Audio:
    """An array (samples,), (channels, samples) or (samples, channels)."""
    samples = as_float32(samples, name)
    if samples.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {samples.shape}; expected (samples,), or channels and samples.")
    if samples.ndim == 1 or 1 in samples.shape or samples.size == 0:
        return Audio(samples.reshape(-1), sampling_rate, name)  # (samples,)
    fewer, more = sorted(samples.shape)
    if fewer > MAX_CHANNELS or more <= MAX_CHANNELS:
        raise ValueError(
            f"{name} has shape {samples.shape}, and which axis holds the channels (at most {MAX_CHANNELS}) is not "
            "clear. Average the channels first, `array.mean(axis=...)`."
        )
    return Audio(samples.T if samples.shape[0] == fewer else samples, sampling_rate, name)  # (samples, channels)


def _clipped_ratio(samples: np.ndarray) -> float:
    return clipped_samples(samples) / samples.size
